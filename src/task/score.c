#include "task/score.h"

#include "base/mem.h"
#include "task/metric.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const *task_metric_names(void)
{
    static const char *const names[] = {
        "partial_match", "code_sim_indel",   "qa_exact",      "rouge_too_deep",
        "recite_prefix", "recite_any_order", "outside_vocab", NULL};
    return names;
}

static struct utext *decode_all(const char *const *texts, int n)
{
    struct utext *u = mem_alloc((size_t)n + 1, sizeof *u);
    for (int i = 0; i < n; i++)
        utext_init(&u[i], texts[i], strlen(texts[i]));
    return u;
}

void score_truth_init(struct score_truth *t, const char *const *gold, int n_gold, const char *const *classes,
                      int n_classes)
{
    *t = (struct score_truth){decode_all(gold, n_gold), n_gold, decode_all(classes, n_classes), n_classes};
}

void score_truth_free(struct score_truth *t)
{
    for (int i = 0; i < t->n_gold; i++)
        utext_free(&t->gold[i]);
    for (int i = 0; i < t->n_classes; i++)
        utext_free(&t->classes[i]);
    free(t->gold);
    free(t->classes);
    *t = (struct score_truth){0};
}

static double qa_f1(struct uspan answer, struct uspan truth, const struct score_truth *t, double *further)
{
    (void)t;
    *further = metric_qa_exact(answer, truth);
    return metric_qa_f1(answer, truth);
}

static double rouge_l(struct uspan answer, struct uspan truth, const struct score_truth *t, double *further)
{
    (void)t;
    bool too_deep = false;
    double f = metric_rouge_l(answer, truth, &too_deep);
    *further = too_deep;
    return f;
}

static double classification(struct uspan answer, struct uspan truth, const struct score_truth *t,
                             double *further)
{
    *further = 0;
    return metric_classification(answer, truth, t->classes, t->n_classes);
}

static double retrieval(struct uspan answer, struct uspan truth, const struct score_truth *t, double *further)
{
    (void)t;
    *further = 0;
    return metric_retrieval(answer, truth);
}

static double count(struct uspan answer, struct uspan truth, const struct score_truth *t, double *further)
{
    (void)t;
    *further = 0;
    return metric_count(answer, truth);
}

static double code_sim(struct uspan answer, struct uspan truth, const struct score_truth *t, double *further)
{
    (void)t;
    *further = metric_code_sim_indel(answer, truth);
    return metric_code_sim(answer, truth);
}

static double exact_match(struct uspan answer, struct uspan truth, const struct score_truth *t,
                          double *further)
{
    (void)t;
    *further = metric_partial_match(answer, truth);
    return metric_contains(answer, truth);
}

static double recited_lines(struct uspan answer, struct uspan truth, const struct score_truth *t,
                            double *further)
{
    (void)t;
    return metric_recite(answer, truth, &further[0], &further[1]);
}

enum { MAX_FURTHER = 2 };

/* A headline metric and the further scores that come with it. */
struct metric {
    const char *name, *further[MAX_FURTHER + 1];
    double (*fn)(struct uspan answer, struct uspan truth, const struct score_truth *t,
                 double further[MAX_FURTHER]);
};

static const struct metric *find_metric(const char *name)
{
    static const struct metric table[] = {
        {"qa_f1", {"qa_exact"}, qa_f1},
        {"rouge_l", {"rouge_too_deep"}, rouge_l},
        {"classification", {NULL}, classification},
        {"retrieval", {NULL}, retrieval},
        {"count", {NULL}, count},
        {"code_sim", {"code_sim_indel"}, code_sim},
        {"exact_match", {"partial_match"}, exact_match},
        {"recited_lines", {"recite_prefix", "recite_any_order"}, recited_lines},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    assert(false && "every task names a metric of this table");
    return NULL;
}

int score_answer(const struct task_traits *traits, struct uspan answer, const struct score_truth *truth,
                 double *score, struct score_extra extra[4])
{
    const struct metric *m = find_metric(traits->metric);
    struct uspan line = answer;
    if (traits->first_line_only) {
        struct uspan rest = uspan_skip_newlines(answer);
        if (!uspan_next(&rest, '\n', &line))
            line = (struct uspan){0};
    }
    double best = 0, best_further[MAX_FURTHER] = {0};
    for (int i = 0; i < truth->n_gold; i++) {
        double further[MAX_FURTHER] = {0}, s = m->fn(line, utext_span(&truth->gold[i]), truth, further);
        best = s > best ? s : best;
        for (int k = 0; k < MAX_FURTHER; k++)
            best_further[k] = further[k] > best_further[k] ? further[k] : best_further[k];
    }
    *score = best;
    int n = 0;
    for (; m->further[n]; n++)
        extra[n] = (struct score_extra){m->further[n], best_further[n]};
    return n;
}

double score_round2(double v)
{
    char text[400]; /* the longest double has 309 digits before the point */
    snprintf(text, sizeof text, "%.2f", v);
    return strtod(text, NULL);
}
