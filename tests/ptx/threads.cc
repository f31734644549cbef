// Threads of a block as fibers, warps that meet, barriers (PTX ISA 9.7.13).
#include "machine.h"

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

ptx_block_state ptx_block;
std::vector<thread> threads;
std::vector<warp> warps;
unsigned n_threads;

namespace
{

const size_t STACK = 512 << 10;
const char *block_param;
unsigned current;
std::vector<unsigned> turn, turn_of; // threads in the order in which they get their turns; its inverse
barrier barriers[16];

struct mbarrier {
    uint32_t address;
    unsigned expected, pending, phase;
    bool seen; // that the phase before is over
};
std::vector<mbarrier> mbarriers;

/* ------------------------------------------------------------------ switching */

#ifdef __x86_64__
extern "C" void shim_switch(void **save, void *load); // cuda_shim.cc
void *main_sp;
void switch_to(void **save, void *load)
{
    shim_switch(save, load);
}
void fiber_main(void);
void *fresh(char *stack)
{
    void **top = (void **)(void *)(stack + STACK - 64);
    *--top = NULL; // fiber_main never returns
    *--top = (void *)&fiber_main;
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    return top;
}
#else
void *main_sp;
std::deque<ucontext_t> contexts;
ucontext_t *context(void **sp)
{
    if (!*sp)
        *sp = &contexts.emplace_back();
    return (ucontext_t *)*sp;
}
void switch_to(void **save, void *load)
{
    swapcontext(context(save), (ucontext_t *)load);
}
void fiber_main(void);
void *fresh(char *stack)
{
    ucontext_t *c = &contexts.emplace_back();
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = STACK;
    c->uc_link = NULL;
    makecontext(c, fiber_main, 0);
    return c;
}
#endif

void go(thread *from, unsigned to)
{
    if (racing)
        race_decide();
    if (from->id == to)
        return;
    current = to;
    switch_to(&from->sp, threads[to].sp);
}

// The next thread that can go on, after `from`; n_threads if there is none.
unsigned next_ready(unsigned from)
{
    unsigned at = order >= 2 ? some_number() % n_threads : turn_of[from];
    for (unsigned i = 0; i < n_threads; i++) {
        at = at + 1 < n_threads ? at + 1 : 0;
        const thread &t = threads[turn[at]];
        if (t.alive && !t.waiting)
            return t.id;
    }
    return n_threads;
}

[[noreturn]] void stuck(const thread *me)
{
    fprintf(stderr, "ptx: nobody can go on:\n");
    for (unsigned i = 0, n = 1; i < n_threads; i += n) {
        const thread &t = threads[i];
        for (n = 1; i + n < n_threads && threads[i + n].alive == t.alive && threads[i + n].line == t.line;
             n++)
            continue;
        fprintf(stderr, "  threads %u to %u: %s %s\n", i, i + n - 1, t.alive ? t.what : "returned",
                t.alive ? place(t.line).c_str() : "");
    }
    stop(me, me->line, "a deadlock");
}

void fiber_main(void)
{
    thread *me = &threads[current];
    kernel->run(me, block_param);
    if (racing)
        race_decide();
    me->alive = false;
    memory_ends(me);
    warp &w = warps[me->warp];
    w.alive &= ~(1U << me->lane);
    if (w.met)
        stop(me, w.line, "a thread has returned while its warp meets at %s", w.what);
    if (barriers[0].arrived && w.alive == 0)
        stop(me, barriers[0].line, "a warp has returned while others wait at a barrier");
    unsigned next = next_ready(me->id);
    if (next < n_threads)
        go(me, next);
    for (unsigned i = 0; i < n_threads; i++)
        if (threads[i].alive)
            stuck(&threads[i]);
    switch_to(&me->sp, main_sp);
    abort(); // a finished thread never goes on
}

void prepare(unsigned i)
{
    thread &t = threads[i];
    if (!t.stack) {
        t.stack = (char *)mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (t.stack == MAP_FAILED)
            stop(NULL, 0, "no memory for a stack");
        mprotect(t.stack, 4096, PROT_NONE);
    }
    t.sp = fresh(t.stack);
    t.id = i;
    t.lane = i % LANES;
    t.warp = i / LANES;
    t.alive = true;
    t.waiting = t.begun = false;
    t.line = 0;
    t.at = NULL;
    t.tid = {i % ptx_block.ntid.x, i / ptx_block.ntid.x % ptx_block.ntid.y,
             i / ptx_block.ntid.x / ptx_block.ntid.y};
}

void shuffle(void)
{
    turn.resize(n_threads);
    turn_of.resize(n_threads);
    for (unsigned i = 0; i < n_threads; i++)
        turn[i] = order == 1 ? n_threads - 1 - i : i;
    for (unsigned i = n_threads; order >= 2 && i > 1; i--)
        std::swap(turn[i - 1], turn[some_number() % i]);
    for (unsigned i = 0; i < n_threads; i++)
        turn_of[turn[i]] = i;
}

} // namespace

