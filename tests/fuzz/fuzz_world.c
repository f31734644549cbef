/* The vocabulary of RWKV's World models, held against a second reader of the format. Hardly any change of a
 * whole vocabulary leaves one that opens: a byte without a token, a count that does not fit, an id that comes
 * twice end it. So the input is read as it is; behind a line for every byte; behind those with every line's
 * id and count set right and the lines that cannot be set right left out, which must open; and each wrong
 * line alone behind them, which must not, nor with a text or an id twice. */
#include "fuzz_tok.h"

#include "base/mem.h"
#include "base/str.h"
#include "tok/tok_int.h"

#include <ctype.h>
#include <stdio.h>

enum {
    FIRST_BYTE = 60000, /* id of the byte 0 */
    MOST_ALONE = 8,     /* wrong lines that are read alone, words that are cut short */
    MOST = 1 << 15
}; /* the second reader is slow */

struct vocabulary {
    struct word {
        int32_t id;
        size_t n;
        char *text;
    } * word;
    size_t n, cap;
};

static void need(int holds)
{
    if (!holds)
        abort();
}
static void vocabulary_free(struct vocabulary *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->word[i].text);
    free(v->word);
    *v = (struct vocabulary){0};
}
/* Takes the text over, or returns false if one like it, or its id, is there. */
static bool vocabulary_add(struct vocabulary *v, int32_t id, struct str *text)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->word[i].id == id || (v->word[i].n == text->n && *v->word[i].text == *text->data &&
                                    memcmp(v->word[i].text, text->data, text->n) == 0))
            return false;
    struct word *w = MEM_PUSH(v->word, v->n, v->cap);
    *w = (struct word){id, text->n, text->data};
    *text = (struct str){0};
    return true;
}

/* The number behind \x or \u; bytes: a byte, else a code point as UTF-8. */
static bool escaped_number(const char **s, const char *end, bool bytes, struct str *out)
{
    char digits[5] = "", utf8[4];
    const int n = **s == 'x' ? 2 : 4;
    for (int i = 0; i < n; i++)
        if (++*s == end || !isxdigit((unsigned char)(digits[i] = **s)))
            return false;
    const uint32_t v = (uint32_t)strtoul(digits, NULL, 16);
    if (bytes)
        str_addc(out, (char)v);
    else
        str_addn(out, utf8, (size_t)utf8_put(utf8, v));
    return bytes || v < 0xd800 || v > 0xdfff;
}
/* The bytes of a literal; false if it is none. */
static bool literal(const char *s, const char *end, struct str *out)
{
    static const char named[] = "\\\\''\"\"n\nr\rt\t";
    const bool bytes = s < end && *s == 'b';
    s += bytes;
    if (end - s < 2 || (*s != '\'' && *s != '"') || *--end != *s)
        return false;
    const char quote = *s;
    while (++s < end) {
        bool plain = *s != '\\', good = *s != quote && !(bytes && (unsigned char)*s > 0x7f);
        if (plain)
            str_addc(out, *s);
        else if (++s == end)
            good = false;
        else if (*s == 'x' || (*s == 'u' && !bytes))
            good = escaped_number(&s, end, bytes, out);
        else {
            size_t i = 0;
            while (i < sizeof named - 1 && named[i] != *s)
                i += 2;
            good = i < sizeof named - 1;
            str_addc(out, named[good ? i + 1 : 0]);
        }
        if (!good)
            return false;
    }
    return bytes || utf8_valid(str_c(out), out->n);
}
/* 1 to 11 digits; 0 if they are none. */
static int64_t number(const char *s, const char *end)
{
    int64_t v = 0;
    if (end - s > 11)
        return 0;
    for (; s < end; s++) {
        if (!isdigit((unsigned char)*s))
            return 0;
        v = 10 * v + (*s - '0');
    }
    return v;
}
/* One line; the literal's text also where id or count are wrong. 1: good, 0: only the literal is, -1:
 * neither. */
