/* Scores a file of predictions as LongBench's eval.py does: lines {"pred": text, "answers": [text…],
 * "all_classes": [text…] or null}, further members ignored (spec 3, 5). */
#ifndef KVS_TASK_SCORE_FILE_H
#define KVS_TASK_SCORE_FILE_H

#include "base/str.h"
#include "task/task.h"

struct file_scores {
    int n;
    double *per_sample;            /* [n], 0..1; owned */
    double score_raw;              /* mean of them */
    double score;                  /* 0..100, as Python's round(100 * sum / n, 2) gives it */
    struct score_extra further[4]; /* means of the further scores, 0..1 */
    int n_further;
};

/* As in the reference, the classes of the last line count for all. ERR_INPUT names file and line: a broken
 * line, a missing or mistyped member, an answer that the metric cannot use, no line at all. */
int score_file(struct file_scores *s, const struct task_type *type, const char *path);
void file_scores_free(struct file_scores *s);

/* {"task","n","score","score_raw",NAME…,"per_sample":[…]} on one line, and one or two lines for people; both
 * end in a newline. */
void file_scores_json(const struct file_scores *s, const struct task_type *type, struct str *out);
void file_scores_text(const struct file_scores *s, const struct task_type *type, struct str *out);

#endif
