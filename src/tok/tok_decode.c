#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"

static void decode_bytes(const struct pieces *p, struct pieces *out)
{
    struct str raw = {0};
    for (size_t i = 0; i < p->n; i++) {
        const char *in = p->text.data + p->span[i].at;
        if (!uni_add_unbytes(&raw, in, p->span[i].n))
            str_addn(&raw, in, p->span[i].n);
    }
    pieces_add(out, NULL, 0);
    uni_add_lossy(&out->text, str_c(&raw), raw.n);
    out->span[0].n = out->text.n;
    str_free(&raw);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "<0x41>" → 0x41; -1 for any other text. */
static int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    int high = s[3] == '+' ? 0 : hex_digit(s[3]),
        low = hex_digit(s[4]); /* "+5" is a number to the field's parser */
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* A run of byte tokens is its text if that is valid UTF-8, else one U+FFFD per byte. */
static void flush_bytes(struct str *bytes, struct pieces *out)
{
    if (!bytes->n)
        return;
    if (utf8_valid(bytes->data, bytes->n))
        pieces_add(out, bytes->data, bytes->n);
    else
        for (size_t i = 0; i < bytes->n; i++)
            pieces_add(out, "\xef\xbf\xbd", 3);
    str_clear(bytes);
}

static void decode_byte_fallback(const struct pieces *p, struct pieces *out)
{
    struct str bytes = {0};
    for (size_t i = 0; i < p->n; i++) {
        const char *in = p->text.data + p->span[i].at;
        int b = byte_token(in, p->span[i].n);
        if (b >= 0) {
            str_addc(&bytes, (char)b);
            continue;
        }
        flush_bytes(&bytes, out);
        pieces_add(out, in, p->span[i].n);
    }
    flush_bytes(&bytes, out);
    str_free(&bytes);
}

static void decode_fuse(const struct pieces *p, struct pieces *out)
{
    pieces_add(out, NULL, 0);
    for (size_t i = 0; i < p->n; i++)
        str_addn(&out->text, p->text.data + p->span[i].at, p->span[i].n);
    out->span[0].n = out->text.n;
}

static void decode_strip(const struct step *s, const struct pieces *p, struct pieces *out)
{
    for (size_t i = 0; i < p->n; i++) {
        const char *in = p->text.data + p->span[i].at;
        size_t n = p->span[i].n, len = s->n_content;
        for (int64_t k = 0; k < s->start && n >= len && memcmp(in, s->content, len) == 0; k++) {
            in += len;
            n -= len;
        }
        for (int64_t k = 0; k < s->stop && n >= len && memcmp(in + n - len, s->content, len) == 0; k++)
            n -= len;
        pieces_add(out, in, n);
    }
}

static void decode_metaspace(const struct step *s, const struct pieces *p, struct pieces *out)
{
    for (size_t i = 0; i < p->n; i++) {
        const char *in = p->text.data + p->span[i].at;
        size_t n = p->span[i].n, at = out->text.n;
        bool blank = i > 0 || s->scheme == PREPEND_NEVER;
        pieces_add(out, NULL, 0);
        for (size_t k = 0; k < n;) {
            if (n - k >= s->n_content && memcmp(in + k, s->content, s->n_content) == 0) {
                if (blank)
                    str_addc(&out->text, ' ');
                k += s->n_content;
            } else {
                str_addc(&out->text, in[k++]);
            }
        }
        out->span[i].n = out->text.n - at;
    }
}

int steps_decode(struct steps_run *r, struct pieces *p)
{
    for (size_t k = 0; k < r->steps->n; k++) {
        const struct step *s = &r->steps->v[k];
        pieces_clear(&r->tmp);
        if (s->kind == STEP_BYTES)
            decode_bytes(p, &r->tmp);
        else if (s->kind == STEP_BYTE_FALLBACK)
            decode_byte_fallback(p, &r->tmp);
        else if (s->kind == STEP_FUSE)
            decode_fuse(p, &r->tmp);
        else if (s->kind == STEP_STRIP)
            decode_strip(s, p, &r->tmp);
        else if (s->kind == STEP_METASPACE)
            decode_metaspace(s, p, &r->tmp);
        else
            TRY(step_normalize(s, r->find[k], p, &r->tmp));
        pieces_swap(p, &r->tmp);
    }
    return 0;
}