static int read_line(const char *s, const char *end, int64_t *id, struct str *text)
{
    const char *a = memchr(s, ' ', (size_t)(end - s)), *b = end;
    *id = 0;
    if (!a)
        return -1;
    while (*--b != ' ')
        ;
    if (a == b || !literal(a + 1, b, text) || !text->n)
        return -1;
    *id = number(s, a);
    return *id >= 1 && *id <= TOK_MAX_ID && number(b + 1, end) == (int64_t)text->n;
}
/* Calls take for every line that is not empty until it returns false; returns whether it never did. */
static bool each_line(const char *s, size_t n, bool (*take)(void *, const char *, const char *), void *ctx)
{
    const char *all = s + n;
    while (s < all) {
        const char *end = memchr(s, '\n', (size_t)(all - s)), *next = end ? end + 1 : all;
        end = end ? end : all;
        if (end > s && end[-1] == '\r')
            end--;
        if (end > s && !take(ctx, s, end))
            return false;
        s = next;
    }
    return true;
}
static bool take_word(void *ctx, const char *s, const char *end)
{
    struct str text = {0};
    int64_t id;
    const bool good = read_line(s, end, &id, &text) == 1 && vocabulary_add(ctx, (int32_t)id, &text);
    str_free(&text);
    return good;
}
static bool has_bytes(const struct vocabulary *v)
{
    int n = 0;
    for (size_t i = 0; i < v->n; i++)
        n += v->word[i].n == 1; /* no text is there twice */
    return n == 256;
}

/* The longest word from the left. */
static size_t encode(const struct vocabulary *v, const char *s, size_t n, int32_t *ids)
{
    size_t n_ids = 0;
    while (n) {
        const struct word *best = NULL;
        for (const struct word *w = v->word; w < v->word + v->n; w++)
            if (w->n <= n && *w->text == *s && memcmp(w->text, s, w->n) == 0 && (!best || w->n > best->n))
                best = w;
        ids[n_ids++] = best->id;
        s += best->n, n -= best->n;
    }
    return n_ids;
}
static void same_ids(const struct tok *t, const struct vocabulary *v, const struct str *s)
{
    int32_t *want = mem_alloc(s->n, sizeof *want), *ids = NULL;
    char *own = mem_alloc(s->n, 1), *back = NULL; /* own: its end is watched */
    memcpy(own, s->data, s->n);
    const size_t n_want = encode(v, own, s->n, want);
    int64_t n = 0;
    size_t n_back = 0;
    need(tok_encode(t, own, s->n, true, &ids, &n) == 0 && n == (int64_t)n_want);
    need(memcmp(ids, want, n_want * sizeof *ids) == 0);
    need(tok_decode(t, ids, n, false, &back, &n_back) == 0 && n_back == s->n);
    need(memcmp(back, own, n_back) == 0);
    free(want);
    free(own);
    free(ids);
    free(back);
}
/* A text of all words that can stand in one, each followed by a part of the one before. */
static void check_words(const struct tok *t, const struct vocabulary *v)
{
    struct str s = {0};
    int32_t most = 0;
    str_add(&s, "Hello  world, 123 \xc3\x9f\xf0\x9f\x98\x80\n");
    for (size_t i = 0; i < v->n && s.n < 1024; i++) {
        const struct word *w = &v->word[i], *before = &v->word[i ? i - 1 : 0];
        if (!utf8_valid(w->text, w->n) || !utf8_valid(before->text, before->n / 2))
            continue;
        str_addn(&s, w->text, w->n);
        str_addn(&s, before->text, before->n / 2);
    }
    for (size_t i = 0; i < v->n; i++)
        most = v->word[i].id > most ? v->word[i].id : most;
    need(tok_n_vocab(t) == most + 1);
    same_ids(t, v, &s);
    for (size_t i = v->n > MOST_ALONE ? v->n - MOST_ALONE : 0; i < v->n;
         i++) { /* ends where a word goes on */
        const struct word *w = &v->word[i];
        str_clear(&s);
        str_addn(&s, w->text, w->n - 1);
        if (s.n && utf8_valid(s.data, s.n))
            same_ids(t, v, &s);
    }
    str_free(&s);
}

