/* A long answer that can be checked: a list of named pass keys, hidden in a haystack, must be recited in full
 * and in order. Every line of the answer needs another place of the cache, so that errors of decoding add up.
 */
#include "base/mem.h"
#include "task/grid.h"
#include "task/metric.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct recite_params {
    struct grid_params grid;
    int64_t lines, digits;
};

enum { MAX_LINES = 200 };

#define AT(member) offsetof(struct recite_params, member)
const struct param recite_param_table[] = {
    {"lengths", PARAM_TEXT, AT(grid.lengths), 0, 0, 0, NULL, "512-2048x4", GRID_LENGTHS},
    {"unit", PARAM_CHOICE, AT(grid.unit), 0, 0, 1, "words|tokens", NULL, GRID_UNIT},
    {"depths", PARAM_INT, AT(grid.depths), 3, 1, 1000, NULL, NULL, GRID_DEPTHS},
    {"iterations", PARAM_INT, AT(grid.iterations), 3, 1, 1000, NULL, NULL, "prompts per length and depth"},
    {"lines", PARAM_INT, AT(lines), 8, 1, MAX_LINES, NULL, NULL,
     "lines of the list, each with a name and a key"},
    {"digits", PARAM_INT, AT(digits), 4, 1, 64, NULL, NULL, "digits of a key"},
    {"haystack", PARAM_TEXT, AT(grid.haystack), 0, 0, 0, NULL, "synthetic", GRID_HAYSTACK},
    {"max_new", PARAM_INT, AT(grid.max_new), 256, 1, 1000000, NULL, NULL,
     "tokens to generate at most (a line of four digits takes about ten)"},
    {"seed", PARAM_INT, AT(grid.seed), 42, 0, 9007199254740992.0, NULL, NULL,
     "seed of names, keys and the synthetic haystack"},
    {0},
};

/* First and second halves of names; all pairs differ. */
static const char *const firsts[] = {"amber", "birch", "cedar", "delta", "ember", "fjord", "grove",
                                     "haven", "inlet", "jetty", "knoll", "ledge", "marsh", "north",
                                     "olive", "pearl", "ridge", "stone", "tulip", "willow"};
static const char *const seconds[] = {"",      " bay",  " dale", " field", " ford",
                                      " gate", " hill", " lake", " mill",  " wood"};
enum { N_FIRST = sizeof firsts / sizeof *firsts, N_SECOND = sizeof seconds / sizeof *seconds };

static unsigned below(struct mt19937 *rng, unsigned n)
{
    return (unsigned)mt19937_below(rng, n);
}

/* Names without repetition: as many plain first words as there are, then pairs. */
static void draw(const void *params, struct mt19937 *rng, struct str *hidden, struct str *gold)
{
    const struct recite_params *p = params;
    int order[N_FIRST * N_SECOND];
    for (int i = 0; i < N_FIRST * N_SECOND; i++)
        order[i] = i;
    for (int i = 0; i < (int)p->lines; i++) {
        int end = (i / N_FIRST + 1) * N_FIRST, k = i + (int)below(rng, (unsigned)(end - i)), name = order[k];
        order[k] = order[i];
        str_printf(gold, "%s%d. %s%s: ", i ? "\n" : "", i + 1, firsts[name % N_FIRST],
                   seconds[name / N_FIRST]);
        for (int d = 0; d < (int)p->digits; d++)
            str_addc(gold, (char)('0' + below(rng, 10)));
    }
    str_printf(hidden, "\n\nThe list of pass keys:\n%s\n\n", str_c(gold));
}

int recite_open(struct task *t, const void *params, const struct token_counter *counter)
{
    const struct recite_params *p = params;
    char facts[64];
    snprintf(facts, sizeof facts, "lines=%lld digits=%lld", (long long)p->lines, (long long)p->digits);
    const struct grid g = {.name = "recite",
                           .instruction =
                               "There is a list of pass keys hidden inside a lot of irrelevant text. Find it "
                               "and memorize it. You will have to recite the whole list in order.\n",
                           .question = "\n\nThe list of pass keys, again in full and in the same order:\n",
                           .tail = "",
                           .draw = draw,
                           .params = p,
                           .facts = facts};
    return grid_open(t, &g, &p->grid, counter);
}

/* Lines of a text without the white space at their ends, empty ones left out. Owned. */
static struct uspan *lines_of(struct uspan text, size_t *n)
{
    struct uspan *line = mem_alloc(text.n + 1, sizeof *line), part;
    *n = 0;
    while (uspan_next(&text, '\n', &part)) {
        while (part.n && ucp_is_space(part.cp[0]))
            part.cp++, part.n--;
        while (part.n && ucp_is_space(part.cp[part.n - 1]))
            part.n--;
        if (part.n)
            line[(*n)++] = part;
    }
    return line;
}

/* Length of the longest common subsequence. */
static size_t in_order(const struct uspan *a, size_t n_a, const struct uspan *b, size_t n_b)
{
    size_t *row = mem_alloc(n_b + 1, sizeof *row), best;
    for (size_t i = 0; i < n_a; i++) {
        size_t diagonal = 0;
        for (size_t k = 0; k < n_b; k++) {
            size_t above = row[k + 1], found = uspan_equal(a[i], b[k]) ? diagonal + 1 : 0;
            row[k + 1] = found > above ? found : above;
            row[k + 1] = row[k + 1] > row[k] ? row[k + 1] : row[k];
            diagonal = above;
        }
    }
    best = row[n_b];
    free(row);
    return best;
}

double metric_recite(struct uspan answer, struct uspan truth, double *prefix, double *any)
{
    size_t n_a, n_t, n_prefix = 0, n_any = 0;
    struct uspan *a = lines_of(answer, &n_a), *t = lines_of(truth, &n_t);
    while (n_prefix < n_a && n_prefix < n_t && uspan_equal(a[n_prefix], t[n_prefix]))
        n_prefix++;
    for (size_t i = 0; i < n_t; i++) {
        size_t k = 0;
        while (k < n_a && !uspan_equal(a[k], t[i]))
            k++;
        n_any += k < n_a;
    }
    double n = n_t ? (double)n_t : 1;
    double score = (double)in_order(a, n_a, t, n_t) / n;
    *prefix = (double)n_prefix / n;
    *any = (double)n_any / n;
    free(a);
    free(t);
    return score;
}
