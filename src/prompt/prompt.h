/* Prompt methods: text in, shorter text out. A setting with such a method runs the plain cache on the shorter
 * prompt; its parameters are the table of the KV method of the same name (kv/methods.def). */
#ifndef KVS_PROMPT_PROMPT_H
#define KVS_PROMPT_PROMPT_H

#include "base/poll.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

/* A prompt: before ++ context ++ after. UTF-8, borrowed. Only the context is rewritten. */
struct prompt_parts {
    const char *before, *context, *after;
};

/* The files a method reads, as its parameters name them (paths, or ids of model files that the caller
 * resolves), or as paths. NULL: none. */
struct prompt_files {
    const char *encoder, *ranks;
};

struct prompt_options {
    const char *device, *isa; /* as struct ops_options; NULL: auto */
    int threads;              /* 0: all */
    bool share;               /* weights once per node */
    int gpu;                  /* CUDA: as struct ops_options' device */
    struct poll poll; /* called between batches of the encoder and while files are read; may give up */
};

struct prompt_compressor;

struct prompt_method {
    const char *name;
    struct prompt_files (*files)(const void *params);
    /* Appends what the files hold to a text that tells two results apart ("encoder HASH, ranks HASH"). Reads
     * headers only; ERR_INPUT for an encoder of the wrong kind. */
    int (*identify)(const struct prompt_files *paths, struct str *text);
    /* Loads the files once for all parameters. Its memory is its own: no sequence's ledger counts it. */
    int (*open)(struct prompt_compressor **c, const struct prompt_files *paths,
                const struct prompt_options *opt);
    /* *context is the rewritten context, owned. */
    int (*rewrite)(struct prompt_compressor *c, const void *params, const struct prompt_parts *in,
                   char **context);
    void (*counts)(const struct prompt_compressor *c, int64_t *texts,
                   int64_t *rows);              /* of the encoder, so far */
    void (*close)(struct prompt_compressor *c); /* accepts NULL */
};
const struct prompt_method *prompt_method_find(const char *name); /* NULL: that method leaves prompts alone */

#endif