void run_block(const char *param, unsigned shared)
{
    block_param = param;
    n_threads = ptx_block.ntid.x * ptx_block.ntid.y * ptx_block.ntid.z;
    if (threads.size() < n_threads)
        threads.resize(n_threads);
    warps.clear();
    warps.resize((n_threads + LANES - 1) / LANES);
    for (unsigned i = 0; i < n_threads; i++)
        prepare(i);
    for (unsigned w = 0; w < warps.size(); w++) {
        warps[w].lanes = &threads[w * LANES];
        warps[w].size = std::min(LANES, n_threads - w * LANES);
        warps[w].alive = warps[w].size == LANES ? EVERY_LANE : (1U << warps[w].size) - 1U;
    }
    for (barrier &b : barriers)
        b = {};
    mbarriers.clear();
    shuffle();
    shared_end = shared;
    memset(shared_memory + PTX_SHARED_BASE, 0xff, shared - PTX_SHARED_BASE); // undefined: NaNs
    matrix_begins();
    if (racing)
        race_begin();
    current = turn[0];
    switch_to(&main_sp, threads[current].sp);
    matrix_ends();
}

void give_way(thread *me)
{
    unsigned next = next_ready(me->id);
    if (next == n_threads)
        stuck(me);
    go(me, next);
}

void wait_here(thread *me, const char *what, unsigned line)
{
    me->what = what;
    me->line = line;
    while (me->waiting)
        give_way(me);
}

/* ------------------------------------------------------------------ meetings of a warp */

bool meet_others(thread *me, const char *what, unsigned line, unsigned mask, void *brought)
{
    warp &w = warps[me->warp];
    if (mask & ~w.alive)
        stop(me, line, "%s names lanes %08x that are not there or have returned", what, mask & ~w.alive);
    if (!(mask >> me->lane & 1U))
        stop(me, line, "%s without the thread itself in its mask %08x", what, mask);
    if (w.met && (w.line != line || w.mask != mask))
        stop(me, line, "%s in a thread while others of its warp are at %s %s", what, w.what,
             place(w.line).c_str());
    w.what = what;
    w.line = line;
    w.mask = mask;
    w.met |= 1U << me->lane;
    me->brought = brought;
    if (w.met == mask)
        return true;
    me->waiting = true;
    wait_here(me, what, line);
    return false;
}

void meeting_ends(thread *me)
{
    warp &w = warps[me->warp];
    w.met = 0;
    if (racing && !racing_strictly)
        race_together([&](const thread &t) { return t.warp == me->warp && (w.mask >> t.lane & 1U); });
    for (unsigned i = 0; i < w.size; i++)
        if (w.mask >> i & 1U)
            w.lanes[i].waiting = false;
}

