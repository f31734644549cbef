/* A results file boiled down for people: per setting and task, scores with intervals, bytes, times. */
#ifndef KVS_HDF5IO_SUMMARY_H
#define KVS_HDF5IO_SUMMARY_H

#include "hdf5io/read.h"
#include "hdf5io/score_set.h"

struct summary_whole { /* setting x whole (means.h) */
    struct interval score;
    struct comparison diff; /* to `full` of the same model, same examples; n == 0 without it */
};
struct summary_cell { /* setting x task */
    struct interval score;
    int64_t n_done, n_bad; /* units; those with a status other than ok */
};
struct summary_setting {
    int64_t n_done, n_bad;
    int64_t n_status[ST_N];
    double kv_bytes, kv_bytes_full; /* mean per unit, as if alone */
    double device_bytes;            /* the part of kv_bytes that lies on the device */
    double ratio;                   /* sum of full bytes / sum of bytes */
    double kept_tokens;             /* mean of that budget; NaN without it */
    /* medians over /timing rows; NaN without any */
    double s_prefill, s_token, peak_bytes, n_prompt;
    double prefill_limit,
        decode_limit; /* share of the limit reached, 0..1; NaN when the file holds no limits */
    int64_t n_timing;
    /* means over the tokens of /fidelity, with intervals over examples; NaN without any */
    struct interval kl, top1, gold_logprob;
    double kl_max;
    int64_t n_fidelity; /* tokens */
    int full;           /* row of `full` of the same model, or -1 */
};
struct summary {
    const struct results *r;
    struct means means;
    struct summary_setting *setting; /* [n_setting] */
    struct summary_whole *whole;     /* [n_setting * means.n_whole] */
    struct interval *category;       /* [n_setting * means.n_category] */
    struct summary_cell *cell;       /* [n_setting * n_task] */
    int *like; /* [n_task * n_setting] book_alike: settings that share the units of a task */
    const struct record *
        *unit; /* [n_setting * n_example_all]: record or NULL, by setting and position in r->example */
};
enum summary_depth {
    SUMMARY_COUNTS, /* which units there are and how many */
    SUMMARY_SCORES, /* and scores with their intervals */
    SUMMARY_ALL
};
void summary_make(struct summary *s, const struct results *r, enum summary_depth depth);
void summary_free(struct summary *s);
/* Why a setting could not run; NULL: it could, or has units all the same. */
const char *summary_refused(const struct summary *s, int setting);
/* A line for each of them: "refused: ID: reason". Returns how many. */
int summary_say_refused(const struct summary *s, struct str *out);
const struct record *summary_unit(const struct summary *s, int setting, int64_t example_row);

/* Name of a task; where the file has others of that name, with what tells them apart: "passkey (seed=8)". */
void summary_task_label(const struct results *r, int task, struct str *out);

/* The parts of summary_make in summary_score.c: scores, differences to `full`, fidelity. */
void summary_add_scores(struct summary *s, struct resampler *r);
void summary_add_diffs(struct summary *s, struct resampler *r);
void summary_add_fidelity(struct summary *s, struct resampler *r);

#endif
