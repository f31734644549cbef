/* From an answer to its scores: metric, first-line rule, best of the right answers (spec 2.8, 3). */
#ifndef KVS_TASK_SCORE_H
#define KVS_TASK_SCORE_H

#include "task/task.h"
#include "task/utext.h"

/* Decoded right answers and classes. */
struct score_truth {
    struct utext *gold; /* [n_gold] */
    int n_gold;
    struct utext *classes; /* [n_classes] */
    int n_classes;
};

void score_truth_init(struct score_truth *t, const char *const *gold, int n_gold, const char *const *classes,
                      int n_classes);
void score_truth_free(struct score_truth *t);

/* As task_score. */
int score_answer(const struct task_traits *traits, struct uspan answer, const struct score_truth *truth,
                 double *score, struct score_extra extra[4]);

/* round(v, 2) of Python: to the nearest of the decimals with two places, from the exact binary value, ties to
 * even. */
double score_round2(double v);

#endif
