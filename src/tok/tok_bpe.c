#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/tok_int.h"

enum { MAX_CACHED = 48 }; /* bytes of the longest word that is remembered */

struct symbol {
    int32_t id, prev, next; /* neighbours, -1 at the ends; id -1: merged into its left neighbour */
};

struct candidate {  /* smallest rank first, then leftmost */
    uint64_t order; /* rank << 32 | position */
    int32_t id;
};

struct bpe_run {
    const struct bpe *bpe;
    struct symbol *sym;
    size_t n_sym, cap_sym;
    struct candidate *heap;
    size_t n_heap, cap_heap;
    struct tok_map cache; /* word → index into found */
    struct found {
        size_t at;
        size_t n;
    } * found;
    size_t n_found, cap_found;
    struct ids known;
};

void bpe_free(struct bpe *b)
{
    tok_map_free(&b->vocab);
    tok_merges_free(&b->merges);
    free(b->prefix);
    free(b->suffix);
    *b = (struct bpe){0};
}

/* U+2581 somewhere behind another character. */
static bool blank_inside(const char *s, size_t n)
{
    for (size_t i = 1; i + 3 <= n; i++)
        if (memcmp(s + i, TOK_BLANK, 3) == 0 && (i < 3 || memcmp(s + i - 3, TOK_BLANK, 3) != 0))
            return true;
    return false;
}

void bpe_finish(struct bpe *b)
{
    for (int i = 0; i < 256; i++) {
        char text[8];
        int n = snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        b->byte_token[i] = tok_map_get(&b->vocab, text, (size_t)n);
    }
    for (uint32_t cp = 0; cp < 0x800; cp++) {
        char text[4];
        int n = utf8_put(text, cp);
        b->low_char[cp] = tok_map_get(&b->vocab, text, (size_t)n);
    }
    b->cut_at_blank = !b->prefix && !b->suffix && tok_map_get(&b->vocab, TOK_BLANK, 3) >= 0;
    for (size_t i = 0; i < b->vocab.cap && b->cut_at_blank; i++)
        if (b->vocab.slot[i].key && blank_inside(b->vocab.slot[i].key, b->vocab.slot[i].n))
            b->cut_at_blank = false;
}

struct bpe_run *bpe_run_open(const struct bpe *b)
{
    struct bpe_run *r = mem_alloc(1, sizeof *r);
    r->bpe = b;
    return r;
}

void bpe_run_close(struct bpe_run *r)
{
    if (!r)
        return;
    free(r->sym);
    free(r->heap);
    tok_map_free(&r->cache);
    free(r->found);
    free(r->known.v);
    free(r);
}

static void push(struct bpe_run *r, struct candidate c)
{
    size_t i = r->n_heap;
    (void)MEM_PUSH(r->heap, r->n_heap, r->cap_heap);
    for (size_t up; i > 0 && r->heap[up = (i - 1) / 2].order > c.order; i = up)
        r->heap[i] = r->heap[up];
    r->heap[i] = c;
}

static struct candidate pop(struct bpe_run *r)
{
    struct candidate top = r->heap[0], c = r->heap[--r->n_heap];
    size_t i = 0, n = r->n_heap;
    for (size_t down; (down = 2 * i + 1) < n; i = down) {
        if (down + 1 < n && r->heap[down + 1].order < r->heap[down].order)
            down++;
        if (c.order <= r->heap[down].order)
            break;
        r->heap[i] = r->heap[down];
    }
    r->heap[i] = c;
    return top;
}

static void push_pair(struct bpe_run *r, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return;
    const struct tok_merge *m = tok_merges_get(&r->bpe->merges, r->sym[left].id, r->sym[right].id);
    if (m)
        push(r, (struct candidate){(uint64_t)(uint32_t)m->rank << 32 | (uint32_t)left, m->id});
}

static void add_symbol(struct bpe_run *r, int32_t id)
{
    int32_t at = (int32_t)r->n_sym;
    *MEM_PUSH(r->sym, r->n_sym, r->cap_sym) = (struct symbol){id, at - 1, at + 1};
}

static int32_t char_id(const struct bpe *b, const char *s, size_t n, bool first, bool last)
{
    const char *before = first ? NULL : b->prefix, *after = last ? b->suffix : NULL;
    const unsigned char *c = (const unsigned char *)s;
    if (!before && !after)
        return n == 1   ? b->low_char[c[0] & 0x7f]
               : n == 2 ? b->low_char[(c[0] & 0x1f) << 6 | (c[1] & 0x3f)]
                        : tok_map_get(&b->vocab, s, n);
    struct str text = {0};
    str_add(&text, before ? before : "");
    str_addn(&text, s, n);
    str_add(&text, after ? after : "");
    int32_t id = tok_map_get(&b->vocab, text.data, text.n);
    str_free(&text);
    return id;
}

