/* ROUGE-L as the PyPI package rouge 1.0.1 computes it: summary level, union of LCS word sets (spec 3.2). */
#include "base/mem.h"
#include "task/metric.h"

#include <stdlib.h>

/* The sentences of a text as word ids: sentence s is id[start[s]..start[s+1]). */
struct sentences {
    struct uspan *word; /* [n_words] */
    int32_t *id;        /* [n_words] */
    size_t n_words, cap_words;
    size_t *start; /* [n+1] */
    size_t n, cap;
};

/* Cuts at every '.', drops empty pieces; a piece of white space alone is a sentence of one empty word. */
static void split(struct sentences *s, struct uspan text)
{
    struct uspan piece, word;
    *s = (struct sentences){0};
    while (uspan_next(&text, '.', &piece)) {
        if (piece.n == 0)
            continue;
        *MEM_PUSH(s->start, s->n, s->cap) = s->n_words;
        size_t before = s->n_words;
        while (uspan_next_word(&piece, &word))
            *MEM_PUSH(s->word, s->n_words, s->cap_words) = word;
        if (s->n_words == before)
            *MEM_PUSH(s->word, s->n_words, s->cap_words) = (struct uspan){0};
    }
    size_t n = s->n;
    *MEM_PUSH(s->start, n, s->cap) = s->n_words;
    s->id = mem_alloc(s->n_words + 1, sizeof *s->id);
}

static void sentences_free(struct sentences *s)
{
    free(s->word);
    free(s->id);
    free(s->start);
}

struct word_ref {
    struct uspan word;
    int32_t *id;
};

static int compare_refs(const void *a, const void *b)
{
    return uspan_compare(((const struct word_ref *)a)->word, ((const struct word_ref *)b)->word);
}

/* Gives equal words equal ids, over both texts; returns the number of ids. */
static size_t number_words(struct sentences *a, struct sentences *b)
{
    size_t n = a->n_words + b->n_words, n_ids = 0;
    struct word_ref *refs = mem_alloc(n + 1, sizeof *refs);
    for (size_t i = 0; i < n; i++) {
        struct sentences *s = i < a->n_words ? a : b;
        size_t k = i < a->n_words ? i : i - a->n_words;
        refs[i] = (struct word_ref){s->word[k], &s->id[k]};
    }
    qsort(refs, n, sizeof *refs, compare_refs);
    for (size_t i = 0; i < n; i++) {
        n_ids += i == 0 || !uspan_equal(refs[i].word, refs[i - 1].word);
        *refs[i].id = (int32_t)(n_ids - 1);
    }
    free(refs);
    return n_ids;
}

static size_t count_distinct(const struct sentences *s, size_t n_ids)
{
    bool *seen = mem_alloc(n_ids + 1, sizeof *seen);
    size_t n = 0;
    for (size_t i = 0; i < s->n_words; i++) {
        n += !seen[s->id[i]];
        seen[s->id[i]] = true;
    }
    free(seen);
    return n;
}

/* One end of the LCS table: a back-tracking of at most ROUGE_MAX_MOVES moves never leaves the last that many
 * rows and columns, so only those are kept, whatever the length of the sentences. */
struct table {
    const int32_t *x, *y;
    size_t nx, ny, x0, y0; /* kept: rows x0..nx, columns y0..ny */
    int32_t *cell;         /* [nx-x0+1][ny-y0+1] */
};

static int32_t *cell(const struct table *t, size_t i, size_t j)
{
    return &t->cell[(i - t->x0) * (t->ny - t->y0 + 1) + (j - t->y0)];
}

static void fill(struct table *t)
{
    t->x0 = t->nx > ROUGE_MAX_MOVES + 1 ? t->nx - ROUGE_MAX_MOVES - 1 : 0;
    t->y0 = t->ny > ROUGE_MAX_MOVES + 1 ? t->ny - ROUGE_MAX_MOVES - 1 : 0;
    t->cell = mem_alloc((t->nx - t->x0 + 1) * (t->ny - t->y0 + 1), sizeof *t->cell);
    int32_t *row = mem_alloc(t->ny + 1, sizeof *row);
    for (size_t i = 0; i <= t->nx; i++) {
        int32_t diagonal = 0;
        for (size_t j = 1; i > 0 && j <= t->ny; j++) {
            int32_t up = row[j], left = row[j - 1];
            row[j] = t->x[i - 1] == t->y[j - 1] ? diagonal + 1 : up > left ? up : left;
            diagonal = up;
        }
        for (size_t j = t->y0; i >= t->x0 && j <= t->ny; j++)
            *cell(t, i, j) = row[j];
    }
    free(row);
}

/* Marks the words of one LCS of x (of the truth) and y (of the answer); false when that takes too many moves.
 */
static bool mark_lcs(const int32_t *x, size_t nx, const int32_t *y, size_t ny, bool *in_union)
{
    if ((nx < ny ? nx : ny) > ROUGE_MAX_MOVES)
        return false; /* every move leaves a row, a column or both: no need to look */
    struct table t = {.x = x, .y = y, .nx = nx, .ny = ny};
    fill(&t);
    size_t i = nx, j = ny;
    int moves = 0;
    for (; i > 0 && j > 0 && moves <= ROUGE_MAX_MOVES; moves++) {
        if (x[i - 1] == y[j - 1]) {
            in_union[x[i - 1]] = true;
            i--, j--;
        } else if (*cell(&t, i - 1, j) > *cell(&t, i, j - 1)) {
            i--;
        } else {
            j--;
        }
    }
    free(t.cell);
    return moves <= ROUGE_MAX_MOVES;
}

/* Words in the union of the LCSs of all pairs of sentences, or -1. */
static int64_t union_size(const struct sentences *truth, const struct sentences *answer, size_t n_ids)
{
    bool *in_union = mem_alloc(n_ids + 1, sizeof *in_union), ok = true;
    for (size_t r = 0; r < truth->n && ok; r++)
        for (size_t h = 0; h < answer->n && ok; h++)
            ok = mark_lcs(truth->id + truth->start[r], truth->start[r + 1] - truth->start[r],
                          answer->id + answer->start[h], answer->start[h + 1] - answer->start[h], in_union);
    int64_t n = 0;
    for (size_t i = 0; i < n_ids; i++)
        n += in_union[i];
    free(in_union);
    return ok ? n : -1;
}

double metric_rouge_l(struct uspan answer, struct uspan truth, bool *too_deep)
{
    struct sentences a, t;
    split(&a, answer);
    split(&t, truth);
    double f = 0;
    *too_deep = false;
    if (a.n > 0 && t.n > 0) {
        size_t n_ids = number_words(&a, &t);
        int64_t u = union_size(&t, &a, n_ids);
        *too_deep = u < 0;
        double r = (double)u / (double)count_distinct(&t, n_ids),
               p = (double)u / (double)count_distinct(&a, n_ids);
        f = u < 0 ? 0 : 2.0 * ((p * r) / (p + r + 1e-8));
    }
    sentences_free(&a);
    sentences_free(&t);
    return f;
}
