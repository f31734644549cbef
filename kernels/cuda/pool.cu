// Memory from the driver in big pieces, given out and taken back without it: cudaMalloc and cudaFree wait for
// the device, which the decode loop must not.
//
// Small blocks share slabs of their own, so that one that lives long does not keep gigabytes from going back.
// Big ones get slabs that fit, and share those that others gave back if they fill a good part of them.
#include "kernels/cuda/cuda.h"

#include <map>
#include <new>

namespace
{
const size_t ALIGN = 256, SLAB = (size_t)64 << 20;
const size_t BIG = (size_t)16 << 20;     // from here on a block has a slab to itself, or part of a big one
const size_t BIG_STEP = (size_t)2 << 20; // what the driver rounds such slabs up to
const size_t BIG_SHARE = 8;              // a block shares slabs up to so many times its own size
const size_t SPARE = (size_t)128 << 20;  // what rounding and gaps may take of the memory that is kept free
} // namespace

struct slab {
    size_t bytes;
    bool big; // for big blocks
};

struct piece {
    size_t bytes; // of the piece, a multiple of ALIGN
    bool taken;
    char *slab;
    pool_block block;
};

struct pool {
    enum mem_place place;
    struct cuda *c;
    size_t bytes;                                // of all slabs
    std::map<char *, struct slab> slab;          // from the driver, by address
    std::map<char *, piece> all;                 // every byte of every slab, in order
    std::multimap<size_t, char *> free_piece[2]; // by size: of small, of big slabs
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
    pool *p = new pool();
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

static std::multimap<size_t, char *> &free_of(pool *p, const piece &x)
{
    return p->free_piece[p->slab.at(x.slab).big];
}

static void forget_free(pool *p, char *at, const piece &x)
{
    auto &list = free_of(p, x);
    auto range = list.equal_range(x.bytes);
    for (auto i = range.first; i != range.second; ++i) {
        if (i->second == at) {
            list.erase(i);
            return;
        }
    }
}

void pool_trim(struct pool *p)
{
    bool waited = false;
    for (auto s = p->slab.begin(); s != p->slab.end();) {
        auto whole = p->all.find(s->first);
        if (whole->second.taken || whole->second.bytes != s->second.bytes) {
            ++s;
            continue;
        }
        if (!waited) { // what is queued or under way may still use what was given back
            cuda_flush(p->c);
            cuda_ok(p->c, cudaStreamSynchronize(p->c->stream), "waiting before memory goes back");
            waited = true;
        }
        forget_free(p, s->first, whole->second);
        p->all.erase(whole);
        p->bytes -= s->second.bytes;
        driver_give(p, s->first);
        s = p->slab.erase(s);
    }
}

// Slabs stay within the backend's limit: the rest of the GPU is the libraries'.
static bool within(const pool *p, size_t want)
{
    size_t most = p->place == PLACE_DEVICE ? p->c->host.limit + SPARE : SIZE_MAX;
    return want <= most && p->bytes <= most - want;
}

static bool grow_by(pool *p, size_t want, bool big)
{
    char *data = within(p, want) ? driver_take(p, want) : NULL;
    if (!data)
        return false;
    p->bytes += want;
    p->slab[data] = slab{want, big};
    p->all[data] = piece{want, false, data, {0, 0}};
    p->free_piece[big].emplace(want, data);
    return true;
}

static bool grow(pool *p, size_t bytes)
{
    bool big = bytes >= BIG;
    size_t want = big ? (bytes + BIG_STEP - 1) / BIG_STEP * BIG_STEP : SLAB;
    if (grow_by(p, want, big))
        return true;
    pool_trim(p);
    return grow_by(p, want, big) || grow_by(p, bytes, big);
}

// The smallest free piece that the block may have.
static std::multimap<size_t, char *>::iterator find_free(pool *p, size_t want)
{
    bool big = want >= BIG;
    auto i = p->free_piece[big].lower_bound(want);
    while (big && i != p->free_piece[big].end() &&
           p->slab.at(p->all.at(i->second).slab).bytes / BIG_SHARE > want)
        ++i;
    return i;
}

void *pool_take(struct pool *p, size_t bytes)
{
    size_t want = bytes < ALIGN ? ALIGN : (bytes + ALIGN - 1) / ALIGN * ALIGN;
    auto &list = p->free_piece[want >= BIG];
    auto best = find_free(p, want);
    if (best == list.end()) {
        if (!grow(p, want))
            return NULL;
        best = find_free(p, want);
    }
    char *at = best->second;
    list.erase(best);
    piece &x = p->all[at];
    if (x.bytes > want) {
        p->all[at + want] = piece{x.bytes - want, false, x.slab, {0, 0}};
        list.emplace(x.bytes - want, at + want);
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
    forget_free(p, a->first, a->second);
    forget_free(p, b->first, b->second);
    a->second.bytes += b->second.bytes;
    p->all.erase(b);
    free_of(p, a->second).emplace(a->second.bytes, a->first);
}

void pool_give(struct pool *p, void *data)
{
    auto a = p->all.find((char *)data);
    if (a == p->all.end())
        return;
    a->second.taken = false;
    free_of(p, a->second).emplace(a->second.bytes, a->first);
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
    return at < s->first + s->second.bytes;
}
