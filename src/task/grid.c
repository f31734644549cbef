/* Prompts on a grid of haystack lengths and depths with something hidden in each (spec 4). */
#include "task/grid.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "task/haystack.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LENGTHS = 1000, MAX_LENGTH = 10000000, MAX_EXAMPLES = 1000000 };

struct lengths {
    int64_t v[MAX_LENGTHS];
    int n;
};

/* Value i of n even steps from lo to hi; n = 1 gives both ends, so callers ask for grid_size(n) values. */
static double grid_value(double lo, double hi, int64_t n, int64_t i)
{
    if (i == 0)
        return lo;
    return i >= n - 1 ? hi : lo + (double)i * (hi - lo) / (double)(n - 1);
}

static int64_t grid_size(double lo, double hi, int64_t n)
{
    return lo >= hi ? 1 : n < 2 ? 2 : n;
}

static int add_length(struct lengths *l, int64_t v, const char *text)
{
    if (v < 1 || v > MAX_LENGTH)
        return err_set(ERR_INPUT, "lengths=%s: a length is a whole number from 1 to %d", text, MAX_LENGTH);
    if (l->n == MAX_LENGTHS)
        return err_set(ERR_INPUT, "lengths=%s: more than %d lengths", text, MAX_LENGTHS);
    for (int i = 0; i < l->n; i++)
        if (l->v[i] == v)
            return err_set(ERR_INPUT, "lengths=%s: %lld comes twice", text, (long long)v);
    l->v[l->n++] = v;
    return 0;
}

/* One entry: "1024" or "512-20480x10". */
static int add_entry(struct lengths *l, const char *entry, const char *text)
{
    int64_t lo = 0, hi = 0, n = 0;
    if (str_to_int(entry, &lo))
        return add_length(l, lo, text);
    char *copy = mem_strdup(entry), *dash = strchr(copy, '-'), *times = strchr(copy, 'x');
    bool ok = dash && times && dash < times;
    if (ok) {
        *dash = *times = '\0';
        ok = str_to_int(copy, &lo) && str_to_int(dash + 1, &hi) && str_to_int(times + 1, &n);
    }
    free(copy);
    if (!ok || lo < 1 || hi < lo || hi > MAX_LENGTH || n < 1 || n > MAX_LENGTHS)
        return err_set(ERR_INPUT,
                       "lengths=%s: '%s' is neither a whole number nor MIN-MAXxN (1 <= MIN <= "
                       "MAX <= %d, N from 1 "
                       "to %d)",
                       text, entry, MAX_LENGTH, MAX_LENGTHS);
    for (int64_t i = 0; i < grid_size((double)lo, (double)hi, n); i++)
        TRY(add_length(l, (int64_t)grid_value((double)lo, (double)hi, n, i), text));
    return 0;
}

static int parse_lengths(struct lengths *l, const char *text)
{
    static const char separators[] = ",+;/ []";
    char *copy = mem_strdup(text), *save = NULL;
    int rc = 0;
    for (char *e = strtok_r(copy, separators, &save); e && rc == 0; e = strtok_r(NULL, separators, &save))
        rc = add_entry(l, e, text);
    free(copy);
    TRY(rc);
    return l->n > 0 ? 0 : err_set(ERR_INPUT, "lengths is empty; give a list such as 512+1024+2048");
}

/* left ++ hidden ++ right ++ tail, the parts of the background stripped (spec 4.3). */
static void put_hidden(struct str *out, const struct str *background, int64_t n_words, double depth,
                       const char *hidden, const char *tail)
{
    const char *text = str_c(background);
    int64_t words_left = (int64_t)((double)n_words * depth);
    size_t cut = words_offset(text, background->n, words_left);
    size_t left_from = 0, left_to = cut, right_from = cut, right_to = background->n;
    words_strip(text, &left_from, &left_to);
    words_strip(text, &right_from, &right_to);
    str_clear(out);
    str_addn(out, text + left_from, left_to - left_from);
    str_add(out, hidden);
    str_addn(out, text + right_from, right_to - right_from);
    str_add(out, tail);
}

struct builder {
    struct task *task;
    const struct grid *grid;
    const struct grid_params *params;
    const struct token_counter *counter;
    struct haystack haystack;
    struct str background, content, prompt, hidden, gold;
    int64_t guess; /* words that fitted the last example */
};

/* Prompt with `n_words` of background in b->content; returns its tokens or an error. */
static int64_t try_words(struct builder *b, int64_t n_words, double depth, int64_t *words)
{
    *words = haystack_background(&b->haystack, n_words, &b->background);
    put_hidden(&b->content, &b->background, *words, depth, str_c(&b->hidden), b->grid->tail);
    str_clear(&b->prompt);
    str_printf(&b->prompt, "%s%s%s", b->grid->instruction, str_c(&b->content), b->grid->question);
    int64_t n = b->counter->count(b->counter->ctx, str_c(&b->prompt), b->prompt.n);
    return n;
}

/* The most words whose prompt has at most `length` tokens: the answer for the last example is bracketed by
 * doubling steps, then halved in, because each count costs a tokenisation of the whole prompt. */
