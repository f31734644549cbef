/* The machine that runs translated kernels: inside of threads.cc, memory.cc, matrix.cc, race.cc, launch.cc.
 */
#ifndef KVS_TESTS_PTX_MACHINE_H
#define KVS_TESTS_PTX_MACHINE_H

#include "ptx.h"

#include <deque>
#include <functional>
#include <string>

const unsigned LANES = 32, EVERY_LANE = 0xffffffffU, SHARED_MOST = 227U << 10;

struct copy { // cp.async under way
    uint32_t dst;
    const char *src;
    unsigned bytes, from_src, line;
};

struct barrier {
    unsigned expected, arrived, line; // threads; line: of the first that came
};
struct thread : ptx_thread {
    void *sp;
    char *stack;
    unsigned id, lane, warp;
    bool alive, waiting;
    bool begun;       // it has waited for the grid ahead (griddepcontrol.wait)
    const char *what; // the latest instruction that could wait
    unsigned line;
    void *brought; // to a meeting of the warp
    barrier *at;   // a barrier that it waits for
    std::vector<copy> copies;
    std::deque<std::vector<copy>> copy_groups;
};
struct product { // wgmma under way
    wgmma_shape shape;
    std::vector<uint32_t *> a; // 4 registers a lane, or a_desc
    uint64_t a_desc, b_desc;
    bool scale_d;
    float *key; // of its accumulators
    unsigned line;
};
struct warp {
    thread *lanes;
    unsigned size, alive; // lanes, and which are alive
    unsigned line, mask, met;
    const char *what;
    std::vector<product> products;
    std::deque<std::vector<product>> product_groups;
    unsigned issued; // wgmma.mma_async so far
};

extern const ptx_module *kernel; // that runs
extern std::vector<thread> threads;
extern std::vector<warp> warps;
extern unsigned n_threads;
extern char *shared_memory;  // by shared address: those below PTX_SHARED_BASE are nobody's
extern unsigned shared_end;  // first shared address behind the block's memory
extern bool racing;          // KVS_PTX_RACE
extern bool racing_strictly; // KVS_PTX_RACE=2: exchanges of a warp order nothing in memory
extern unsigned order;       // KVS_PTX_ORDER: 0 threads in their order, 1 from the last, else a seed
unsigned some_number(void);  // of the seed

// Ends the program: what is wrong, in which kernel, thread and lines.
[[noreturn]] void stop(const thread *t, unsigned line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// "file.ptx:line (source:line)"
std::string place(unsigned line);

/* threads.cc */
void run_block(const char *param, unsigned shared);
/* All lanes of the mask come to one instruction; the last does the work of all: true for it. */
bool meet_others(thread *me, const char *what, unsigned line, unsigned mask, void *brought);
void meeting_ends(thread *me);
template <typename F>
static inline void meet(thread *me, const char *what, unsigned line, unsigned mask, void *brought, F work)
{
    if (!meet_others(me, what, line, mask, brought))
        return;
    work(warps[me->warp]);
    meeting_ends(me);
}
void wait_here(thread *me, const char *what, unsigned line); // until somebody clears me->waiting
void give_way(thread *me);
static inline thread *whole(ptx_thread *t)
{
    return static_cast<thread *>(t);
}

/* memory.cc */
void memory_ends(thread *t); // a thread has returned
const char *shared_at(const thread *t, uint32_t address, unsigned bytes, unsigned line); // checked
void memory_launch(const char *param, size_t bytes);

/* matrix.cc */
void matrix_begins(void);
void matrix_ends(void); // the block has

/* race.cc: what comes before what in shared memory; nothing of it is called unless racing. */
void race_begin(void); // of a block
void race_read(thread *t, uint32_t address, unsigned bytes, unsigned line);
void race_decide(void); // about the latest write: before another thread goes on
void race_write(thread *t, uint32_t address, unsigned bytes, unsigned line);
void race_copy_begins(thread *t, uint32_t address, unsigned bytes, unsigned line);
void race_copy_ends(thread *t, uint32_t address, unsigned bytes);
void race_product_begins(warp &w); // then the reads, then, when it is done, the same reads
void race_product_reads(warp &w, uint32_t address, unsigned bytes, unsigned line);
void race_product_ends(warp &w);
void race_product_has_read(warp &w, uint32_t address, unsigned bytes, unsigned line);
void race_fence(thread *t);
void race_together(const std::function<bool(const thread &)> &who); // what any has done before, all know
void race_release(thread *t, unsigned mbarrier);
void race_complete(unsigned mbarrier); // a phase is over
void race_acquire(thread *t, unsigned mbarrier);

#endif
