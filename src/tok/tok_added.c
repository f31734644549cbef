#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/tok_int.h"

void added_trie_init(struct added_trie *t)
{
    *t = (struct added_trie){0};
    memset(t->root, 0xff, sizeof t->root);
}

void added_trie_free(struct added_trie *t)
{
    free(t->node);
    added_trie_init(t);
}

static int32_t new_node(struct added_trie *t, unsigned char byte, int32_t sibling)
{
    *MEM_PUSH(t->node, t->n, t->cap) = (struct added_node){byte, -1, sibling, -1};
    return (int32_t)t->n - 1;
}

static int32_t find_sibling(const struct added_trie *t, int32_t node, unsigned char byte)
{
    while (node >= 0 && t->node[node].byte != byte)
        node = t->node[node].sibling;
    return node;
}

void added_trie_put(struct added_trie *t, const char *text, size_t n, int32_t token)
{
    if (!n)
        return;
    const unsigned char *s = (const unsigned char *)text;
    int32_t node = t->root[s[0]];
    if (node < 0)
        t->root[s[0]] = node = new_node(t, s[0], -1);
    for (size_t i = 1; i < n; i++) {
        int32_t child = find_sibling(t, t->node[node].child, s[i]);
        if (child < 0) {
            child = new_node(t, s[i], t->node[node].child);
            t->node[node].child = child;
        }
        node = child;
    }
    if (t->node[node].token < 0) /* of two equal texts the first counts */
        t->node[node].token = token;
}

size_t added_trie_match(const struct added_trie *t, const char *text, size_t n, int32_t *token)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t best = 0;
    int32_t node = t->root[s[0]];
    for (size_t i = 0; node >= 0;) {
        if (t->node[node].token >= 0) {
            best = i + 1;
            *token = t->node[node].token;
        }
        if (++i == n)
            break;
        node = find_sibling(t, t->node[node].child, s[i]);
    }
    return best;
}

static bool word_before(const char *s, size_t end)
{
    size_t at = end;
    do
        at--;
    while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80);
    uint32_t cp;
    return utf8_get(s + at, end - at, &cp) && uni_word(cp);
}

static bool inside_word(const char *s, size_t n, size_t start, size_t stop)
{
    uint32_t cp;
    return (start > 0 && word_before(s, start)) ||
           (stop < n && utf8_get(s + stop, n - stop, &cp) && uni_word(cp));
}

static void cut(struct added_cuts *out, size_t at, size_t end, int32_t token)
{
    if (end > at) /* a match inside blanks that the token before it took (rstrip) vanishes */
        *MEM_PUSH(out->v, out->n, out->cap) = (struct added_cut){at, end - at, token};
}

void added_split(const struct added_trie *t, const struct added_token *token, const char *s, size_t n,
                 struct added_cuts *out)
{
    size_t done = 0;
    for (size_t at = 0; at < n;) {
        int32_t k = -1;
        size_t len =
            t->root[(unsigned char)s[at]] < 0 ? 0 : added_trie_match(t, s + at, n - at, &k);
        if (!len) {
            at++;
            continue;
        }
        size_t start = at, stop = at + len;
        at = stop; /* the search goes on behind the match, whether it counts or not */
        if (token[k].single_word && inside_word(s, n, start, stop))
            continue;
        if (token[k].lstrip) {
            start -= uni_trim_right(s, start);
            start = start > done ? start : done;
        }
        if (token[k].rstrip)
            stop += uni_trim_left(s + stop, n - stop);
        cut(out, done, start, -1);
        cut(out, start, stop, k);
        done = stop; /* may lie before the end of the blanks just taken: the library does the same */
    }
    cut(out, done, n, -1);
}
