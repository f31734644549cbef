/* Words, thresholds and what is kept. The arithmetic follows the package's step by step, because thresholds
 * are values of the list itself: a rounding more or less moves a word to the other side. */
#include "base/err.h"
#include "base/mem.h"
#include "prompt/llmlingua2.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define BLANK       "\xe2\x96\x81" /* U+2581 */
#define N_BLANK     3
#define PUNCTUATION "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" /* Python's string.punctuation */

/* ---- forced tokens ---- */

/* The mark of token i, where it needs one. */
static int force_mark(const struct tok *t, const char *text, int i, char **mark)
{
    struct tok_pieces p;
    int rc = tok_encode_pieces(t, text, strlen(text), &p);
    bool one = p.n == 1;
    tok_pieces_free(&p);
    TRY(rc);
    if (one)
        return 0;
    *mark = mem_printf("[NEW%d]", i);
    if (tok_id(t, *mark) < 0)
        return err_set(ERR_INPUT,
                       "the tokenizer of the prompt encoder has no token '%s', which force token %d needs",
                       *mark, i + 1);
    return 0;
}

/* A token given again: the mark of the later one at the place of the earlier one, as a Python dict has it. */
static void merge_mark(struct ll2_force *f, int i)
{
    for (int k = 0; k < i; k++) {
        if (f->mark[i] && f->mark[k] && !strcmp(f->text[k], f->text[i])) {
            free(f->mark[k]);
            f->mark[k] = f->mark[i];
            f->mark[i] = NULL;
        }
    }
}

int ll2_force_open(struct ll2_force *f, const struct tok *t, const char *const *text, int n)
{
    *f = (struct ll2_force){0};
    if (n > LL2_MARKS)
        return err_set(ERR_INPUT, "%d force tokens; LLMLingua-2 takes at most %d", n, LL2_MARKS);
    for (int i = 0; i < n; i++)
        if (!*text[i])
            return err_set(ERR_INPUT, "force token %d is empty", i + 1);
    f->n = n;
    f->text = mem_alloc((size_t)n + 1, sizeof *f->text);
    f->mark = mem_alloc((size_t)n + 1, sizeof *f->mark);
    int rc = 0;
    for (int i = 0; i < n; i++)
        f->text[i] = mem_strdup(text[i]);
    for (int i = 0; i < n && rc == 0; i++) {
        rc = force_mark(t, f->text[i], i, &f->mark[i]);
        merge_mark(f, i);
    }
    if (rc < 0)
        ll2_force_close(f);
    return rc;
}

void ll2_force_close(struct ll2_force *f)
{
    for (int i = 0; i < f->n; i++) {
        free(f->text[i]);
        free(f->mark[i]);
    }
    free(f->text);
    free(f->mark);
    *f = (struct ll2_force){0};
}

/* Owned copy with every `from` replaced, left to right. */
static char *replaced(const char *text, const char *from, const char *to)
{
    struct str s = {0};
    size_t n = strlen(from);
    for (const char *at; n && (at = strstr(text, from)); text = at + n) {
        str_addn(&s, text, (size_t)(at - text));
        str_add(&s, to);
    }
    str_add(&s, text);
    return s.data ? s.data : mem_strdup("");
}

static char *replace_all(const struct ll2_force *f, const char *text, bool back)
{
    char *s = mem_strdup(text);
    for (int i = 0; i < f->n; i++) {
        if (!f->mark[i])
            continue;
        char *next = back ? replaced(s, f->mark[i], f->text[i]) : replaced(s, f->text[i], f->mark[i]);
        free(s);
        s = next;
    }
    return s;
}

char *ll2_mark(const struct ll2_force *f, const char *text)
{
    return replace_all(f, text, false);
}

char *ll2_unmark(const struct ll2_force *f, const char *text)
{
    return replace_all(f, text, true);
}

static bool is_chunk_end(const char *s)
{
    return !strcmp(s, ".") || !strcmp(s, "\n");
}

bool ll2_ends_chunk(const struct ll2_force *f, const char *piece)
{
    bool yes = is_chunk_end(piece);
    for (int i = 0; i < f->n && !yes; i++)
        yes = f->mark[i] && is_chunk_end(f->text[i]) && !strcmp(piece, f->mark[i]);
    return yes;
}

