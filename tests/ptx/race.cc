// What comes before what in shared memory, by vector clocks: every thread knows how far it has seen each
// other one. Two accesses of a byte, one of them a write, of which neither comes before the other are a race
// (PTX ISA 8). Order comes from barriers, mbarriers (arrive to wait) and, unless racing_strictly, from all
// meetings of a warp.
#include "machine.h"

#include <algorithm>

namespace
{

/* A write, a copy (cp.async) that is under way, reads: the latest while each knows of the one before, else
 * one for everybody who reads; and products (wgmma) that are reading. Who: a thread, or a warp's products. */
struct cell {
    uint32_t write_clock, write_line, read_clock, read_line, many, product_line;
    uint16_t writer, reader, copier, products; // copier: plus one
};
std::vector<cell> cells;                 // by shared address
std::vector<std::vector<uint64_t>> many; // clock and line by who; many[0] is nobody's
std::vector<uint32_t> free_many;

/* Of every thread: what it has seen of all who, then how much of that was behind a fence.proxy.async of
 * theirs. */
unsigned n_who;
std::vector<uint32_t> seen;
std::vector<uint32_t> product_clock; // of warps
struct mbarrier_clocks {
    std::vector<uint32_t> arrived, complete;
};
std::vector<mbarrier_clocks> mbarriers;
std::vector<uint32_t> lowest; // seen by all lanes of the warp whose product begins or ends

uint32_t *clocks_of(const thread *t)
{
    return &seen[(size_t)t->id * 2 * n_who];
}

void join(uint32_t *into, const uint32_t *from)
{
    for (unsigned i = 0; i < 2 * n_who; i++)
        into[i] = std::max(into[i], from[i]);
}

std::string who_text(unsigned who)
{
    return who < n_threads ? "thread " + std::to_string(who)
                           : "a wgmma of warp " + std::to_string(who - n_threads);
}

[[noreturn]] void race(const thread *t, unsigned line, uint32_t address, const char *does, const char *did,
                       unsigned who, unsigned other_line)
{
    stop(t, line, "a race: it %s shared byte %u, which %s %s at %s, and nothing orders the two", does,
         address, who_text(who).c_str(), did, place(other_line).c_str());
}

/* Two unordered writes of the same value harm nobody (lanes that all have a row's sum write it): whether they
 * are the same is known when the second is done, before anything else happens. */
struct doubt {
    const thread *t;
    uint32_t address;
    char before;
    cell other;
    unsigned line;
};
std::vector<doubt> doubts;

void after_write(const thread *t, const uint32_t *clocks, const cell &c, uint32_t at, const char *does,
                 unsigned line)
{
    if (c.copier)
        race(t, line, at, does, "is copying to", c.copier - 1U, c.write_line);
    if (c.write_clock > clocks[c.writer])
        race(t, line, at, does, "has written", c.writer, c.write_line);
}

void after_reads(const thread *t, const uint32_t *clocks, const cell &c, uint32_t at, const char *does,
                 unsigned line)
{
    if (c.products)
        race(t, line, at, does, "(or another warp's) is reading", n_threads + c.reader, c.product_line);
    if (c.many) {
        for (unsigned who = 0; who < n_who; who++)
            if (many[c.many][who] >> 32 > clocks[who])
                race(t, line, at, does, "has read", who, (unsigned)many[c.many][who]);
    } else if (c.read_clock > clocks[c.reader]) {
        race(t, line, at, does, "has read", c.reader, c.read_line);
    }
}

uint32_t take_many(void)
{
    if (free_many.empty()) {
        many.emplace_back(n_who);
        return (uint32_t)many.size() - 1;
    }
    const uint32_t i = free_many.back();
    free_many.pop_back();
    many[i].assign(n_who, 0);
    return i;
}

void record_read(cell &c, const uint32_t *clocks, unsigned who, uint32_t clock, unsigned line)
{
    if (!c.many && (c.reader == who || c.read_clock <= clocks[c.reader])) {
        c.reader = (uint16_t)who;
        c.read_clock = clock;
        c.read_line = line;
        return;
    }
    if (!c.many) {
        c.many = take_many();
        many[c.many][c.reader] = (uint64_t)c.read_clock << 32 | c.read_line;
    }
    many[c.many][who] = (uint64_t)clock << 32 | line;
}

void record_write(cell &c, const thread *t, unsigned line)
{
    if (c.many)
        free_many.push_back(c.many);
    c.many = c.read_clock = 0;
    c.writer = (uint16_t)t->id;
    c.write_clock = clocks_of(t)[t->id];
    c.write_line = line;
}

void seen_by_all(const warp &w)
{
    lowest.assign(clocks_of(w.lanes), clocks_of(w.lanes) + 2 * n_who);
    for (unsigned lane = 1; lane < LANES; lane++)
        for (unsigned i = 0; i < 2 * n_who; i++)
            lowest[i] = std::min(lowest[i], clocks_of(&w.lanes[lane])[i]);
}

} // namespace

