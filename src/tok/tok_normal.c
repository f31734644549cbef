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

static int put_unicode(const struct step *s, const char *in, size_t n, struct pieces *out)
{
    if (s->kind == STEP_NFC && plain_latin(in, n)) {
        pieces_add(out, in, n);
        return 0;
    }
    int options = UTF8PROC_STABLE;
    options |= s->kind == STEP_NFC || s->kind == STEP_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (s->kind == STEP_NFKC || s->kind == STEP_NFKD)
        options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t *text = NULL;
    utf8proc_ssize_t len =
        utf8proc_map((const utf8proc_uint8_t *)in, (utf8proc_ssize_t)n, &text, (utf8proc_option_t)options);
    if (len < 0)
        return err_set(ERR_INPUT, "the text cannot be normalized: %s", utf8proc_errmsg(len));
    pieces_add(out, (const char *)text, (size_t)len);
    free(text);
    return 0;
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

static int put_replaced(const struct step *s, struct tok_find *f, const char *in, size_t n,
                        struct pieces *out)
{
    size_t at = out->text.n;
    pieces_add(out, NULL, 0);
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
        return put_unicode(s, in, n, out);
    case STEP_TRIM:
        cut = s->start ? uni_trim_left(in, n) : 0;
        out->at_start = out->at_start && !cut;
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
