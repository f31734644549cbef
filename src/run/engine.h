/* Prompt passes and batched greedy (or forced) decode over sequences of any method. Internal to src/run. */
#ifndef KVS_RUN_ENGINE_H
#define KVS_RUN_ENGINE_H

#include "run/penalty.h"
#include "run/run.h"

/* What the model said at one position, on the host. */
struct said {
    int32_t best;
    bool finite;
    float logsumexp;
    int32_t *top_id;  /* [n_top] */
    float *top_logit; /* [n_top] */
};

/* One sequence on its way to an answer. */
struct slot {
    struct seq seq;
    const struct prompt *prompt;
    const int32_t *force; /* tokens to take instead of the model's own choice, or NULL */
    int n_force;
    struct penalty penalty; /* of its own choices; free of a rule: none */
    int max_new;
    bool open, done;
    int status, stop; /* enum record_status, enum record_stop */
    int32_t *token;   /* [max_new] */
    int n_new;
    int n_top, n_first; /* K kept per token; rows of full logits kept */
    int32_t *topk_id;
    uint16_t *topk_logit, *first;
    float *logsumexp;
    void *user; /* for the observer */
};

struct engine {
    struct ops *ops;
    struct model *model;
    const struct tok *tok; /* NULL: ids only */
    int n_top;             /* K to keep of every token */
    int first_rows;        /* full logits to keep: 0, 1, or INT32_MAX for all */
    int64_t chunk;         /* rows of a prefill chunk, the backend's wish; chunks are cut at its multiples */
    struct poll poll;
    /* Sees every row of logits (f32 device row of n_vocab) before a token is chosen. May be NULL. */
    void (*observe)(void *ctx, struct slot *l, struct tensor row);
    void *observe_ctx;
    int64_t passes, prompt_tokens; /* counts */
    int64_t n_vocab;
};

/* Feeds a prompt; *logits is its last row. `last_alone`: the last token goes by itself. */
int engine_prefill(struct engine *e, struct seq *s, const int32_t *ids, int64_t n, bool last_alone,
                   struct tensor *logits);
/* The plain pass of a prompt, frozen, and its last row of logits; `full` is the plain method. `watch`: what
 * sequences that will start from it want noted of its keys (kv_wants). */
int engine_plain(struct engine *e, const struct kv_spec *full, const struct seq_shape *shape,
                 const int32_t *ids, int64_t n, unsigned watch, struct seq_prompt *out,
                 struct tensor *logits);
/* Where the prefill chunk of s that begins at `at` ends: at a multiple of the chunk, or before a last token
 * that goes alone; at the end where a prompt is one pass. */
int64_t engine_chunk_end(const struct engine *e, const struct seq *s, int64_t at, int64_t n, bool last_alone);
/* Chooses the next token of each of n slots from the same row of logits (slots that share a prompt pass), or
 * row i for slot i when logits has n rows. */
int engine_choose(struct engine *e, struct slot *const *slot, int n, struct tensor logits);
/* Decodes until every slot is done. The batch shrinks as slots finish. */
int engine_decode(struct engine *e, struct slot *slot, int n);

void slot_init(struct slot *l, const struct engine *e, const struct prompt *p, int max_new);
void slot_free(struct slot *l);

#endif
