/* Parameters of LLMLingua-2: one table for the setting (here) and for what is done to the prompt
 * (src/prompt). */
#ifndef KVS_KV_LLMLINGUA2_H
#define KVS_KV_LLMLINGUA2_H

#include <stdint.h>

struct llmlingua2_params {
    double rate;    /* 1/rate of the context's tokens is kept */
    char *encoder;  /* folder, or id of a model file */
    char *ranks;    /* *.tiktoken file, or id of a model file; empty: the encoder's own token counts */
    int64_t digits; /* 1: pieces with a digit are always kept */
    int64_t drop;   /* 1: a forced token is dropped when nothing is kept between it and the same one before */
    char *force;    /* tokens that are always kept, separated by blanks; newline, comma: these characters */
};

#endif
