#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/err.h"
#include "tok/tok_int.h"

/* Nothing below U+0300 changes under NFC, and lead bytes from 0xcc on are exactly the others. */
static bool plain_latin(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0xcc)
            return false;
    return true;
}

/* The field's library normalizes by the tables of Unicode 9. These are the later code points that decompose,
 * compose or reorder by newer tables: there they stay as they are and nothing moves across them. */
static const struct range {
    uint32_t first, last;
} later[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785},
    {0x10787, 0x107b0}, {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
    {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e},
    {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193d, 0x1193e},
    {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
    {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1},
    {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};

static bool is_later(uint32_t cp)
{
    size_t low = 0, high = sizeof later / sizeof *later;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (cp > later[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < sizeof later / sizeof *later && cp >= later[low].first;
}

static int put_mapped(enum step_kind kind, const char *in, size_t n, struct str *out)
{
    int options = UTF8PROC_STABLE;
    options |= kind == STEP_NFC || kind == STEP_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (kind == STEP_NFKC || kind == STEP_NFKD)
        options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t *text = NULL;
    utf8proc_ssize_t len =
        utf8proc_map((const utf8proc_uint8_t *)in, (utf8proc_ssize_t)n, &text, (utf8proc_option_t)options);
    if (len < 0)
        return err_set(ERR_INPUT, "the text cannot be normalized: %s", utf8proc_errmsg(len));
    str_addn(out, text, (size_t)len);
    free(text);
    return 0;
}

static int put_unicode(enum step_kind kind, const char *in, size_t n, struct str *out)
{
    size_t from = 0;
    if (kind == STEP_NFC && plain_latin(in, n)) {
        str_addn(out, in, n);
        return 0;
    }
    for (size_t at = from; at < n;) {
        uint32_t cp = (unsigned char)in[at];
        size_t len = cp < 0x80 ? 1 : (size_t)utf8_get(in + at, n - at, &cp);
        if (is_later(cp)) {
            TRY(put_mapped(kind, in + from, at - from, out));
            str_addn(out, in + at, len);
            from = at + len;
        }
        at += len;
    }
    return from < n ? put_mapped(kind, in + from, n - from, out) : 0;
}

static void replace_text(const struct step *s, const char *in, size_t n, struct str *out)
{
    size_t from = 0;
    const char *hit;
    while (s->n_pattern && (hit = memmem(in + from, n - from, s->pattern, s->n_pattern))) {
        str_addn(out, in + from, (size_t)(hit - in) - from);
        str_addn(out, s->content, s->n_content);
        from = (size_t)(hit - in) + s->n_pattern;
    }
    str_addn(out, in + from, n - from);
}

static int replace_regex(const struct step *s, struct tok_find *f, const char *in, size_t n, struct str *out)
{
    size_t done = 0, from = 0, a, b;
    int rc = 0;
    while (from <= n && (rc = tok_find_next(f, in, n, from, &a, &b)) > 0) {
        if (b > a) {
            str_addn(out, in + done, a - done);
            str_addn(out, s->content, s->n_content);
            done = b;
        }
        from = b > a ? b : b + 1;
        while (from < n && ((unsigned char)in[from] & 0xc0) == 0x80)
            from++;
    }
    str_addn(out, in + done, n - done);
    return rc;
}

/* The replacement takes the first character away. */
static bool drops_first(const struct step *s, struct tok_find *f, const char *in, size_t n)
{
    size_t a, b;
    if (s->n_content || !n)
        return false;
    if (f)
        return tok_find_next(f, in, n, 0, &a, &b) > 0 && a == 0 && b > 0;
    return s->n_pattern && n >= s->n_pattern && memcmp(in, s->pattern, s->n_pattern) == 0;
}

static int put_replaced(const struct step *s, struct tok_find *f, const char *in, size_t n,
                        struct pieces *out)
{
    size_t at = out->text.n;
    pieces_add(out, NULL, 0);
    if (out->n_start && drops_first(s, f, in, n))
        out->n_start = 0;
    if (f)
        TRY(replace_regex(s, f, in, n, &out->text));
    else
        replace_text(s, in, n, &out->text);
    out->span[out->n - 1].n = out->text.n - at;
    return 0;
}

static int normalize_one(const struct step *s, struct tok_find *f, const char *in, size_t n,
                         struct pieces *out)
{
    size_t at = out->text.n, cut;
    switch (s->kind) {
    case STEP_NFC:
    case STEP_NFD:
    case STEP_NFKC:
    case STEP_NFKD:
        pieces_add(out, NULL, 0);
        TRY(put_unicode(s->kind, in, n, &out->text));
        break;
    case STEP_CHARSMAP:
        pieces_add(out, NULL, 0);
        charsmap_apply(s->charsmap, in, n, &out->text);
        out->n_start = out->n_start && out->n == 1 ? charsmap_first(s->charsmap, in, n) : out->n_start;
        break;
    case STEP_TRIM:
        cut = s->start ? uni_trim_left(in, n) : 0;
        out->n_start = cut ? 0 : out->n_start;
        pieces_add(out, in + cut, n - cut - (s->stop ? uni_trim_right(in + cut, n - cut) : 0));
        return 0;
    case STEP_PREPEND:
        pieces_add(out, s->content, n ? s->n_content : 0);
        str_addn(&out->text, in, n);
        break;
    case STEP_PREFIX:
        pieces_add(out, " ", n && in[0] != ' ');
        str_addn(&out->text, in, n);
        break;
    case STEP_BYTES:
        pieces_add(out, NULL, 0);
        uni_add_bytes(&out->text, in, n);
        break;
    default:
        return put_replaced(s, f, in, n, out);
    }
    out->span[out->n - 1].n = out->text.n - at;
    return 0;
}

int step_normalize(const struct step *s, struct tok_find *f, const struct pieces *p, struct pieces *out)
{
    for (size_t i = 0; i < p->n; i++)
        TRY(normalize_one(s, f, p->text.data + p->span[i].at, p->span[i].n, out));
    return 0;
}
