#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/tok_int.h"

struct tok_chunk {
    struct tok_chunk *next;
    size_t n, cap;
    char bytes[];
};

static const char *chunk_add(struct tok_chunk **head, const char *s, size_t n)
{
    struct tok_chunk *c = *head;
    if (!c || c->cap - c->n < n + 1) {
        size_t cap = n + 1 > 65536 ? n + 1 : 65536;
        c = mem_alloc(1, sizeof *c + cap);
        c->cap = cap;
        c->next = *head;
        *head = c;
    }
    char *at = c->bytes + c->n;
    if (n)
        memcpy(at, s, n);
    at[n] = 0;
    c->n += n + 1;
    return at;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0x9e3779b97f4a7c15u;
    x ^= x >> 29;
    return x;
}

static uint32_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0x243f6a8885a308d3u ^ n;
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, s, 8);
        h = mix(h ^ w) * 0xff51afd7ed558ccdu;
        s += 8;
        n -= 8;
    }
    uint64_t w = 0;
    if (n)
        memcpy(&w, s, n);
    h = mix(h ^ w) * 0xff51afd7ed558ccdu;
    return (uint32_t)(h >> 32);
}

static size_t map_at(const struct tok_map *m, const char *key, size_t n, uint32_t hash)
{
    size_t i = hash & (m->cap - 1);
    for (; m->slot[i].key; i = (i + 1) & (m->cap - 1)) {
        const struct tok_map_entry *e = &m->slot[i];
        if (e->hash == hash && e->n == n && (!n || memcmp(e->key, key, n) == 0))
            break;
    }
    return i;
}

static void map_grow(struct tok_map *m)
{
    struct tok_map_entry *old = m->slot;
    size_t old_cap = m->cap;
    m->cap = old_cap ? 2 * old_cap : 64;
    m->slot = mem_alloc(m->cap, sizeof *m->slot);
    for (size_t i = 0; i < old_cap; i++)
        if (old[i].key)
            m->slot[map_at(m, old[i].key, old[i].n, old[i].hash)] = old[i];
    free(old);
}

void tok_map_free(struct tok_map *m)
{
    for (struct tok_chunk *c = m->chunk, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(m->slot);
    *m = (struct tok_map){0};
}

const char *tok_map_put(struct tok_map *m, const char *key, size_t n, int32_t value)
{
    if (2 * (m->n + 1) > m->cap)
        map_grow(m);
    uint32_t hash = hash_bytes(key, n);
    struct tok_map_entry *e = &m->slot[map_at(m, key, n, hash)];
    if (!e->key) {
        e->key = chunk_add(&m->chunk, key, n);
        e->n = (uint32_t)n;
        e->hash = hash;
        m->n++;
    }
    e->value = value;
    return e->key;
}

int32_t tok_map_get(const struct tok_map *m, const char *key, size_t n)
{
    if (!m->n)
        return -1;
    const struct tok_map_entry *e = &m->slot[map_at(m, key, n, hash_bytes(key, n))];
    return e->key ? e->value : -1;
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static const uint64_t NO_PAIR = UINT64_MAX; /* ids are never negative */

static size_t merges_at(const struct tok_merges *m, uint64_t key)
{
    size_t i = (size_t)(mix(key * 0xff51afd7ed558ccdu) >> 20) & (m->cap - 1);
    while (m->slot[i].key != NO_PAIR && m->slot[i].key != key)
        i = (i + 1) & (m->cap - 1);
    return i;
}

static void merges_grow(struct tok_merges *m)
{
    struct tok_merges old = *m;
    m->cap = old.cap ? 2 * old.cap : 64;
    m->slot = mem_alloc(m->cap, sizeof *m->slot);
    for (size_t i = 0; i < m->cap; i++)
        m->slot[i].key = NO_PAIR;
    for (size_t i = 0; i < old.cap; i++)
        if (old.slot[i].key != NO_PAIR)
            m->slot[merges_at(m, old.slot[i].key)] = old.slot[i];
    free(old.slot);
}

void tok_merges_free(struct tok_merges *m)
{
    free(m->slot);
    *m = (struct tok_merges){0};
}

void tok_merges_put(struct tok_merges *m, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    if (2 * (m->n + 1) > m->cap)
        merges_grow(m);
    struct tok_merge *slot = &m->slot[merges_at(m, pair_key(left, right))];
    m->n += slot->key == NO_PAIR;
    *slot = (struct tok_merge){pair_key(left, right), rank, id};
}

const struct tok_merge *tok_merges_get(const struct tok_merges *m, int32_t left, int32_t right)
{
    if (!m->n)
        return NULL;
    const struct tok_merge *slot = &m->slot[merges_at(m, pair_key(left, right))];
    return slot->key == NO_PAIR ? NULL : slot;
}
