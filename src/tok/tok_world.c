/* The vocabulary of RWKV's World models (rwkv_vocab_v20230424.txt of BlinkDL/ChatRWKV): "ID LITERAL BYTES" a
 * line, where LITERAL is a Python literal of a text or of bytes. Encoding takes the longest token from the
 * left; as every byte is a token, nothing is ever unknown (rwkv_tokenizer.py of the package `rwkv`). */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_int.h"

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* n hexadecimal digits; false if they are not there. */
static bool hex_number(const char *s, size_t left, size_t n, uint32_t *v)
{
    *v = 0;
    if (left < n)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (hex(s[i]) < 0)
            return false;
        *v = *v << 4 | (uint32_t)hex(s[i]);
    }
    return true;
}

/* A number of an escape: a byte in a literal of bytes, else a code point. */
static bool add_number(struct str *out, uint32_t v, bool bytes)
{
    char utf8[4];
    if (bytes)
        str_addc(out, (char)v);
    else if (v >= 0xd800 && v < 0xe000)
        return false;
    else
        str_addn(out, utf8, (size_t)utf8_put(utf8, v));
    return true;
}

/* What stands behind a backslash; returns the characters used, 0 if it is none of the escapes of these files.
 */
static size_t add_escape(struct str *out, const char *s, size_t left, bool bytes)
{
    static const char from[] = "\\'\"nrt", to[] = "\\'\"\n\r\t";
    const char *p = left && *s ? strchr(from, *s) : NULL;
    uint32_t v;
    if (p) {
        str_addc(out, to[p - from]);
        return 1;
    }
    if (left && *s == 'x' && hex_number(s + 1, left - 1, 2, &v))
        return add_number(out, v, bytes) ? 3 : 0;
    if (left && *s == 'u' && !bytes && hex_number(s + 1, left - 1, 4, &v))
        return add_number(out, v, false) ? 5 : 0;
    return 0;
}

/* '…', "…" or b'…'; false if it is none of them to its end. */
static bool add_literal(struct str *out, const char *s, size_t n)
{
    bool bytes = n && *s == 'b';
    s += bytes, n -= bytes;
    if (n < 2 || (*s != '\'' && *s != '"') || s[n - 1] != *s)
        return false;
    for (size_t i = 1; i < n - 1;) {
        if (s[i] == *s || (bytes && (unsigned char)s[i] >= 0x80))
            return false;
        if (s[i] != '\\') {
            str_addc(out, s[i++]);
            continue;
        }
        size_t used = add_escape(out, s + i + 1, n - 2 - i, bytes);
        if (!used)
            return false;
        i += 1 + used;
    }
    return bytes || utf8_valid(str_c(out), out->n);
}

/* Digits alone: not "+5", nor what a NUL cuts short. */
static bool number_between(const char *s, size_t n, int64_t max, int64_t *v)
{
    char text[12] = "";
    if (n == 0 || n >= sizeof text)
        return false;
    memcpy(text, s, n);
    return strspn(text, "0123456789") == n && str_to_int(text, v) && *v > 0 && *v <= max;
}

/* The literal holds blanks too: it lies between the first one and the last. */
static int read_line(struct tok *t, const char *line, size_t n, size_t number)
{
    const char *a = memchr(line, ' ', n), *b = memrchr(line, ' ', n);
    int64_t id, bytes;
    struct str text = {0};
    int rc = 0;
    if (!a || a == b || !number_between(line, (size_t)(a - line), TOK_MAX_ID, &id) ||
        !number_between(b + 1, (size_t)(line + n - b - 1), INT32_MAX, &bytes) ||
        !add_literal(&text, a + 1, (size_t)(b - a - 1)))
        rc = err_set(ERR_INPUT,
                     "line %zu: an id from 1 on, a Python literal and its length in bytes are expected",
                     number);
    else if (text.n != (size_t)bytes)
        rc = err_set(ERR_INPUT, "line %zu: the token has %zu bytes, the line says %d", number, text.n,
                     (int)bytes);
    else if (tok_map_get(&t->bpe.vocab, text.data, text.n) >= 0)
        rc = err_set(ERR_INPUT, "line %zu: a token that an earlier line has", number);
    else
        added_trie_put(&t->world, tok_map_put(&t->bpe.vocab, text.data, text.n, (int32_t)id), text.n,
                       (int32_t)id);
    str_free(&text);
    return rc;
}

static int read_lines(struct tok *t, const char *data, size_t n)
{
    for (size_t at = 0, number = 1; at < n; number++) {
        const char *end = memchr(data + at, '\n', n - at);
        size_t next = end ? (size_t)(end - data) + 1 : n, len = (end ? next - 1 : n) - at;
        len -= len && data[at + len - 1] == '\r';
        if (len)
            TRY(read_line(t, data + at, len, number));
        at = next;
    }
    return 0;
}

static int check_ids(const struct tok_map *vocab)
{
    int32_t most = 0;
    for (size_t i = 0; i < vocab->cap; i++)
        if (vocab->slot[i].key && vocab->slot[i].value > most)
            most = vocab->slot[i].value;
    bool *used = mem_alloc((size_t)most + 1, sizeof *used);
    int rc = 0;
    for (size_t i = 0; i < vocab->cap && rc >= 0; i++) {
        if (!vocab->slot[i].key)
            continue;
        if (used[vocab->slot[i].value])
            rc = err_set(ERR_INPUT, "two tokens have the id %d", vocab->slot[i].value);
        used[vocab->slot[i].value] = true;
    }
    free(used);
    for (int b = 0; b < 256 && rc >= 0; b++) {
        const char byte = (char)b;
        if (tok_map_get(vocab, &byte, 1) < 0)
            rc = err_set(ERR_INPUT, "the byte 0x%02x is no token", (unsigned)b);
    }
    return rc;
}

int tok_read_world(struct tok *t, const char *path)
{
    char *data;
    size_t n;
    TRY(file_read(path, &data, &n));
    int rc = read_lines(t, data, n);
    if (rc >= 0)
        rc = check_ids(&t->bpe.vocab);
    free(data);
    t->has_decoder = true; /* without steps: the bytes of the tokens, one after the other */
    return rc < 0 ? err_prefix(rc, "%s", path) : 0;
}

void world_answer(const struct tok *t, const int32_t *ids, int64_t n, struct str *out)
{
    static const char unknown[] = "\xef\xbf\xbd";
    size_t shown = 0;
    for (int64_t i = 0; i < n && tok_piece(t, ids[i]); i++) {
        str_addn(out, t->text[ids[i]], t->n_text[ids[i]]);
        const char *waits = str_c(out) + shown;
        if (utf8_valid(waits, out->n - shown) && !memmem(waits, out->n - shown, unknown, 3))
            shown = out->n;
    }
    out->n = shown;
}

void world_encode(const struct added_trie *trie, const char *s, size_t n, struct ids *out)
{
    for (size_t at = 0; at < n;) {
        int32_t id = -1;
        at += added_trie_match(trie, s + at, n - at, &id);
        *MEM_PUSH(out->v, out->n, out->cap) = id;
    }
}
