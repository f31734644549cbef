/* The files behind a prompt method: ids of model files resolved to paths, kinds checked, contents named. */
#ifndef KVS_SWEEP_PLAN_PROMPT_H
#define KVS_SWEEP_PLAN_PROMPT_H

#include "prompt/prompt.h"
#include "sweep/config.h"

struct plan_prompt {
    char *encoder, *ranks;     /* paths, owned; ranks NULL: none */
    struct prompt_files files; /* the same, borrowed */
    char
        *params; /* of the method, without paths: "rate=4,force=…;encoder HASH tokenizer HASH ranks HASH". Two
                    compressed prompts are comparable where it is equal: what unit ids and /settings hold */
    char *notice; /* what to tell people about it; NULL: nothing */
    bool absent;  /* plan_sketch: the encoder is not there */
};
/* For a method that has no prompt side, *out stays NULL. ERR_INPUT: a missing file, an encoder of the wrong
 * kind; no weights are read. `sketch`: a missing encoder will do. A ranks file that only its model file names
 * may be missing: the method then counts its own tokens, which `notice` and "ranks none" say. */
int plan_prompt_open(struct plan_prompt **out, const struct config *c, const struct kv_spec *spec,
                     bool sketch);
void plan_prompt_close(struct plan_prompt *p); /* accepts NULL */

#endif
