// Memory from the driver in big pieces, given out and taken back without it: cudaMalloc and cudaFree wait for
// the device, which the decode loop must not.
#include "kernels/cuda/cuda.h"

#include <map>
#include <new>

namespace
{
const size_t ALIGN = 256, SLAB = (size_t)64 << 20;
} // namespace

struct piece {
    size_t bytes; // of the piece, a multiple of ALIGN
    bool taken;
    char *slab;
    pool_block block;
};

struct pool {
    enum mem_place place;
    struct cuda *c;
    std::map<char *, size_t> slab;            // from the driver: address, bytes
    std::map<char *, piece> all;              // every byte of every slab, in order
    std::multimap<size_t, char *> free_piece; // by size
};

static char *driver_take(pool *p, size_t bytes)
{
    void *data = NULL;
    cudaError_t rc = p->place == PLACE_DEVICE ? cudaMalloc(&data, bytes) : cudaMallocHost(&data, bytes);
    if (rc == cudaSuccess)
        return (char *)data;
    (void)cudaGetLastError();
    if (rc != cudaErrorMemoryAllocation) // being out of memory is an answer, not a fault
        cuda_ok(p->c, rc, "taking memory");
    return NULL;
}

static void driver_give(pool *p, char *data)
{
    if (p->place == PLACE_DEVICE)
        (void)cudaFree(data);
    else
        (void)cudaFreeHost(data);
}

struct pool *pool_open(enum mem_place place, struct cuda *c)
{
    pool *p = new pool;
    p->place = place;
    p->c = c;
    return p;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    for (auto &s : p->slab)
        driver_give(p, s.first);
    delete p;
}

static void forget_free(pool *p, char *at, size_t bytes)
{
    auto range = p->free_piece.equal_range(bytes);
    for (auto i = range.first; i != range.second; ++i) {
        if (i->second == at) {
            p->free_piece.erase(i);
            return;
        }
    }
}

// Gives slabs back that nobody uses.
static void trim(pool *p)
{
    cuda_flush(p->c); // launches that wait may still use what was given back
    for (auto s = p->slab.begin(); s != p->slab.end();) {
        auto whole = p->all.find(s->first);
        if (whole->second.taken || whole->second.bytes != s->second) {
            ++s;
            continue;
        }
        forget_free(p, s->first, s->second);
        p->all.erase(whole);
        driver_give(p, s->first);
        s = p->slab.erase(s);
    }
}

static bool grow(pool *p, size_t bytes)
{
    size_t want = bytes < SLAB ? SLAB : bytes;
    char *data = driver_take(p, want);
    if (!data) {
        trim(p);
        want = bytes;
        data = driver_take(p, want);
    }
    if (!data)
        return false;
    p->slab[data] = want;
    p->all[data] = piece{want, false, data, {0, 0}};
    p->free_piece.emplace(want, data);
    return true;
}

void *pool_take(struct pool *p, size_t bytes)
{
    size_t want = bytes < ALIGN ? ALIGN : (bytes + ALIGN - 1) / ALIGN * ALIGN;
    auto best = p->free_piece.lower_bound(want);
    if (best == p->free_piece.end()) {
        if (!grow(p, want))
            return NULL;
        best = p->free_piece.lower_bound(want);
    }
    char *at = best->second;
    p->free_piece.erase(best);
    piece &x = p->all[at];
    if (x.bytes > want) {
        p->all[at + want] = piece{x.bytes - want, false, x.slab, {0, 0}};
        p->free_piece.emplace(x.bytes - want, at + want);
        x.bytes = want;
    }
    x.taken = true;
    x.block = pool_block{bytes, 0};
    return at;
}

// Joins the piece with the next one, if both are free and of one slab.
static void join_next(pool *p, std::map<char *, piece>::iterator a)
{
    auto b = a;
    if (++b == p->all.end() || b->second.taken || a->second.taken || b->second.slab != a->second.slab)
        return;
    forget_free(p, a->first, a->second.bytes);
    forget_free(p, b->first, b->second.bytes);
    a->second.bytes += b->second.bytes;
    p->all.erase(b);
    p->free_piece.emplace(a->second.bytes, a->first);
}

void pool_give(struct pool *p, void *data)
{
    auto a = p->all.find((char *)data);
    if (a == p->all.end())
        return;
    a->second.taken = false;
    p->free_piece.emplace(a->second.bytes, a->first);
    join_next(p, a);
    if (a != p->all.begin())
        join_next(p, --a);
}

struct pool_block *pool_find(struct pool *p, const void *data)
{
    auto a = p->all.find((char *)data);
    return a == p->all.end() || !a->second.taken ? NULL : &a->second.block;
}

bool pool_owns(const struct pool *p, const void *data)
{
    char *at = (char *)data;
    auto s = p->slab.upper_bound(at);
    if (s == p->slab.begin())
        return false;
    --s;
    return at < s->first + s->second;
}
