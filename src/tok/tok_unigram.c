/* The Unigram model: the path through a text whose pieces have the greatest sum of scores (Kudo 2018, arXiv
 * 1804.10959, section 3), with the tie rules and the unknown token of the field's library. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"

enum { UNK_PENALTY = 10 }; /* an unknown character scores this much less than the worst piece */

void unigram_free(struct unigram *u)
{
    free(u->piece);
    free(u->n_piece);
    free(u->score);
    free(u->node);
    *u = (struct unigram){.unk = -1};
}

void unigram_add(struct unigram *u, struct tok_map *vocab, const char *text, size_t n, double score)
{
    if ((u->n & (u->n - 1)) == 0) { /* full at every power of two */
        size_t cap = u->n ? 2 * (size_t)u->n : 1;
        u->piece = mem_grow(u->piece, cap, sizeof *u->piece);
        u->n_piece = mem_grow(u->n_piece, cap, sizeof *u->n_piece);
        u->score = mem_grow(u->score, cap, sizeof *u->score);
    }
    u->piece[u->n] = tok_map_put(vocab, text, n, u->n);
    u->n_piece[u->n] = (uint32_t)n;
    u->score[u->n++] = score;
}

/* ---- trie ---- */

struct entry {
    const char *s;
    uint32_t n;
    int32_t id;
};

static int compare_entries(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    int order = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n);
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

static struct entry *sorted_entries(const struct tok_map *vocab)
{
    struct entry *e = mem_alloc(vocab->n + 1, sizeof *e);
    size_t n = 0;
    for (size_t i = 0; i < vocab->cap; i++)
        if (vocab->slot[i].key)
            e[n++] = (struct entry){vocab->slot[i].key, vocab->slot[i].n, vocab->slot[i].value};
    qsort(e, n, sizeof *e, compare_entries);
    return e;
}

/* Entries below one node. */
struct range {
    size_t from, to;
    uint32_t depth;
};

struct builder {
    struct unigram_node *node;
    struct range *range;
    size_t n, cap_node, cap_range;
};

static void add_node(struct builder *b, unsigned char byte, struct range range)
{
    size_t n = b->n;
    *MEM_PUSH(b->range, n, b->cap_range) = range;
    *MEM_PUSH(b->node, b->n, b->cap_node) = (struct unigram_node){-1, -1, 0, byte};
}

/* Children of node k, one for each byte that follows. */
static void add_children(struct builder *b, const struct entry *e, size_t k)
{
    struct range r = b->range[k];
    if (r.from < r.to && e[r.from].n == r.depth)
        b->node[k].token = e[r.from++].id;
    b->node[k].first = (int32_t)b->n;
    for (size_t i = r.from, j; i < r.to; i = j) {
        unsigned char byte = (unsigned char)e[i].s[r.depth];
        for (j = i + 1; j < r.to && (unsigned char)e[j].s[r.depth] == byte; j++)
            ;
        add_node(b, byte, (struct range){i, j, r.depth + 1});
        b->node[k].n++;
    }
}

static struct unigram_node *build_trie(const struct tok_map *vocab)
{
    struct entry *e = sorted_entries(vocab);
    struct builder b = {0};
    add_node(&b, 0, (struct range){0, vocab->n, 0});
    for (size_t k = 0; k < b.n; k++)
        add_children(&b, e, k);
    assert(b.n <= INT32_MAX);
    free(b.range);
    free(e);
    return b.node;
}

static const struct unigram_node *child(const struct unigram *u, const struct unigram_node *node,
                                        unsigned char byte)
{
    size_t low = 0, high = node->n;
    const struct unigram_node *c = u->node + node->first;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c[mid].byte < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low < node->n && c[low].byte == byte ? c + low : NULL;
}

void unigram_finish(struct unigram *u, const struct tok_map *vocab)
{
    double low = INFINITY;
    for (int32_t i = 0; i < u->n; i++)
        low = u->score[i] < low ? u->score[i] : low;
    u->unk_score = low - UNK_PENALTY;
    for (unsigned i = 0; i < 256; i++) {
        char text[8];
        int n = snprintf(text, sizeof text, "<0x%02X>", i);
        u->byte_token[i] = tok_map_get(vocab, text, (size_t)n);
    }
    u->node = build_trie(vocab);
}

/* ---- best path ---- */

struct best { /* best path that ends at a byte */
    double score;
    int32_t from, id; /* where its last piece begins; -1 = no path yet */
};