static bool is_forced(const struct ll2_force *f, const char *s)
{
    for (int i = 0; i < f->n; i++)
        if (!strcmp(s, f->text[i]))
            return true;
    return false;
}

static bool is_mark(const struct ll2_force *f, const char *s)
{
    for (int i = 0; i < f->n; i++)
        if (f->mark[i] && !strcmp(s, f->mark[i]))
            return true;
    return false;
}

/* ---- words ---- */

struct word {
    struct str text; /* U+2581 stays where the word began */
    float sum;       /* of the probabilities, in float32 as the package adds them */
    float first;     /* probability of its first piece, forced or not */
    int n;           /* pieces */
    double prob;
    bool exact;  /* its probability is a Python float: 1 by force, or 0 */
    bool forced; /* equal to a forced token */
};
/* Words of a chunk. */
struct ll2_words {
    struct word *v;
    int n, cap;
};

static void words_free(struct ll2_words *w)
{
    for (int i = 0; i < w->n; i++)
        str_free(&w->v[i].text);
    free(w->v);
}

static const char *without_blanks(const char *s)
{
    while (!strncmp(s, BLANK, N_BLANK))
        s += N_BLANK;
    return s;
}

/* A piece that is any run of the punctuation string begins a word, "()" too. */
static bool begins_word(const struct ll2_force *f, const char *piece)
{
    return strstr(PUNCTUATION, piece) || is_forced(f, piece) || is_mark(f, piece) ||
           !strncmp(piece, BLANK, N_BLANK);
}

/* Python's \d: a decimal digit of any script. */
static bool has_digit(const char *s)
{
    uint32_t cp;
    int k;
    for (size_t n = strlen(s); n && (k = utf8_get(s, n, &cp)) > 0; s += k, n -= (size_t)k)
        if (utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND)
            return true;
    return false;
}

static void new_word(const struct ll2_task *task, struct ll2_words *w, const char *piece, float keep)
{
    const struct ll2_force *f = task->force;
    struct word *one = MEM_PUSH(w->v, w->n, w->cap);
    const char *pure = without_blanks(piece);
    *one = (struct word){.sum = keep, .first = keep, .n = 1};
    if (is_forced(f, pure) || is_mark(f, pure)) {
        one->sum = 1.0f;
        one->exact = true;
    }
    char *text = ll2_unmark(f, piece);
    str_add(&one->text, text);
    if (task->digits && has_digit(text)) {
        one->sum = 1.0f;
        one->exact = true;
    }
    free(text);
}

static void continue_word(const struct ll2_task *task, struct word *w, const char *piece, float keep)
{
    bool digit = task->digits && has_digit(piece);
    str_add(&w->text, without_blanks(piece));
    w->sum += digit ? 1.0f : keep;
    w->exact = w->exact && digit;
    w->n++;
}

/* The roles that the package drops from the output. */
static bool is_dropped(const struct tok *t, int32_t id)
{
    for (int r = 0; r < TOK_N_ROLE; r++)
        if (id == tok_role_id(t, (enum tok_role)r))
            return true;
    return false;
}

static void make_words(const struct ll2_task *task, const struct ll2_chunk *chunk, struct ll2_words *w)
{
    for (int64_t i = 0; i < chunk->n; i++) {
        const char *piece = tok_piece(task->tok, chunk->ids[i]);
        if (!piece || is_dropped(task->tok, chunk->ids[i]))
            continue;
        /* The package fails where the first piece continues a word; here it begins one. */
        if (begins_word(task->force, piece) || !w->n) {
            new_word(task, w, piece, chunk->keep[i]);
            continue;
        }
        continue_word(task, &w->v[w->n - 1], piece, chunk->keep[i]);
    }
    for (int i = 0; i < w->n; i++) {
        w->v[i].prob = (double)(w->v[i].sum / (float)w->v[i].n);
        w->v[i].forced = is_forced(task->force, str_c(&w->v[i].text));
    }
}

/* Here the package means to average over a word's pieces, too, but takes its first piece for each of them. */
static float first_mean(const struct word *w)
{
    float sum = 0;
    for (int i = 0; i < w->n; i++)
        sum += w->first;
    return sum / (float)w->n;
}

