#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"

/* Matches and the text between them, in order; together they cover a piece. */
struct part {
    size_t at, n;
    bool match;
};

struct parts {
    struct part *v;
    size_t n, cap;
};

static void part_add(struct parts *p, size_t at, size_t end, bool match)
{
    if (end > at || match)
        *MEM_PUSH(p->v, p->n, p->cap) = (struct part){at, end - at, match};
}

static size_t next_char(const char *s, size_t n, size_t at)
{
    at++;
    while (at < n && ((unsigned char)s[at] & 0xc0) == 0x80)
        at++;
    return at;
}

static int find_regex(struct tok_find *f, const char *s, size_t n, struct parts *out)
{
    size_t done = 0, from = 0, a, b;
    int rc = 0;
    while (from <= n && (rc = tok_find_next(f, s, n, from, &a, &b)) > 0) {
        part_add(out, done, a, false);
        part_add(out, a, b, true);
        done = b;
        from = b > a ? b : next_char(s, n, b);
    }
    part_add(out, done, n, false);
    return rc;
}

static void find_text(const char *want, size_t n_want, const char *s, size_t n, struct parts *out)
{
    size_t done = 0;
    const char *hit;
    while (n_want && (hit = memmem(s + done, n - done, want, n_want))) {
        size_t a = (size_t)(hit - s);
        part_add(out, done, a, false);
        part_add(out, a, a + n_want, true);
        done = a + n_want;
    }
    part_add(out, done, n, false);
}

static void find_chars(bool (*wanted)(uint32_t cp), const char *s, size_t n, struct parts *out)
{
    size_t done = 0;
    for (size_t at = 0; at < n;) {
        uint32_t cp = (unsigned char)s[at];
        size_t len = cp < 0x80 ? 1 : (size_t)utf8_get(s + at, n - at, &cp);
        if (wanted(cp)) {
            part_add(out, done, at, false);
            part_add(out, at, at + len, true);
            done = at + len;
        }
        at += len;
    }
    part_add(out, done, n, false);
}

/* Joins each match to the text before it (or after it); of two matches in a row only one is joined. */
static void cut_joined(const struct parts *in, size_t base, bool next, struct pieces *out)
{
    size_t first = out->n;
    bool previous = false;
    for (size_t k = 0; k < in->n; k++) {
        const struct part *p = &in->v[next ? in->n - 1 - k : k];
        if (p->match && !previous && out->n > first) {
            struct span *s = &out->span[out->n - 1];
            if (next)
                s->at = base + p->at;
            s->n += p->n;
        } else {
            *MEM_PUSH(out->span, out->n, out->cap) = (struct span){base + p->at, p->n};
        }
        previous = p->match;
    }
    for (size_t i = first, j = out->n; next && i + 1 < j; i++) {
        struct span s = out->span[i];
        out->span[i] = out->span[--j];
        out->span[j] = s;
    }
    size_t keep = first; /* pieces from empty matches */
    for (size_t i = first; i < out->n; i++)
        if (out->span[i].n)
            out->span[keep++] = out->span[i];
    out->n = keep;
}

static void cut_contiguous(const struct parts *in, size_t base, struct pieces *out)
{
    for (size_t i = 0, j; i < in->n; i = j) {
        size_t n = in->v[i].n;
        for (j = i + 1; j < in->n && in->v[j].match == in->v[i].match; j++)
            n += in->v[j].n;
        pieces_cut(out, base + in->v[i].at, n);
    }
}

static void cut_parts(const struct step *s, struct parts *in, size_t base, struct pieces *out)
{
    for (size_t i = 0; s->invert && i < in->n; i++)
        in->v[i].match = !in->v[i].match;
    switch (s->behavior) {
    case SPLIT_PREVIOUS:
    case SPLIT_NEXT:
        cut_joined(in, base, s->behavior == SPLIT_NEXT, out);
        return;
    case SPLIT_CONTIGUOUS:
        cut_contiguous(in, base, out);
        return;
    default:
        for (size_t i = 0; i < in->n; i++)
            if (s->behavior != SPLIT_REMOVED || !in->v[i].match)
                pieces_cut(out, base + in->v[i].at, in->v[i].n);
    }
}

/* Cuts pieces further; the text itself moves on to `out` unchanged. */
static int split(const struct step *s, struct tok_find *f, struct pieces *p, struct pieces *out)
{
    struct parts parts = {0};
    int rc = 0;
    for (size_t i = 0; i < p->n && rc >= 0; i++) {
        const char *in = p->text.data + p->span[i].at;
        size_t n = p->span[i].n;
        parts.n = 0;
        if (s->kind == STEP_DIGITS)
            find_chars(uni_numeric, in, n, &parts);
        else if (s->kind == STEP_SPACES)
            find_chars(uni_space, in, n, &parts);
        else if (f)
            rc = find_regex(f, in, n, &parts);
        else
            find_text(s->pattern, s->n_pattern, in, n, &parts);
        cut_parts(s, &parts, p->span[i].at, out);
    }
    free(parts.v);
    struct str text = out->text;
    out->text = p->text;
    p->text = text;
    return rc;
}

static bool starts_with(const char *s, size_t n, const char *want, size_t n_want)
{
    return n >= n_want && memcmp(s, want, n_want) == 0;
}

static void metaspace_one(const struct step *s, const char *in, size_t n, bool at_start, struct pieces *out)
{
    size_t at = out->text.n;
    bool has = starts_with(in, n, s->content, s->n_content) || (n && in[0] == ' ');
    if (!has && (s->scheme == PREPEND_ALWAYS || (s->scheme == PREPEND_FIRST && at_start)))
        str_addn(&out->text, s->content, s->n_content);
    for (size_t i = 0, j; i < n; i = j) {
        for (j = i; j < n && in[j] != ' '; j++)
            ;
        str_addn(&out->text, in + i, j - i);
        if (j < n) {
            str_addn(&out->text, s->content, s->n_content);
            j++;
        }
    }
    if (!s->split) {
        pieces_cut(out, at, out->text.n - at);
        return;
    }
    for (size_t from = at, next; from < out->text.n; from = next) {
        const char *hit = from + 1 < out->text.n ? memmem(out->text.data + from + 1, out->text.n - from - 1,
                                                          s->content, s->n_content)
                                                 : NULL;
        next = hit ? (size_t)(hit - out->text.data) : out->text.n;
        pieces_cut(out, from, next - from);
    }
}

static void metaspace(const struct step *s, const struct pieces *p, struct pieces *out)
{
    for (size_t i = 0; i < p->n; i++)
        metaspace_one(s, p->text.data + p->span[i].at, p->span[i].n, p->span[i].at < p->n_start, out);
}

int steps_split(struct steps_run *r, struct pieces *p)
{
    for (size_t k = 0; k < r->steps->n; k++) {
        const struct step *s = &r->steps->v[k];
        pieces_clear(&r->tmp);
        r->tmp.n_start = p->n_start;
        if (s->kind == STEP_SPLIT || s->kind == STEP_DIGITS || s->kind == STEP_SPACES)
            TRY(split(s, r->find[k], p, &r->tmp));
        else if (s->kind == STEP_METASPACE)
            metaspace(s, p, &r->tmp);
        else
            TRY(step_normalize(s, r->find[k], p, &r->tmp));
        pieces_swap(p, &r->tmp);
    }
    return 0;
}
