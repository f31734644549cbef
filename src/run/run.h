/* Running units: one loaded model, its tokenizer, the prompt policy, prefill, fork and batched decode. Knows
 * no MPI and no HDF5. */
#ifndef KVS_RUN_RUN_H
#define KVS_RUN_RUN_H

#include "kernels/ops.h"
#include "kv/kv.h"
#include "model/model.h"
#include "prompt/prompt.h"
#include "run/record.h"
#include "task/task.h"
#include "tok/tok.h"

enum run_mode { MODE_FAIR, MODE_PAPER };

/* One model of a configuration, resolved. Borrowed by the runner while it is loaded. */
struct run_model {
    const char *id, *path, *template; /* template: name of a chat template, or "none" */
    int64_t max_len; /* prompts are cut to this many tokens in the middle (paper: model_max_len); 0: the
                        model's own length less the answer */
    enum dtype dtype, cache_dtype;
    const char *tokenizer; /* a folder that the tokenizer is in; NULL: the model's own files have it */
    bool never_stops; /* paper: no token ends an answer, all of max_new are made, as the loops of mamba-ssm
                         and of the package rwkv do */
    bool ids_only;    /* no text goes in or comes out: the tokenizer is not opened */
};

/* One unit to compute. */
struct run_unit {
    int32_t setting, task, example; /* row numbers for the record */
    uint64_t hi, lo;                /* unit id */
    const struct kv_spec *spec;
    const struct prompt_files
        *files; /* paths behind a prompt method; NULL: the method leaves prompts alone */
    struct model_overrides over;
    bool fidelity; /* compare it with the full cache along the full cache's answer */
};

struct run_options {
    const char *device; /* auto, cpu, ref, cuda */
    const char *isa;    /* auto, avx512, avx2, portable */
    int threads;        /* 0: all */
    int gpu; /* CUDA: ordinal among the visible GPUs, counted around; a node's ranks take one each */
    enum run_mode mode;
    int logits_first; /* 0 none, 1 first, 2 full */
    int topk;         /* K logits kept of every generated token */
    bool share;       /* weights once per node */
    bool wait;        /* CUDA: after every kernel, so that an error names its own (slow) */
    /* Called between decode steps and prefill chunks, and while files are read; may serve other ranks.
     * Nonzero: give up this bundle (ERR_INTERNAL "stopped"). */
    struct poll poll;
};

struct runner;
int runner_open(struct runner **r, const struct run_options *opt);
void runner_close(struct runner *r);
struct ops *runner_ops(struct runner *r);
/* Loads a model, giving back the one before; the same model again costs nothing. */
int runner_load(struct runner *r, const struct run_model *m);
/* The same together with the other ranks of a group (comm.h): one reads the weights. All of them call this.
 */
int runner_load_together(struct runner *r, const struct run_model *m, struct comm *c);
struct model *runner_model(struct runner *r);
const struct tok *runner_tok(struct runner *r); /* NULL for ids_only */

/* Computes a bundle: units of one task on the loaded model, in the given order. One prompt pass per (example,
 * overrides, prefill key), then one batched greedy decode of all; units that get no memory beside the others
 * are computed again alone. Per-unit troubles (out of memory, NaN, too long) become records with a status; a
 * negative return, whose text names settings and examples, means that nothing of the bundle counts. out: [n]
 * records, owned by the caller (record_free). */
int runner_bundle(struct runner *r, const struct task *task, const struct run_unit *u, int n,
                  struct record *out);
/* How many prompt passes and prompt tokens runner_bundle has computed since the runner was opened. */
void runner_counts(const struct runner *r, int64_t *passes, int64_t *tokens);
/* Seconds that runner_bundle has spent in prompt passes (with the forks from them) and in decoding, likewise.
 */
void runner_seconds(const struct runner *r, double *passes, double *decode);

/* The same unit alone, nothing shared: seconds of its prompt pass and of its decode. */
struct run_timing {
    int32_t n_prompt, n_new;
    double s_prefill, s_decode;
    double s_prefill_limit,
        s_decode_limit; /* least seconds by the measured limits (limits.h); 0: not measured */
    uint64_t peak_bytes;
};
int runner_timing(struct runner *r, const struct task *task, const struct run_unit *u, struct run_timing *t);

enum { POLICY_STOPS = 64 }; /* most ids that end an answer */
/* Prompt policy (policy.c): what is sent for an example. */
struct prompt {
    char *text;   /* after truncation and template, as it is tokenised; owned */
    int32_t *ids; /* owned; NULL without a tokenizer */
    int64_t n_ids;
    int64_t n_uncut; /* n_ids before anything was cut out of the middle */
    int64_t n_plain; /* n_uncut without the prompt method; 0: there was none */
    bool truncated;
    uint64_t hash;              /* XXH3-64 of the int32 ids */
    int32_t stop[POLICY_STOPS]; /* ids that end the answer */
    int n_stop;
    int32_t newline;     /* id that ends the answer like a stop (samsum), or -1 */
    bool min_one;        /* stop ids and newline are forbidden as the first token */
    bool keep_special;   /* special tokens stay in the decoded answer */
    bool keep_newline;   /* the newline that ended the answer stays in its text (paper: pipelines built on
                            generate) */
    bool cut_at_newline; /* the answer is cut at its first newline and stripped (paper: samsum with
                            StreamingLLM and InfLLM) */
};
/* What a prompt method does to a prompt before it is tokenised. method NULL: nothing. */
struct rewriter {
    const struct prompt_method *method;
    struct prompt_compressor *compressor;
    const void *params;
};
/* tok may be NULL: then only text is made, without truncation. rw may be NULL. */
int policy_prompt(enum run_mode mode, const char *method, const struct rewriter *rw,
                  const struct run_model *m, const struct model_config *cfg, const struct tok *tok,
                  const struct task_traits *traits, const struct example *ex, struct prompt *p);
void prompt_free(struct prompt *p);
/* Fair mode: ERR_INPUT, with the figures, where max_len - max_new holds fewer tokens than the template, the
 * text around the context and 64 tokens of the context (all of it, if it has fewer): the cut in the middle
 * would take more than context. policy_prompt refuses likewise. The second needs no tokenizer: true only if
 * the first surely passes. */
int policy_room(const struct run_model *m, const struct model_config *cfg, const struct tok *tok,
                const struct task_traits *traits, const struct example *ex);
bool policy_surely_fits(const struct run_model *m, const struct model_config *cfg,
                        const struct task_traits *traits, const struct example *ex);
/* The ids that end an answer in fair mode, whatever the task; those of paper mode are among them. Returns the
 * count: 0 means that every answer runs to its full length. */
int policy_stop_ids(const struct chat_template *tpl, const struct tok *tok, int32_t stop[POLICY_STOPS]);

/* Tokenizer of a model path: a folder with tokenizer.json, or the tables inside a GGUF file; where `folder`
 * is given, what that holds. The ids that end an answer are the model's own either way. */
int run_tok_open(struct tok **t, const char *model_path, const char *folder);
struct token_counter run_token_counter(const struct tok *t); /* for task_open; without special tokens */

#endif
