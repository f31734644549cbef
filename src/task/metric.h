/* Metrics of the reference, each in [0,1] for one answer and one truth (spec 3 and 4.5). Text is compared by
 * code points. */
#ifndef KVS_TASK_METRIC_H
#define KVS_TASK_METRIC_H

#include "task/utext.h"

/* F1 of the word multisets of the normalised texts: lower-cased, ASCII punctuation deleted, the words a, an,
 * the replaced by a blank, split at white space. */
double metric_qa_f1(struct uspan answer, struct uspan truth);
/* 1 if the normalised texts are the same. */
double metric_qa_exact(struct uspan answer, struct uspan truth);

/* "rouge-l" F of the PyPI package rouge 1.0.1. *too_deep tells that its recursive back-tracking would have
 * hit Python's recursion limit, which the reference scores as 0: a pair of sentences that needs more than
 * ROUGE_MAX_MOVES moves. */
enum { ROUGE_MAX_MOVES = 985 };
double metric_rouge_l(struct uspan answer, struct uspan truth, bool *too_deep);

double metric_classification(struct uspan answer, struct uspan truth, const struct utext *classes,
                             int n_classes);
/* `truth` holds "Paragraph N" (0 if it does not). */
double metric_retrieval(struct uspan answer, struct uspan truth);
double metric_count(struct uspan answer, struct uspan truth);
bool metric_retrieval_id(struct uspan truth, struct uspan *id);

/* fuzz.ratio of the first line that is neither comment nor fence, over difflib's matching blocks (fuzzywuzzy
 * 0.18.0 without python-Levenshtein), and the same over the longest common subsequence (with it). */
double metric_code_sim(struct uspan answer, struct uspan truth);
double metric_code_sim_indel(struct uspan answer, struct uspan truth);

/* 1 if the normalised key stands anywhere in the normalised answer; here the articles are deleted, not
 * blanked. */
double metric_contains(struct uspan answer, struct uspan key);
/* Longest common substring of the raw texts over the key's length. */
double metric_partial_match(struct uspan answer, struct uspan key);

/* Share of the truth's lines that stand in the answer in their order (longest common subsequence of lines;
 * white space at their ends and empty lines do not count); of its first lines before the first error; of its
 * lines found anywhere. */
double metric_recite(struct uspan answer, struct uspan truth, double *prefix, double *any);

#endif
