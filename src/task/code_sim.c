/* Similarity of a completed line of code (spec 3.5). */
#include "base/mem.h"
#include "task/metric.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_comment_or_fence(struct uspan line)
{
    for (size_t i = 0; i < line.n; i++)
        if (line.cp[i] == '`' || line.cp[i] == '#' ||
            (line.cp[i] == '/' && i + 1 < line.n && line.cp[i + 1] == '/'))
            return true;
    return false;
}

static struct uspan code_line(struct uspan answer)
{
    struct uspan rest = uspan_skip_newlines(answer), line;
    while (uspan_next(&rest, '\n', &line))
        if (!is_comment_or_fence(line))
            return line;
    return (struct uspan){0};
}

/* Where each character of b stands: positions sorted by character, then position. */
struct place {
    uint32_t c;
    size_t at;
};

struct matcher {
    struct uspan a, b;
    struct place *places; /* [n_places], without the popular characters */
    size_t n_places;
    size_t *first, *last; /* [a.n] the places of a's character i are first[i]..last[i]) */
    size_t *run,
        *next_run; /* [b.n+1] length of the match that ends before this place of b; all zero between calls */
};

static int compare_places(const void *a, const void *b)
{
    const struct place *p = a, *q = b;
    if (p->c != q->c)
        return p->c < q->c ? -1 : 1;
    return p->at < q->at ? -1 : p->at > q->at;
}

/* difflib's autojunk: in a text of 200 or more, characters that occur more often than n/100 + 1 times seed no
 * match. */
static void drop_popular(struct matcher *m)
{
    size_t limit = m->b.n >= 200 ? m->b.n / 100 + 1 : m->b.n, kept = 0;
    for (size_t from = 0, to = 0; from < m->n_places; from = to) {
        while (to < m->n_places && m->places[to].c == m->places[from].c)
            to++;
        if (to - from > limit)
            continue;
        memmove(m->places + kept, m->places + from, (to - from) * sizeof *m->places);
        kept += to - from;
    }
    m->n_places = kept;
}

/* First place whose character is not below c. */
static size_t lower_bound(const struct matcher *m, uint32_t c)
{
    size_t lo = 0, hi = m->n_places;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (m->places[mid].c < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void matcher_init(struct matcher *m, struct uspan a, struct uspan b)
{
    *m = (struct matcher){.a = a, .b = b, .n_places = b.n};
    m->places = mem_alloc(b.n + 1, sizeof *m->places);
    for (size_t j = 0; j < b.n; j++)
        m->places[j] = (struct place){b.cp[j], j};
    qsort(m->places, b.n, sizeof *m->places, compare_places);
    drop_popular(m);
    m->first = mem_alloc(a.n + 1, sizeof *m->first);
    m->last = mem_alloc(a.n + 1, sizeof *m->last);
    for (size_t i = 0; i < a.n; i++) {
        m->first[i] = lower_bound(m, a.cp[i]);
        m->last[i] = lower_bound(m, a.cp[i] + 1);
    }
    m->run = mem_alloc(b.n + 1, sizeof *m->run);
    m->next_run = mem_alloc(b.n + 1, sizeof *m->next_run);
}

static void matcher_free(struct matcher *m)
{
    free(m->places);
    free(m->first);
    free(m->last);
    free(m->run);
    free(m->next_run);
}

struct block {
    size_t a, a_end, b, b_end;
};

static void clear_runs(const struct matcher *m, size_t *run, size_t i)
{
    for (size_t k = m->first[i]; k < m->last[i]; k++)
        run[m->places[k].at + 1] = 0;
}

/* The longest run of seed characters in the range: earliest in a, then earliest in b. */
static struct block longest_seed(struct matcher *m, struct block range)
{
    struct block best = {range.a, range.a, range.b, range.b};
    size_t best_n = 0;
    for (size_t i = range.a; i < range.a_end; i++) {
        for (size_t k = m->first[i]; k < m->last[i]; k++) {
            size_t j = m->places[k].at;
            if (j < range.b || j >= range.b_end)
                continue;
            size_t n = m->next_run[j + 1] = m->run[j] + 1;
            if (n > best_n) {
                best = (struct block){i + 1 - n, i + 1, j + 1 - n, j + 1};
                best_n = n;
            }
        }
        if (i > range.a)
            clear_runs(m, m->run, i - 1);
        size_t *t = m->run;
        m->run = m->next_run;
        m->next_run = t;
    }
    if (range.a_end > range.a)
        clear_runs(m, m->run, range.a_end - 1);
    return best;
}

/* The same, extended over equal characters of any kind. */
static struct block longest_match(struct matcher *m, struct block range)
{
    struct block best = longest_seed(m, range);
    while (best.a > range.a && best.b > range.b && m->a.cp[best.a - 1] == m->b.cp[best.b - 1])
        best.a--, best.b--;
    while (best.a_end < range.a_end && best.b_end < range.b_end && m->a.cp[best.a_end] == m->b.cp[best.b_end])
        best.a_end++, best.b_end++;
    return best;
}

static size_t matching_characters(struct uspan a, struct uspan b)
{
    struct matcher m;
    matcher_init(&m, a, b);
    struct block *stack = NULL;
    size_t n = 0, cap = 0, sum = 0;
    *MEM_PUSH(stack, n, cap) = (struct block){0, a.n, 0, b.n};
    while (n > 0) {
        struct block range = stack[--n], best = longest_match(&m, range);
        if (best.a == best.a_end)
            continue;
        sum += best.a_end - best.a;
        if (range.a < best.a && range.b < best.b)
            *MEM_PUSH(stack, n, cap) = (struct block){range.a, best.a, range.b, best.b};
        if (best.a_end < range.a_end && best.b_end < range.b_end)
            *MEM_PUSH(stack, n, cap) = (struct block){best.a_end, range.a_end, best.b_end, range.b_end};
    }
    free(stack);
    matcher_free(&m);
    return sum;
}

static size_t lcs_length(struct uspan a, struct uspan b)
{
    size_t *row = mem_alloc(b.n + 1, sizeof *row);
    for (size_t i = 0; i < a.n; i++) {
        size_t diagonal = 0;
        for (size_t j = 1; j <= b.n; j++) {
            size_t up = row[j];
            row[j] = a.cp[i] == b.cp[j - 1] ? diagonal + 1 : up > row[j - 1] ? up : row[j - 1];
            diagonal = up;
        }
    }
    size_t n = row[b.n];
    free(row);
    return n;
}

/* fuzz.ratio / 100 with the given count of matching characters: whole percent, half to even. */
static double ratio(struct uspan answer, struct uspan truth,
                    size_t (*matches)(struct uspan a, struct uspan b))
{
    struct uspan line = code_line(answer);
    if (uspan_equal(line, truth))
        return 1;
    if (line.n == 0 || truth.n == 0)
        return 0;
    double r = 2.0 * (double)matches(line, truth) / (double)(line.n + truth.n);
    return nearbyint(100 * r) / 100;
}

double metric_code_sim(struct uspan answer, struct uspan truth)
{
    return ratio(answer, truth, matching_characters);
}

double metric_code_sim_indel(struct uspan answer, struct uspan truth)
{
    return ratio(answer, truth, lcs_length);
}