void race_begin(void)
{
    n_who = n_threads + (unsigned)warps.size();
    seen.assign((size_t)n_threads * 2 * n_who, 0);
    for (unsigned i = 0; i < n_threads; i++)
        clocks_of(&threads[i])[i] = 1;
    product_clock.assign(warps.size(), 0);
    mbarriers.clear();
    many.assign(1, {});
    free_many.clear();
    cells.assign(shared_end, {});
}

void race_decide(void)
{
    for (const doubt &d : doubts)
        if (shared_memory[d.address] != d.before)
            race(d.t, d.line, d.address, "writes", "has written (another value)", d.other.writer,
                 d.other.write_line);
    doubts.clear();
}

void race_read(thread *t, uint32_t address, unsigned bytes, unsigned line)
{
    race_decide();
    shared_at(t, address, bytes, line);
    const uint32_t *clocks = clocks_of(t);
    for (uint32_t at = address; at < address + bytes; at++) {
        after_write(t, clocks, cells[at], at, "reads", line);
        record_read(cells[at], clocks, t->id, clocks[t->id], line);
    }
}

void race_write(thread *t, uint32_t address, unsigned bytes, unsigned line)
{
    race_decide();
    const uint32_t *clocks = clocks_of(t);
    for (uint32_t at = address; at < address + bytes; at++) {
        if (cells[at].write_clock > clocks[cells[at].writer] && !cells[at].copier)
            doubts.push_back({t, at, shared_memory[at], cells[at], line});
        else
            after_write(t, clocks, cells[at], at, "writes", line);
        after_reads(t, clocks, cells[at], at, "writes", line);
        record_write(cells[at], t, line);
    }
}

/* A copy writes from when it is issued to when its thread has waited for it. */
void race_copy_begins(thread *t, uint32_t address, unsigned bytes, unsigned line)
{
    race_write(t, address, bytes, line);
    if (!doubts.empty())
        race(t, line, address, "copies to", "has written", doubts[0].other.writer,
             doubts[0].other.write_line);
    for (uint32_t at = address; at < address + bytes; at++)
        cells[at].copier = (uint16_t)(t->id + 1U);
}

void race_copy_ends(thread *t, uint32_t address, unsigned bytes)
{
    for (uint32_t at = address; at < address + bytes; at++) {
        cells[at].copier = 0;
        cells[at].write_clock = clocks_of(t)[t->id];
    }
}

/* A product reads through the async proxy from when it is issued to when its warp has waited for it. What all
 * lanes have seen comes before it; writes also need their writer's fence.proxy.async after them
 * (8.6, 9.7.15.4, 9.7.15.7.1); its own completion brings a fence along. */
void race_product_begins(warp &w)
{
    seen_by_all(w);
}

void race_product_reads(warp &w, uint32_t address, unsigned bytes, unsigned line)
{
    for (uint32_t at = address; at < address + bytes; at++) {
        cell &c = cells[at];
        after_write(w.lanes, lowest.data(), c, at, "reads (by wgmma)", line);
        if (c.write_clock > lowest[n_who + c.writer])
            stop(w.lanes, line,
                 "wgmma reads shared byte %u, which thread %u has written at %s without a "
                 "fence.proxy.async after it",
                 at, c.writer, place(c.write_line).c_str());
        c.products++;
        c.product_line = line;
    }
}

void race_product_ends(warp &w)
{
    const unsigned index = w.lanes->warp;
    product_clock[index]++;
    for (unsigned lane = 0; lane < LANES; lane++)
        clocks_of(&w.lanes[lane])[n_threads + index] = product_clock[index];
    seen_by_all(w);
}

void race_product_has_read(warp &w, uint32_t address, unsigned bytes, unsigned line)
{
    const unsigned index = w.lanes->warp;
    for (uint32_t at = address; at < address + bytes; at++) {
        cells[at].products--;
        record_read(cells[at], lowest.data(), n_threads + index, product_clock[index], line);
    }
}

void race_fence(thread *t)
{
    uint32_t *clocks = clocks_of(t);
    clocks[n_who + t->id] = clocks[t->id]++;
}

void race_together(const std::function<bool(const thread &)> &who)
{
    std::vector<uint32_t> all(2 * n_who);
    for (unsigned i = 0; i < n_threads; i++)
        if (who(threads[i]))
            join(all.data(), clocks_of(&threads[i]));
    for (unsigned i = 0; i < n_threads; i++)
        if (who(threads[i])) {
            std::copy(all.begin(), all.end(), clocks_of(&threads[i]));
            clocks_of(&threads[i])[i]++;
        }
}

void race_release(thread *t, unsigned mbarrier)
{
    if (mbarriers.size() <= mbarrier)
        mbarriers.resize(mbarrier + 1);
    std::vector<uint32_t> &arrived = mbarriers[mbarrier].arrived;
    arrived.resize(2 * n_who);
    join(arrived.data(), clocks_of(t));
    clocks_of(t)[t->id]++;
}

void race_complete(unsigned mbarrier)
{
    mbarriers[mbarrier].complete = mbarriers[mbarrier].arrived;
}

void race_acquire(thread *t, unsigned mbarrier)
{
    if (mbarrier < mbarriers.size() && !mbarriers[mbarrier].complete.empty())
        join(clocks_of(t), mbarriers[mbarrier].complete.data());
}
