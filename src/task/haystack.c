#include "task/haystack.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "task/utext.h"

#include <stdlib.h>
#include <string.h>

/* Length of the character at text[at]; a broken byte counts as one non-space character. */
static size_t step(const char *text, size_t n, size_t at, bool *space)
{
    unsigned char byte = (unsigned char)text[at];
    uint32_t c = byte;
    int len = 1;
    if (byte >= 0x80) {
        len = utf8_get(text + at, n - at, &c);
        if (len <= 0) {
            c = 0xFFFD;
            len = 1;
        }
    }
    *space = ucp_is_space(c);
    return (size_t)len;
}

size_t words_offset(const char *text, size_t n_bytes, int64_t i)
{
    bool in_word = false, space = false;
    int64_t n = 0;
    for (size_t at = 0, len = 0; at < n_bytes; at += len) {
        len = step(text, n_bytes, at, &space);
        if (!space && !in_word && n++ == i)
            return at;
        in_word = !space;
    }
    return n_bytes;
}

int64_t words_count(const char *text, size_t n_bytes)
{
    bool in_word = false, space = false;
    int64_t n = 0;
    for (size_t at = 0; at < n_bytes;) {
        at += step(text, n_bytes, at, &space);
        n += !space && !in_word;
        in_word = !space;
    }
    return n;
}

void words_strip(const char *text, size_t *from, size_t *to)
{
    size_t first = *to, end = *from;
    bool space = false;
    for (size_t at = *from, len = 0; at < *to; at += len) {
        len = step(text, *to, at, &space);
        if (space)
            continue;
        if (first == *to)
            first = at;
        end = at + len;
    }
    *from = first < end ? first : end;
    *to = end;
}

static struct piece *add_piece(struct haystack *h, char *text, size_t n_bytes)
{
    struct piece *p = MEM_PUSH(h->pieces, h->n, h->cap);
    *p = (struct piece){.text = text, .n_bytes = n_bytes, .n_words = words_count(text, n_bytes)};
    return p;
}

/* CR LF and CR become LF in place; returns the new length. */
static size_t fix_line_ends(char *s, size_t n)
{
    size_t to = 0;
    for (size_t at = 0; at < n; at++) {
        if (s[at] == '\r' && at + 1 < n && s[at + 1] == '\n')
            continue;
        s[to++] = s[at] == '\r' ? '\n' : s[at];
    }
    s[to] = '\0';
    return to;
}

static int add_file(struct haystack *h, const char *dir, const char *name)
{
    char *path = file_join(dir, name), *data = NULL;
    size_t n = 0;
    int rc = file_read(path, &data, &n);
    if (rc == 0 && n)
        rc = file_stand_in(path, data, n);
    if (rc == 0 && !utf8_valid(data, n))
        rc = err_set(ERR_INPUT, "haystack file %s is not UTF-8 text", path);
    if (rc == 0 && memchr(data, 0, n))
        rc = err_set(ERR_INPUT, "haystack file %s holds a NUL byte: not a text file", path);
    if (rc < 0)
        free(data);
    else
        add_piece(h, data, fix_line_ends(data, n));
    free(path);
    return rc;
}

static int open_folder(struct haystack *h, const char *dir)
{
    if (!file_is_dir(dir))
        return err_set(ERR_INPUT, "haystack '%s' is neither 'synthetic' nor a folder of text files", dir);
    char **names = NULL;
    int n = 0;
    TRY(file_list(dir, &names, &n));
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        if (names[i][0] != '.')
            rc = add_file(h, dir, names[i]);
    file_list_free(names, n);
    TRY(rc);
    int64_t n_words = 0;
    for (int i = 0; i < h->n; i++)
        n_words += h->pieces[i].n_words;
    return n_words > 0 ? 0 : err_set(ERR_INPUT, "haystack folder %s holds no text", dir);
}

int haystack_open(struct haystack *h, const char *source, uint64_t seed)
{
    *h = (struct haystack){.synthetic = strcmp(source, "synthetic") == 0, .seed = seed};
    return h->synthetic ? 0 : open_folder(h, source);
}

void haystack_close(struct haystack *h)
{
    for (int i = 0; i < h->n; i++)
        free(h->pieces[i].text);
    free(h->pieces);
    *h = (struct haystack){0};
}

static const struct piece *piece_at(struct haystack *h, int64_t i)
{
    if (!h->synthetic)
        return &h->pieces[i % h->n];
    while (h->n <= i) {
        char *text = synthetic_essay(h->seed, (uint64_t)h->n);
        add_piece(h, text, strlen(text));
    }
    return &h->pieces[i];
}

int64_t haystack_background(struct haystack *h, int64_t n_words, struct str *out)
{
    str_clear(out);
    int64_t sum = 0;
    for (int64_t i = 0; sum < n_words; i++) {
        const struct piece *p = piece_at(h, i);
        str_addn(out, p->text, p->n_bytes);
        sum += p->n_words;
    }
    const char *text = str_c(out);
    size_t from = 0, to = words_offset(text, out->n, n_words);
    words_strip(text, &from, &to);
    if (out->data) {
        memmove(out->data, out->data + from, to - from);
        out->n = to - from;
        out->data[out->n] = '\0';
    }
    return words_count(str_c(out), out->n);
}