void ll2_add_words(const struct ll2_task *task, const struct ll2_chunk *chunk, float *sum, int64_t *n)
{
    struct ll2_words w = {0};
    make_words(task, chunk, &w);
    for (int i = 0; i < w.n; i++)
        *sum += first_mean(&w.v[i]);
    *n += w.n;
    words_free(&w);
}

/* ---- thresholds ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double ll2_percentile(double *v, int64_t n, int pct, bool single)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    double at = (double)(n - 1) * (pct / 100.0);
    int64_t i = (int64_t)floor(at);
    if (at >= (double)(n - 1))
        return v[n - 1];
    double t = at - (double)i, a = v[i], b = v[i + 1];
    if (!single)
        return t >= 0.5 ? b - (b - a) * (1 - t) : a + (b - a) * t;
    float fa = (float)a, fb = (float)b, d = fb - fa;
    return (double)(t >= 0.5 ? fb - d * (float)(1 - t) : fa + d * (float)t);
}

static double word_threshold(const struct ll2_words *w, int pct)
{
    double *v = mem_alloc((size_t)w->n, sizeof *v);
    bool single = true;
    for (int i = 0; i < w->n; i++) {
        v[i] = w->v[i].prob;
        single = single && !w->v[i].exact;
    }
    double th = ll2_percentile(v, w->n, pct, single);
    free(v);
    return th;
}

/* A forced token again, with nothing kept in between, loses its right. */
static void drop_consecutive(struct ll2_words *w, int pct)
{
    double th = word_threshold(w, pct);
    bool between = false;
    const char *prev = "";
    for (int i = 0; i < w->n; i++) {
        struct word *one = &w->v[i];
        if (!one->forced) {
            between = between || one->prob > th;
            continue;
        }
        if (between) {
            between = false;
        } else if (!strcmp(str_c(&one->text), prev)) {
            one->prob = 0;
            one->exact = true;
        }
        prev = str_c(&one->text);
    }
}

static int count_tokens(const struct ll2_task *task, const struct word *w, int64_t *n)
{
    *n = w->n;
    if (!task->ranks)
        return 0;
    int32_t *ids;
    TRY(tok_encode(task->ranks, str_c(&w->text), w->text.n, false, &ids, n));
    free(ids);
    return 0;
}

/* Percentile over tokens: every word counts as often as it has tokens. */
static int token_threshold(const struct ll2_task *task, const struct ll2_words *w, int pct, double *th)
{
    double *v = NULL;
    int64_t total = 0, cap = 0;
    bool single = true;
    int rc = 0;
    for (int i = 0; i < w->n && rc == 0; i++) {
        int64_t n = 0;
        rc = count_tokens(task, &w->v[i], &n);
        single = single && !(n && w->v[i].exact);
        for (int64_t k = 0; k < n && rc == 0; k++)
            *MEM_PUSH(v, total, cap) = w->v[i].prob;
    }
    *th = rc == 0 && total ? ll2_percentile(v, total, pct, single) : 1;
    free(v);
    return rc;
}

int ll2_compress(const struct ll2_task *task, const struct ll2_chunk *chunk, struct str *out,
                 struct str *labels)
{
    struct ll2_words w = {0};
    double th = 1;
    make_words(task, chunk, &w);
    const char **kept = mem_alloc((size_t)w.n + 1, sizeof *kept);
    size_t n = 0;
    int rc = 0;
    if (w.n) {
        if (task->drop)
            drop_consecutive(&w, (int)(100 * task->reduce));
        rc = token_threshold(task, &w, (int)(100 * task->reduce + 1), &th);
    }
    for (int i = 0; i < w.n && rc == 0; i++) {
        const struct word *one = &w.v[i];
        bool keep = one->prob > th || (th == 1 && one->prob == 1);
        if (keep && task->drop && one->forced && n && !strcmp(kept[n - 1], str_c(&one->text)))
            keep = false;
        if (keep)
            kept[n++] = str_c(&one->text);
        if (labels)
            str_addc(labels, keep ? '1' : '0');
    }
    char *text = NULL;
    if (rc == 0)
        rc = tok_join(task->tok, kept, n, &text);
    if (rc == 0)
        str_add(out, text);
    free(text);
    free(kept);
    words_free(&w);
    return rc;
}