/* Whether the file opens, which it must where the second reader takes it, and only there. */
static bool check_file(const char *s, size_t n)
{
    struct vocabulary v = {0};
    struct tok *t = NULL;
    const bool good = each_line(s, n, take_word, &v) && has_bytes(&v);
    need((tok_open_dir(&t, fuzz_file(TOK_WORLD_FILE, s, n, NULL)) == 0) == good);
    if (good)
        check_words(t, &v);
    tok_close(t);
    vocabulary_free(&v);
    return good;
}

struct mended {
    struct vocabulary v;
    struct str bytes, file; /* a line for every byte; those and the mended ones */
    struct str last;        /* of the last of them what stands behind its id */
    int32_t id;
    int n_alone;
};
/* `more` behind those lines: whether it opens. */
static bool check_with(const struct str *lines, const char *more, size_t n)
{
    struct str s = {0};
    str_addn(&s, lines->data, lines->n);
    str_addn(&s, more, n);
    const bool good = check_file(s.data, s.n);
    str_free(&s);
    return good;
}
static bool mend_line(void *ctx, const char *s, const char *end)
{
    struct mended *m = ctx;
    struct str text = {0};
    int64_t id;
    const int good = read_line(s, end, &id, &text);
    const size_t n_text = text.n;
    if (good >= 0 && vocabulary_add(&m->v, m->id, &text)) {
        const char *a = memchr(s, ' ', (size_t)(end - s)), *b = end;
        while (b[-1] != ' ')
            b--;
        str_clear(&m->last);
        str_addn(&m->last, a, (size_t)(b - a));
        str_printf(&m->last, "%zu\n", n_text);
        str_printf(&m->file, "%d", m->id++);
        str_addn(&m->file, m->last.data, m->last.n);
    }
    if (good < 1 && m->bytes.n && m->n_alone++ < MOST_ALONE) /* no other line may be what is refused */
        need(!check_with(&m->bytes, s, (size_t)(end - s)));
    str_free(&text);
    return m->v.n < 600;
}
static void add_bytes(struct mended *m)
{
    for (int b = 0; b < 256; b++) {
        char line[32];
        snprintf(line, sizeof line, "%d b'\\x%02x' 1", FIRST_BYTE + b, (unsigned)b);
        m->id = FIRST_BYTE + b;
        mend_line(m, line, line + strlen(line));
    }
    str_addn(&m->bytes, m->file.data, m->file.n);
    m->id = 1;
}

/* The last line's text with another id, its id with another text. */
static void check_twice(struct mended *m)
{
    struct str more = {0};
    str_printf(&more, "%d", m->id);
    str_addn(&more, m->last.data, m->last.n);
    need(!check_with(&m->file, more.data, more.n));
    str_clear(&more);
    str_printf(&more, "%d 'a text that is not there' 24\n", m->id > 1 ? m->id - 1 : FIRST_BYTE);
    need(!check_with(&m->file, more.data, more.n));
    str_free(&more);
}

/* Every byte but one. */
static void check_missing(const struct mended *m, size_t byte)
{
    const char *line = m->bytes.data;
    for (size_t i = 0; i < byte; i++)
        line = strchr(line, '\n') + 1;
    const struct str before = {m->bytes.data, (size_t)(line - m->bytes.data), 0};
    const char *behind = strchr(line, '\n') + 1;
    need(!check_with(&before, behind, (size_t)(m->bytes.data + m->bytes.n - behind)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct mended m = {0};
    if (n > MOST)
        return 0;
    check_file((const char *)data, n);
    add_bytes(&m);
    check_with(&m.bytes, (const char *)data, n);
    each_line((const char *)data, n, mend_line, &m);
    need(check_file(m.file.data, m.file.n));
    check_twice(&m);
    check_missing(&m, n % 2 ? 255 : n / 2 % 256);
    vocabulary_free(&m.v);
    str_free(&m.bytes);
    str_free(&m.file);
    str_free(&m.last);
    return 0;
}