static bool add_byte_tokens(struct bpe_run *r, const char *s, size_t n)
{
    const int32_t *token = r->bpe->byte_token;
    for (size_t i = 0; i < n; i++)
        if (token[(unsigned char)s[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        add_symbol(r, token[(unsigned char)s[i]]);
    return true;
}

static size_t char_length(const char *s, size_t n)
{
    unsigned char c = (unsigned char)s[0];
    size_t len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    return len < n ? len : n;
}

/* One symbol per character; unknown ones become byte tokens, or the unknown token, which is held back until
 * the next known character (so that runs can be fused, and, as in the field's library, after byte tokens that
 * follow it). */
static void add_symbols(struct bpe_run *r, const char *s, size_t n)
{
    const struct bpe *b = r->bpe;
    bool unknown = false;
    for (size_t at = 0, len; at < n; at += len) {
        len = char_length(s + at, n - at);
        int32_t id = char_id(b, s + at, len, at == 0, at + len == n);
        if (id >= 0) {
            if (unknown)
                add_symbol(r, b->unk);
            unknown = false;
            add_symbol(r, id);
        } else if (!(b->byte_fallback && add_byte_tokens(r, s + at, len)) && b->unk >= 0) {
            if (unknown && !b->fuse_unk)
                add_symbol(r, b->unk);
            unknown = true;
        }
    }
    if (unknown)
        add_symbol(r, b->unk);
}

static void merge_symbols(struct bpe_run *r)
{
    r->n_heap = 0;
    for (size_t i = 0; i + 1 < r->n_sym; i++)
        push_pair(r, (int32_t)i, (int32_t)i + 1);
    while (r->n_heap) {
        struct candidate c = pop(r);
        int32_t at = (int32_t)(c.order & 0xffffffffu);
        struct symbol *left = &r->sym[at];
        if (left->id < 0 || left->next < 0)
            continue;
        struct symbol *right = &r->sym[left->next];
        const struct tok_merge *m = tok_merges_get(&r->bpe->merges, left->id, right->id);
        if (!m || m->id != c.id)
            continue; /* one of the two was merged with another symbol meanwhile */
        left->id = c.id;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0)
            r->sym[left->next].prev = at;
        push_pair(r, left->prev, at);
        push_pair(r, at, left->next);
    }
}

static void encode_word(struct bpe_run *r, const char *s, size_t n, struct ids *out)
{
    r->n_sym = 0;
    add_symbols(r, s, n);
    if (r->n_sym) {
        r->sym[r->n_sym - 1].next = -1;
        merge_symbols(r);
    }
    for (size_t i = 0; i < r->n_sym; i++)
        if (r->sym[i].id >= 0)
            *MEM_PUSH(out->v, out->n, out->cap) = r->sym[i].id;
}

static void encode_cached(struct bpe_run *r, const char *s, size_t n, struct ids *out)
{
    if (n > MAX_CACHED) {
        encode_word(r, s, n, out);
        return;
    }
    int32_t k = tok_map_get(&r->cache, s, n);
    if (k < 0) {
        size_t at = r->known.n;
        encode_word(r, s, n, &r->known);
        k = (int32_t)r->n_found;
        *MEM_PUSH(r->found, r->n_found, r->cap_found) = (struct found){at, r->known.n - at};
        tok_map_put(&r->cache, s, n, k);
    }
    for (size_t i = 0; i < r->found[k].n; i++)
        *MEM_PUSH(out->v, out->n, out->cap) = r->known.v[r->found[k].at + i];
}

void bpe_encode(struct bpe_run *r, const char *s, size_t n, struct ids *out)
{
    int32_t whole = r->bpe->ignore_merges ? tok_map_get(&r->bpe->vocab, s, n) : -1;
    if (whole >= 0) {
        *MEM_PUSH(out->v, out->n, out->cap) = whole;
        return;
    }
    size_t from = 0;
    for (size_t at = 3; r->bpe->cut_at_blank && at + 3 <= n; at++)
        if (memcmp(s + at, TOK_BLANK, 3) == 0 && memcmp(s + at - 3, TOK_BLANK, 3) != 0) {
            encode_cached(r, s + from, at - from, out);
            from = at;
        }
    encode_cached(r, s + from, n - from, out);
}