static int fit_tokens(struct builder *b, int64_t length, double depth, int64_t *words)
{
    int64_t fits = -1, above = MAX_LENGTH + 1, probe = b->guess, stride = 1, n = 0;
    while (above - fits > 1) {
        n = try_words(b, probe, depth, words);
        if (n < 0)
            return err_prefix((int)n, "counting the tokens of a prompt of %lld words", (long long)probe);
        if (n > length && probe == 0)
            return err_set(ERR_INPUT,
                           "length %lld tokens is less than the prompt without a haystack (%lld tokens)",
                           (long long)length, (long long)n);
        *(n <= length ? &fits : &above) = probe;
        if (fits >= 0 && above <= MAX_LENGTH)
            probe = fits + (above - fits) / 2;
        else
            probe = fits >= 0 ? fits + stride : above - stride;
        stride *= 2;
        probe = probe < 0 ? 0 : probe > MAX_LENGTH ? MAX_LENGTH : probe;
    }
    b->guess = fits;
    n = try_words(b, fits, depth, words);
    return n < 0 ? (int)n : 0;
}

static int build_content(struct builder *b, int64_t length, double depth, int64_t *words)
{
    if (b->params->unit == 1)
        return fit_tokens(b, length, depth, words);
    *words = haystack_background(&b->haystack, length, &b->background);
    put_hidden(&b->content, &b->background, *words, depth, str_c(&b->hidden), b->grid->tail);
    return 0;
}

static int add_example(struct builder *b, int64_t length, double depth, int iteration)
{
    int64_t words = 0;
    TRY(build_content(b, length, depth, &words));
    struct task *t = b->task;
    char depth_text[32];
    str_double(depth_text, depth);
    const char **gold = task_own(t, mem_alloc(1, sizeof *gold));
    gold[0] = task_own(t, mem_strdup(str_c(&b->gold)));
    struct example *e = MEM_PUSH(t->examples, t->n, t->cap);
    *e = (struct example){
        .id = task_own(t, mem_printf("len=%lld,depth=%s,it=%d", (long long)length, depth_text, iteration)),
        .before = b->grid->instruction,
        .context = task_own(t, mem_strndup(str_c(&b->content), b->content.n)),
        .after = b->grid->question,
        .compress_all = true,
        .gold = gold,
        .n_gold = 1,
        .n_words = (int32_t)words,
        .length = (double)length,
        .depth = depth,
        .iteration = iteration,
    };
    return 0;
}

static int build_all(struct builder *b, const struct lengths *lengths)
{
    const struct grid_params *p = b->params;
    struct mt19937 rng;
    mt19937_seed(&rng, (uint64_t)p->seed);
    int64_t n_depths = grid_size(0, 1, p->depths);
    if (lengths->n * n_depths * p->iterations > MAX_EXAMPLES)
        return err_set(ERR_INPUT, "lengths x depths x iterations is more than %d prompts", MAX_EXAMPLES);
    for (int l = 0; l < lengths->n; l++) {
        b->guess = lengths->v[l] / 2;
        for (int64_t d = 0; d < n_depths; d++)
            for (int it = 0; it < (int)p->iterations; it++) {
                str_clear(&b->hidden);
                str_clear(&b->gold);
                b->grid->draw(b->grid->params, &rng, &b->hidden, &b->gold);
                TRY(add_example(b, lengths->v[l], grid_value(0, 1, p->depths, d), it));
            }
    }
    return 0;
}

/* Hash of the parameters that shape the prompts and of the haystack's texts; the folder's name does not
 * count. */
static void hash_source(struct builder *b, const struct lengths *lengths)
{
    const struct grid_params *p = b->params;
    struct str s = {0};
    str_printf(&s, "%s unit=%s depths=%lld iterations=%lld %s seed=%lld lengths=", b->grid->name,
               p->unit ? "tokens" : "words", (long long)p->depths, (long long)p->iterations, b->grid->facts,
               (long long)p->seed);
    for (int i = 0; i < lengths->n; i++)
        str_printf(&s, "%lld ", (long long)lengths->v[i]);
    if (b->haystack.synthetic)
        haystack_background(
            &b->haystack, 1,
            &b->background); /* the first essay stands for the rest: same program, same seed */
    int n = b->haystack.synthetic ? 1 : b->haystack.n;
    for (int i = 0; i < n; i++) {
        char hex[65];
        file_sha256(b->haystack.pieces[i].text, b->haystack.pieces[i].n_bytes, hex);
        str_printf(&s, "\n%s", hex);
    }
    file_sha256(str_c(&s), s.n, b->task->sha256);
    str_free(&s);
}

int grid_open(struct task *t, const struct grid *g, const struct grid_params *p,
              const struct token_counter *counter)
{
    struct lengths *lengths = mem_alloc(1, sizeof *lengths);
    struct builder b = {.task = t, .grid = g, .params = p, .counter = counter};
    int rc = parse_lengths(lengths, p->lengths);
    if (rc == 0 && p->unit == 1 && !counter)
        rc = err_set(ERR_INPUT, "unit=tokens needs a model, because tokens are its tokenizer's");
    if (rc == 0)
        rc = haystack_open(&b.haystack, p->haystack, (uint64_t)p->seed);
    if (rc == 0)
        rc = build_all(&b, lengths);
    if (rc == 0)
        hash_source(&b, lengths);
    t->traits.max_new = (int)p->max_new;
    haystack_close(&b.haystack);
    str_free(&b.background);
    str_free(&b.content);
    str_free(&b.prompt);
    str_free(&b.hidden);
    str_free(&b.gold);
    free(lengths);
    return rc < 0 ? err_prefix(rc, "task %s", g->name) : 0;
}
