#include "task/metric.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* A normalised text and its words. */
struct words {
    struct utext text;
    struct uspan *w; /* [n] into text */
    size_t n;
};

static bool is_ascii_punct(uint32_t c)
{
    return (c > 32 && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') || (c > 'z' && c < 127);
}

static bool span_is(struct uspan s, const char *ascii)
{
    size_t i = 0;
    while (i < s.n && ascii[i] && s.cp[i] == (unsigned char)ascii[i])
        i++;
    return i == s.n && !ascii[i];
}

/* What becomes of a, an, the: LongBench puts a blank, the needle's scorer nothing. */
enum articles { BLANK_ARTICLES, DELETE_ARTICLES };

static void remove_articles(struct utext *t, enum articles how)
{
    size_t n = 0;
    for (size_t from = 0, to = 0; from < t->n; from = to) {
        for (to = from + 1; ucp_is_word(t->cp[from]) && to < t->n && ucp_is_word(t->cp[to]);)
            to++;
        struct uspan word = {t->cp + from, to - from};
        if (!span_is(word, "a") && !span_is(word, "an") && !span_is(word, "the")) {
            memmove(t->cp + n, word.cp, word.n * sizeof *t->cp);
            n += word.n;
        } else if (how == BLANK_ARTICLES) {
            t->cp[n++] = ' ';
        }
    }
    t->n = n;
}

static void words_init(struct words *out, struct uspan s, enum articles how)
{
    utext_lower(&out->text, s);
    size_t n = 0;
    for (size_t i = 0; i < out->text.n; i++)
        if (!is_ascii_punct(out->text.cp[i]))
            out->text.cp[n++] = out->text.cp[i];
    out->text.n = n;
    remove_articles(&out->text, how);
    out->w = mem_alloc(n / 2 + 1, sizeof *out->w);
    out->n = 0;
    struct uspan rest = utext_span(&out->text), word;
    while (uspan_next_word(&rest, &word))
        out->w[out->n++] = word;
}

static void words_free(struct words *w)
{
    utext_free(&w->text);
    free(w->w);
}

static int compare_words(const void *a, const void *b)
{
    return uspan_compare(*(const struct uspan *)a, *(const struct uspan *)b);
}

/* Size of the intersection of two multisets; sorts both. */
static size_t common_words(struct words *a, struct words *b)
{
    qsort(a->w, a->n, sizeof *a->w, compare_words);
    qsort(b->w, b->n, sizeof *b->w, compare_words);
    size_t common = 0;
    for (size_t i = 0, j = 0; i < a->n && j < b->n;) {
        int order = uspan_compare(a->w[i], b->w[j]);
        common += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    return common;
}

double metric_qa_f1(struct uspan answer, struct uspan truth)
{
    struct words a, t;
    words_init(&a, answer, BLANK_ARTICLES);
    words_init(&t, truth, BLANK_ARTICLES);
    double common = (double)common_words(&a, &t), f1 = 0;
    if (common > 0) {
        double precision = common / (double)a.n, recall = common / (double)t.n;
        f1 = 2 * precision * recall / (precision + recall);
    }
    words_free(&a);
    words_free(&t);
    return f1;
}

double metric_qa_exact(struct uspan answer, struct uspan truth)
{
    struct words a, t;
    words_init(&a, answer, BLANK_ARTICLES);
    words_init(&t, truth, BLANK_ARTICLES);
    bool equal = a.n == t.n;
    for (size_t i = 0; equal && i < a.n; i++)
        equal = uspan_equal(a.w[i], t.w[i]);
    words_free(&a);
    words_free(&t);
    return equal;
}

/* The words joined by single blanks. */
static void join(struct utext *out, const struct words *w)
{
    out->cp = mem_alloc(w->text.n + w->n + 1, sizeof *out->cp);
    out->n = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (i > 0)
            out->cp[out->n++] = ' ';
        memcpy(out->cp + out->n, w->w[i].cp, w->w[i].n * sizeof *out->cp);
        out->n += w->w[i].n;
    }
}

double metric_contains(struct uspan answer, struct uspan key)
{
    struct words a, k;
    struct utext at, kt;
    words_init(&a, answer, DELETE_ARTICLES);
    words_init(&k, key, DELETE_ARTICLES);
    join(&at, &a);
    join(&kt, &k);
    bool found = uspan_contains(utext_span(&at), utext_span(&kt));
    words_free(&a);
    words_free(&k);
    utext_free(&at);
    utext_free(&kt);
    return found;
}

double metric_partial_match(struct uspan answer, struct uspan key)
{
    /* run[j]: length of the common suffix of the answer up to here and key[0..j) */
    size_t *run = mem_alloc(key.n + 1, sizeof *run), best = 0;
    for (size_t i = 0; i < answer.n; i++)
        for (size_t j = key.n; j > 0; j--) {
            run[j] = answer.cp[i] == key.cp[j - 1] ? run[j - 1] + 1 : 0;
            best = run[j] > best ? run[j] : best;
        }
    free(run);
    return key.n ? (double)best / (double)key.n : 0;
}

double metric_classification(struct uspan answer, struct uspan truth, const struct utext *classes,
                             int n_classes)
{
    struct uspan *found = mem_alloc((size_t)n_classes + 1, sizeof *found);
    int n = 0;
    for (int i = 0; i < n_classes; i++)
        if (uspan_contains(answer, utext_span(&classes[i])))
            found[n++] = utext_span(&classes[i]);
    /* The reference deletes from the list while it walks it by index: the entry after a deleted one is not
     * looked at. */
    for (int i = 0; i < n; i++) {
        if (!uspan_contains(truth, found[i]) || uspan_equal(truth, found[i]))
            continue;
        int first = 0;
        while (!uspan_equal(found[first], found[i]))
            first++;
        memmove(found + first, found + first + 1, (size_t)(n - first - 1) * sizeof *found);
        n--;
    }
    bool right = false;
    for (int i = 0; i < n; i++)
        right = right || uspan_equal(found[i], truth);
    free(found);
    return right ? 1.0 / n : 0;
}

/* Share of the digit runs of `answer` that equal `id`. */
static double share_of_numbers(struct uspan answer, struct uspan id)
{
    size_t n = 0, right = 0;
    for (size_t from = 0, to = 0; from < answer.n; from = to + 1) {
        for (to = from; to < answer.n && ucp_is_decimal(answer.cp[to]);)
            to++;
        if (to == from)
            continue;
        n++;
        right += uspan_equal((struct uspan){answer.cp + from, to - from}, id);
    }
    return n ? (double)right / (double)n : 0;
}

double metric_count(struct uspan answer, struct uspan truth)
{
    return share_of_numbers(answer, truth);
}

bool metric_retrieval_id(struct uspan truth, struct uspan *id)
{
    static const char head[] = "Paragraph ";
    const size_t n_head = sizeof head - 1;
    for (size_t at = 0; at + n_head < truth.n; at++) {
        size_t to = at + n_head;
        if (!span_is((struct uspan){truth.cp + at, n_head}, head))
            continue;
        while (to < truth.n && ucp_is_decimal(truth.cp[to]))
            to++;
        *id = (struct uspan){truth.cp + at + n_head, to - at - n_head};
        if (id->n > 0)
            return true;
    }
    return false;
}

double metric_retrieval(struct uspan answer, struct uspan truth)
{
    struct uspan id;
    return metric_retrieval_id(truth, &id) ? share_of_numbers(answer, id) : 0;
}
