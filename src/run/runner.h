/* Inside of a runner. Internal to src/run. */
#ifndef KVS_RUN_RUNNER_H
#define KVS_RUN_RUNNER_H

#include "run/engine.h"
#include "run/limits.h"

struct runner {
    struct run_options opt;
    struct ops *ops;
    struct kv_spec full; /* the plain prompt pass */
    struct run_model m;  /* the loaded model; path NULL: none */
    char *loaded;        /* "path dtype", owned */
    struct model *model;
    struct tok *tok;
    struct engine engine;
    struct prompt_compressor *compressor; /* of the last prompt method asked for; NULL: none yet */
    const struct prompt_method *prompt;
    char *prompt_paths;       /* it was opened with, owned */
    struct run_limits limits; /* of the loaded model */
    bool limits_known;
    bool crowded;              /* told that a bundle did not fit as a whole */
    double s_passes, s_decode; /* spent by bundles in prompt passes (with forks) and in decoding */
};

/* What the unit's prompt method does to prompts: its files are opened once and kept while others use the
 * same. */
int runner_rewriter(struct runner *r, const struct run_unit *u, struct rewriter *rw);
/* Closes the files of a prompt method that this unit does not need: an encoder takes device memory. */
void runner_spare(struct runner *r, const struct run_unit *u);

#endif
