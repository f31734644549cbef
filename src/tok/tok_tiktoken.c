/* Files of ranks, as tiktoken has them: byte-level BPE without a list of merges. Two neighbours merge if
 * their bytes together are a token; the smallest rank goes first. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_int.h"

enum { MAX_TOKEN_BYTES = 4096 }; /* splitting a token tries every place: the work grows with the square */

/* cl100k_base as tiktoken's tiktoken_ext/openai_public.py has it. */
static const char PATTERN[] =
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|"
    "\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";

/* "BASE64 RANK" */
static int read_line(struct tok *t, const char *line, size_t n, size_t number)
{
    const char *blank = memchr(line, ' ', n);
    char rank[12] = "";
    int64_t id = -1;
    if (blank && n - (size_t)(blank + 1 - line) < sizeof rank)
        memcpy(rank, blank + 1, n - (size_t)(blank + 1 - line));
    struct str bytes = {0}, letters = {0};
    bool ok = blank && base64_add(&bytes, line, (size_t)(blank - line)) && bytes.n && str_to_int(rank, &id) &&
              id >= 0 && id <= TOK_MAX_ID;
    int rc = 0;
    if (!ok)
        rc = err_set(ERR_INPUT, "line %zu: a token in base64, a blank and its rank (0 to %d) are expected",
                     number, TOK_MAX_ID);
    else if (bytes.n > MAX_TOKEN_BYTES)
        rc = err_set(ERR_INPUT, "line %zu: a token of %zu bytes, at most %d are possible", number, bytes.n,
                     MAX_TOKEN_BYTES);
    if (rc >= 0) {
        uni_add_bytes(&letters, bytes.data, bytes.n);
        if (tok_map_get(&t->bpe.vocab, letters.data, letters.n) >= 0)
            rc = err_set(ERR_INPUT, "line %zu: a token that an earlier line has", number);
        else
            tok_map_put(&t->bpe.vocab, letters.data, letters.n, (int32_t)id);
    }
    str_free(&bytes);
    str_free(&letters);
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

/* Every byte must be a token, and no rank may occur twice. */
static int check_ranks(const struct tok_map *vocab)
{
    bool *used = mem_alloc(TOK_MAX_ID + 1, sizeof *used);
    int rc = 0;
    for (size_t i = 0; i < vocab->cap && rc >= 0; i++) {
        if (!vocab->slot[i].key)
            continue;
        if (used[vocab->slot[i].value])
            rc = err_set(ERR_INPUT, "two tokens have the rank %d", vocab->slot[i].value);
        used[vocab->slot[i].value] = true;
    }
    free(used);
    for (int b = 0; b < 256 && rc >= 0; b++) {
        const char byte = (char)b;
        struct str letter = {0};
        uni_add_bytes(&letter, &byte, 1);
        if (tok_map_get(vocab, letter.data, letter.n) < 0)
            rc = err_set(ERR_INPUT, "the byte 0x%02x is no token", (unsigned)b);
        str_free(&letter);
    }
    return rc;
}

/* All the ways in which two tokens make a third. */
static void put_merges(struct bpe *b)
{
    for (size_t i = 0; i < b->vocab.cap; i++) {
        const char *s = b->vocab.slot[i].key;
        size_t n = s ? b->vocab.slot[i].n : 0;
        int32_t id = b->vocab.slot[i].value;
        for (size_t at = 1; at < n; at++) {
            if (((unsigned char)s[at] & 0xc0) == 0x80)
                continue; /* inside a letter of the byte alphabet */
            int32_t left = tok_map_get(&b->vocab, s, at),
                    right = left < 0 ? -1 : tok_map_get(&b->vocab, s + at, n - at);
            if (right >= 0)
                tok_merges_put(&b->merges, left, right, id, id);
        }
    }
}

static int open_ranks(struct tok *t, const char *data, size_t n)
{
    TRY(read_lines(t, data, n));
    TRY(check_ranks(&t->bpe.vocab));
    put_merges(&t->bpe);
    t->bpe.ignore_merges = true; /* a piece that is a token is never looked into */
    struct step *s = steps_add(&t->pre, STEP_SPLIT);
    s->behavior = SPLIT_ISOLATED;
    TRY(tok_regex_open(&s->regex, PATTERN, "the pattern of cl100k_base"));
    steps_add(&t->pre, STEP_BYTES);
    steps_add(&t->decoder, STEP_BYTES);
    t->has_decoder = true;
    return tok_finish(t);
}

int tok_open_tiktoken(struct tok **out, const char *path)
{
    char *data;
    size_t n;
    *out = NULL;
    TRY(file_read(path, &data, &n));
    int rc = file_stand_in(path, data, n);
    if (rc < 0) {
        free(data);
        return rc;
    }
    struct tok *t = tok_new();
    rc = open_ranks(t, data, n);
    free(data);
    if (rc < 0) {
        tok_close(t);
        return err_prefix(rc, "%s", path);
    }
    *out = t;
    return 0;
}
