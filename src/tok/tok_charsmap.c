/* SentencePiece's compiled character map (the "precompiled_charsmap" of its model files): a double-array trie
 * (darts-clone: 32-bit units, a child is found by exclusive or of an offset and a byte) from texts to places
 * in a list of NUL-terminated replacements. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"

struct charsmap {
    uint32_t *unit; /* [n_unit] */
    size_t n_unit;
    char *text; /* [n_text], then a NUL */
    size_t n_text;
};

static bool has_leaf(uint32_t unit)
{
    return unit >> 8 & 1;
}

static uint32_t leaf_value(uint32_t unit)
{
    return unit & 0x7fffffffu;
}

/* Of a leaf it is no byte: bit 31 is set there. */
static uint32_t label(uint32_t unit)
{
    return unit & 0x800000ffu;
}

static size_t offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << (unit >> 6 & 8);
}

/* The children of one node lie in the 256 units around `base`, the leaf at `base` itself. */
static int check_node(const struct charsmap *m, uint32_t unit, size_t base, const char *where)
{
    if ((base | 0xff) >= m->n_unit)
        return err_set(ERR_INPUT, "%s: the character map leads outside its trie of %zu units", where,
                       m->n_unit);
    if (!has_leaf(unit))
        return 0;
    uint32_t value = leaf_value(m->unit[base]);
    if (value > m->n_text || (value < m->n_text && ((unsigned char)m->text[value] & 0xc0) == 0x80))
        return err_set(ERR_INPUT, "%s: the character map has a replacement at %u of %zu bytes", where, value,
                       m->n_text);
    return 0;
}

/* Visits every node that a look-up can reach. */
static int check_trie(const struct charsmap *m, const char *where)
{
    size_t *todo = mem_alloc(m->n_unit, sizeof *todo), n = 0;
    bool *seen = mem_alloc(m->n_unit, sizeof *seen);
    todo[n++] = 0;
    seen[0] = true;
    int rc = 0;
    while (n && rc >= 0) {
        size_t node = todo[--n], base = node ^ offset(m->unit[node]);
        rc = check_node(m, m->unit[node], base, where);
        for (uint32_t c = 1; c < 256 && rc >= 0; c++)
            if (label(m->unit[base ^ c]) == c && !seen[base ^ c]) {
                seen[base ^ c] = true;
                todo[n++] = base ^ c;
            }
    }
    free(seen);
    free(todo);
    return rc;
}

static uint32_t get_u32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int charsmap_open(struct charsmap **out, const void *bytes, size_t n, const char *where)
{
    const unsigned char *p = bytes;
    *out = NULL;
    size_t n_trie = n < 4 ? 0 : get_u32(p) / 4;
    if (!n_trie || n_trie > (n - 4) / 4)
        return err_set(ERR_INPUT, "%s: the character map of %zu bytes is cut short", where, n);
    if (!utf8_valid((const char *)p + 4 + 4 * n_trie, n - 4 - 4 * n_trie))
        return err_set(ERR_INPUT, "%s: the replacements of the character map are not valid UTF-8", where);
    struct charsmap *m = mem_alloc(1, sizeof *m);
    m->n_unit = n_trie;
    m->unit = mem_alloc(n_trie, sizeof *m->unit);
    for (size_t i = 0; i < n_trie; i++)
        m->unit[i] = get_u32(p + 4 + 4 * i);
    m->n_text = n - 4 - 4 * n_trie;
    m->text = mem_alloc(m->n_text + 1, 1);
    if (m->n_text)
        memcpy(m->text, p + 4 + 4 * n_trie, m->n_text);
    int rc = check_trie(m, where);
    if (rc < 0)
        charsmap_close(m);
    else
        *out = m;
    return rc;
}

void charsmap_close(struct charsmap *m)
{
    if (!m)
        return;
    free(m->unit);
    free(m->text);
    free(m);
}

/* Replacement of the *shortest* entry that s[0..n) begins with, for all of s: the field's library does so,
 * and models are used with it. NULL where there is none. */
static const char *find(const struct charsmap *m, const char *s, size_t n)
{
    size_t base = offset(m->unit[0]);
    for (size_t i = 0; i < n && s[i]; i++) {
        unsigned char c = (unsigned char)s[i];
        size_t node = base ^ c;
        uint32_t unit = m->unit[node];
        if (label(unit) != c)
            return NULL;
        base = node ^ offset(unit);
        if (has_leaf(unit))
            return m->text + leaf_value(m->unit[base]);
    }
    return NULL;
}

static void put_grapheme(const struct charsmap *m, const char *s, size_t n, struct str *out)
{
    enum { WHOLE = 5 }; /* bytes: longer ones are only looked up by character */
    const char *to = n <= WHOLE ? find(m, s, n) : NULL;
    if (to) {
        str_add(out, to);
        return;
    }
    for (size_t at = 0, len; at < n; at += len) {
        uint32_t cp;
        len = (size_t)utf8_get(s + at, n - at, &cp);
        to = find(m, s + at, len);
        str_addn(out, to ? to : s + at, to ? strlen(to) : len);
    }
}

/* Bytes of the grapheme at the start. */
static size_t grapheme(const char *s, size_t n)
{
    utf8proc_int32_t state = 0;
    uint32_t cp, next;
    if (n > 1 && (unsigned char)s[0] < 0x80 && (unsigned char)s[1] < 0x80 && s[0] != '\r')
        return 1;
    size_t at = (size_t)utf8_get(s, n, &cp);
    while (at < n) {
        size_t len = (size_t)utf8_get(s + at, n - at, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)cp, (utf8proc_int32_t)next, &state))
            break;
        cp = next;
        at += len;
    }
    return at;
}

size_t charsmap_first(const struct charsmap *m, const char *s, size_t n)
{
    uint32_t cp;
    size_t len = n ? (size_t)utf8_get(s, n, &cp) : 0;
    const char *to = len ? find(m, s, len) : NULL;
    return to && *to && grapheme(s, n) == len ? strlen(to) : 1;
}

void charsmap_apply(const struct charsmap *m, const char *s, size_t n, struct str *out)
{
    for (size_t at = 0, len; at < n; at += len) {
        len = grapheme(s + at, n - at);
        put_grapheme(m, s + at, len, out);
    }
}