/* shfl.sync (9.7.9.6): c holds the clamp (bits 0 to 4) and the mask of segments (8 to 12). */
namespace
{
struct shuffled {
    uint32_t a, b, c, got;
    bool in;
};

void shuffle_lanes(warp &w, bool bfly)
{
    for (unsigned lane = 0; lane < w.size; lane++) {
        if (!(w.mask >> lane & 1U))
            continue;
        shuffled *s = (shuffled *)w.lanes[lane].brought;
        const uint32_t segment = s->c >> 8 & 0x1fU, clamp = s->c & 0x1fU, b = s->b & 0x1fU;
        const uint32_t last = (lane & segment) | (clamp & ~segment);
        uint32_t from = bfly ? lane ^ b : (lane & segment) | (b & ~segment);
        s->in = from <= last;
        from = s->in ? from : lane;
        if (!(w.mask >> from & 1U))
            stop(&w.lanes[lane], w.line, "shfl.sync takes from lane %u, which is not in the mask", from);
        s->got = ((shuffled *)w.lanes[from].brought)->a;
    }
}
} // namespace

static uint32_t shuffle(ptx_thread *t, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool *in,
                        unsigned line, bool bfly)
{
    shuffled s = {a, b, c, 0, false};
    meet(whole(t), "shfl.sync", line, mask, &s, [&](warp &w) { shuffle_lanes(w, bfly); });
    *in = s.in;
    return s.got;
}
uint32_t shfl_sync_bfly(ptx_thread *t, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool *in,
                        unsigned line)
{
    return shuffle(t, a, b, c, mask, in, line, true);
}
uint32_t shfl_sync_idx(ptx_thread *t, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool *in,
                       unsigned line)
{
    return shuffle(t, a, b, c, mask, in, line, false);
}

uint32_t vote_sync_ballot(ptx_thread *t, bool p, uint32_t mask, unsigned line)
{
    uint32_t brought = p;
    meet(whole(t), "vote.sync", line, mask, &brought, [](warp &w) {
        uint32_t all = 0;
        for (unsigned i = 0; i < w.size; i++)
            all |= w.mask >> i & 1U ? *(uint32_t *)w.lanes[i].brought << i : 0U;
        for (unsigned i = 0; i < w.size; i++)
            if (w.mask >> i & 1U)
                *(uint32_t *)w.lanes[i].brought = all;
    });
    return brought;
}

/* ------------------------------------------------------------------ barriers of a block (9.7.13.1) */

namespace
{
unsigned lanes_of(const thread *t) // that an .aligned instruction demands: the whole warp
{
    const warp &w = warps[t->warp];
    return w.size == LANES ? EVERY_LANE : (1U << w.size) - 1U;
}

void arrive_warp(warp &w, uint32_t id, uint32_t count, unsigned line)
{
    for (unsigned i = 0; i < w.size; i++) {
        const uint32_t *other = (const uint32_t *)w.lanes[i].brought;
        if (other[0] != id || other[1] != count)
            stop(&w.lanes[i], line, "bar.sync with other operands than the rest of the warp");
    }
    if (id > 15)
        stop(w.lanes, line, "bar.sync: there are 16 barriers");
    if (count % LANES)
        stop(w.lanes, line, "bar.sync of %u threads: no multiple of a warp", count);
    barrier &b = barriers[id];
    const unsigned expected = count ? count : n_threads;
    if (b.arrived && (b.expected != expected || (!count && b.line != line)))
        stop(w.lanes, line, "bar.sync %u: others wait there %s for %u threads", id, place(b.line).c_str(),
             b.expected);
    b.expected = expected;
    b.line = line;
    b.arrived += w.size;
    if (b.arrived > expected)
        stop(w.lanes, line, "bar.sync %u: more than %u threads", id, expected);
    for (unsigned i = 0; i < w.size; i++)
        w.lanes[i].at = &b;
    if (b.arrived < expected)
        return;
    if (racing)
        race_together([&](const thread &t) { return t.at == &b; });
    for (unsigned i = 0; i < n_threads; i++)
        if (threads[i].at == &b) {
            threads[i].at = NULL;
            threads[i].waiting = false;
        }
    b.arrived = 0;
}
} // namespace

void bar_sync(ptx_thread *t, uint32_t id, uint32_t count, unsigned line)
{
    thread *me = whole(t);
    uint32_t brought[2] = {id, count};
    meet(me, "bar.sync", line, lanes_of(me), brought, [&](warp &w) { arrive_warp(w, id, count, line); });
    me->waiting = me->at != NULL;
    wait_here(me, "bar.sync", line);
}