/* Of equally good paths the first one found stays. */
static void offer(struct best *to, double score, int32_t from, int32_t id)
{
    if (to->from < 0 || score > to->score)
        *to = (struct best){score, from, id};
}

static size_t char_bytes(unsigned char c)
{
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

static int no_unknown(const char *s, size_t n)
{
    return err_set(ERR_INPUT, "\"%.*s\" is not in the vocabulary, which has no unknown token (model.unk_id)",
                   n > 40 ? 40 : (int)n, s);
}

/* Offers all pieces that begin at `at`; a character that is no piece by itself is offered as unknown. */
static int extend(const struct unigram *u, const char *s, size_t n, size_t at, struct best *best)
{
    size_t one = char_bytes((unsigned char)s[at]);
    bool single = false;
    const struct unigram_node *node = u->node;
    for (size_t i = at; i < n && (node = child(u, node, (unsigned char)s[i])); i++) {
        if (node->token < 0)
            continue;
        offer(&best[i + 1], u->score[node->token] + best[at].score, (int32_t)at, node->token);
        single = single || i + 1 == at + one;
    }
    struct best *to = &best[at + one];
    if (single || (to->from >= 0 && !(u->unk_score + best[at].score > to->score)))
        return 0;
    if (u->unk < 0)
        return no_unknown(s + at, one);
    offer(to, u->unk_score + best[at].score, (int32_t)at, u->unk);
    return 0;
}

/* Turns the chain of best[n] around: best[i].from becomes where the piece that begins at i ends, best[i].id
 * its id. */
static void turn(struct best *best, size_t n)
{
    int32_t end = (int32_t)n, id = best[n].id, from = best[n].from;
    while (end > 0) {
        struct best before = best[from];
        best[from].from = end;
        best[from].id = id;
        end = from;
        from = before.from;
        id = before.id;
    }
}

static void put(struct ids *out, struct pieces *texts, int32_t id, const char *s, size_t n)
{
    *MEM_PUSH(out->v, out->n, out->cap) = id;
    if (texts)
        pieces_add(texts, s, n);
}

static bool put_bytes(const struct unigram *u, const char *s, size_t n, struct ids *out, struct pieces *texts)
{
    for (size_t i = 0; i < n; i++)
        if (u->byte_token[(unsigned char)s[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = u->byte_token[(unsigned char)s[i]];
        put(out, texts, id, u->piece[id], u->n_piece[id]);
    }
    return true;
}

/* Ids are looked up again by text, as the library does: a run of unknown characters may be a token. */
static int put_piece(const struct unigram *u, const struct tok_map *vocab, const char *s, size_t n,
                     struct ids *out, struct pieces *texts)
{
    int32_t id = tok_map_get(vocab, s, n);
    if (id < 0 && u->byte_fallback && put_bytes(u, s, n, out, texts))
        return 0;
    if (id < 0 && u->unk < 0)
        return no_unknown(s, n);
    put(out, texts, id < 0 ? u->unk : id, s, n);
    return 0;
}

/* Pieces in order, runs of unknown ones as one. */
static int put_path(const struct unigram *u, const struct tok_map *vocab, const char *s, size_t n,
                    const struct best *best, struct ids *out, struct pieces *texts)
{
    for (size_t at = 0, end; at < n; at = end) {
        end = (size_t)best[at].from;
        while (u->unk >= 0 && best[at].id == u->unk && end < n && best[end].id == u->unk)
            end = (size_t)best[end].from;
        TRY(put_piece(u, vocab, s + at, end - at, out, texts));
    }
    return 0;
}

int unigram_encode(const struct unigram *u, const struct tok_map *vocab, const char *s, size_t n,
                   struct ids *out, struct pieces *texts)
{
    enum { SMALL = 128 }; /* most words need no memory of their own */
    struct best small[SMALL + 1], *best = n > SMALL ? mem_alloc(n + 1, sizeof *best) : small;
    for (size_t i = 0; i <= n; i++)
        best[i] = (struct best){0, -1, -1};
    int rc = 0;
    for (size_t at = 0; at < n && rc >= 0; at += char_bytes((unsigned char)s[at]))
        rc = extend(u, s, n, at, best);
    if (rc >= 0) {
        turn(best, n);
        rc = put_path(u, vocab, s, n, best, out, texts);
    }
    if (best != small)
        free(best);
    return rc;
}
