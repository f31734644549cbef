/* Tasks: where examples come from and how answers are scored (spec: LongBench and the passkey needle of arXiv
 * 2407.01527). */
#ifndef KVS_TASK_TASK_H
#define KVS_TASK_TASK_H

#include "base/param.h"

#include <stdbool.h>
#include <stdint.h>

/* One item. All pointers are owned by the task and stay valid until task_close. Text is UTF-8. */
struct example {
    const char *id;     /* LongBench `_id`, or "len=1024,depth=0.25,it=0" style for the needle */
    const char *before; /* prompt text = before ++ context ++ after; a prompt compressor may rewrite `context`
                           alone (LongBench) */
    const char *context;
    const char *after;
    bool compress_all;       /* the reference compresses before ++ context ++ after as one text (needle) */
    const char *const *gold; /* [n_gold] right answers */
    int n_gold;
    const char *const *classes; /* [n_classes] all_classes (trec), else NULL */
    int n_classes;
    int32_t n_words;      /* LongBench `length`, words of the background for the needle */
    double length, depth; /* needle: asked length (in `unit`) and depth 0..1; else NaN */
    int32_t iteration;    /* needle, else -1 */
};

enum task_kind { TASK_LONGBENCH, TASK_PASSKEY };

/* Facts the prompt policy needs (spec/tasks.md 2.1, 2.7). */
struct task_traits {
    enum task_kind kind;
    bool chat;            /* the reference wraps the prompt in the model's chat template */
    bool newline_stops;   /* samsum: a newline token ends the answer, and may not be the first token */
    bool first_line_only; /* scored on the first line (trec, triviaqa, samsum) */
    int max_new;          /* tokens to generate at most */
    const char *metric;   /* name of the headline metric: "qa_f1", "rouge_l", "exact_match", … */
    const char *category; /* single_doc_qa, …, needle */
};

/* Further scores of an answer; `name` is one of task_metric_names(). */
struct score_extra {
    const char *name;
    double value;
};

/* How the needle measures a prompt in tokens: given by the caller, because tasks know no tokenizer. n tokens
 * of text, or a negative error. */
struct token_counter {
    int64_t (*count)(void *ctx, const char *text, size_t n_bytes);
    void *ctx;
};

struct task;

/* A kind of task in the table: "longbench/qasper", "passkey", … */
struct task_type {
    const char *name, *source;
    const struct param *params;
    struct task_traits traits;
    int n_published; /* rows of the published dataset; 0: made by the program */
};
const struct task_type *task_type_find(const char *name); /* NULL if unknown */
const struct task_type *task_type_at(int i);              /* NULL past the end */

/* Opens a task with parameters already parsed by the table (`params` from param_parse; copied). For the
 * needle with unit=tokens `counter` must be given. ERR_INPUT names file and line. */
int task_open(struct task **t, const struct task_type *type, const void *params,
              const struct token_counter *counter);
void task_close(struct task *t);
int task_count(const struct task *t);
const struct example *task_example(const struct task *t, int i);
const struct task_traits *task_traits(const struct task *t); /* with the parameters applied (max_new) */
/* Lower-case hex SHA-256 of what the examples were made from (jsonl bytes; haystack files in order plus
 * parameters). Borrowed. */
const char *task_source_sha256(const struct task *t);

/* Score of one answer of n_bytes in [0,1] as the reference computes it, and up to 4 further values. NUL is a
 * character like any other there. Returns the number of extras. */
int task_score(const struct task *t, int example, const char *answer, size_t n_bytes, double *score,
               struct score_extra extra[4]);
/* Names of all further scores, NULL-terminated, in the order of the results file's enum. */
const char *const *task_metric_names(void);

#endif