/* griddepcontrol (9.7.13.13): grids run one after the other here, so there is nothing to wait for; that every
 * thread does before it writes anything, or reads what others write, is checked (memory.cc). */
void griddepcontrol_wait(ptx_thread *t, unsigned)
{
    whole(t)->begun = true;
}
void griddepcontrol_launch_dependents(ptx_thread *, unsigned)
{
}

/* setmaxnreg (9.7.19.5): only that whole warps come; which registers there are is ptxas's business. */
void setmaxnreg_inc(ptx_thread *t, uint32_t registers, unsigned line)
{
    thread *me = whole(t);
    if (registers % 8 || registers < 24 || registers > 256)
        stop(me, line, "setmaxnreg of %u registers", registers);
    meet(me, "setmaxnreg", line, lanes_of(me), NULL, [](warp &) {});
}
void setmaxnreg_dec(ptx_thread *t, uint32_t registers, unsigned line)
{
    setmaxnreg_inc(t, registers, line);
}

/* ------------------------------------------------------------------ mbarrier (9.7.13.15) */

/* An object is what mbarrier.init made; its 64 bits in memory are opaque, so they lie beside it here. Its
 * phase ends when nothing is pending; then as many are expected again. Somebody must have seen that end
 * before the first arrival of the next phase (9.7.13.15.4). */
static unsigned mbarrier_index(const thread *me, uint32_t address, unsigned line)
{
    for (unsigned i = 0; i < mbarriers.size(); i++)
        if (mbarriers[i].address == address)
            return i;
    stop(me, line, "no mbarrier at %u: it was never initialised", address);
}

void mbarrier_init(ptx_thread *t, uint32_t address, uint32_t count, unsigned line)
{
    thread *me = whole(t);
    st_shared(me, address, 8, line);
    if (count == 0 || count >= 1U << 20)
        stop(me, line, "mbarrier.init for %u arrivals", count);
    for (const mbarrier &m : mbarriers)
        if (m.address == address)
            stop(me, line, "mbarrier.init of an object that is one already");
    mbarriers.push_back({address, count, count, 0, true});
}

void mbarrier_arrive(ptx_thread *t, uint32_t address, unsigned line)
{
    thread *me = whole(t);
    if (racing)
        race_read(me, address, 8, line); // after its init
    unsigned i = mbarrier_index(me, address, line);
    mbarrier &m = mbarriers[i];
    if (racing)
        race_release(me, i);
    if (!m.seen)
        stop(me, line, "mbarrier.arrive in a phase while nobody has seen the end of the one before");
    if (--m.pending)
        return;
    m.pending = m.expected;
    m.phase++;
    m.seen = false;
    if (racing)
        race_complete(i);
    for (unsigned k = 0; k < n_threads; k++)
        if (threads[k].alive && threads[k].waiting && threads[k].brought == &mbarriers)
            threads[k].waiting = false;
}

/* True if the phase of this parity is over: the current phase has the other one. */
bool mbarrier_test_wait_parity(ptx_thread *t, uint32_t address, uint32_t parity, unsigned line)
{
    thread *me = whole(t);
    if (racing)
        race_read(me, address, 8, line);
    unsigned i = mbarrier_index(me, address, line);
    if (parity > 1)
        stop(me, line, "a parity of %u", parity);
    if ((mbarriers[i].phase & 1U) == parity) {
        give_way(me); // whoever asks again and again lets others go on
        return false;
    }
    mbarriers[i].seen = true;
    if (racing)
        race_acquire(me, i);
    return true;
}

/* May wait, and may come back with nothing done. */
bool mbarrier_try_wait_parity(ptx_thread *t, uint32_t address, uint32_t parity, unsigned line)
{
    thread *me = whole(t);
    if (order >= 2 && some_number() % 4 == 0)
        return false;
    while ((mbarriers[mbarrier_index(me, address, line)].phase & 1U) == parity) {
        me->brought = &mbarriers;
        me->waiting = true;
        wait_here(me, "mbarrier.try_wait", line);
    }
    me->brought = NULL;
    return mbarrier_test_wait_parity(t, address, parity, line);
}
