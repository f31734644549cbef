// What a thread reads and writes (PTX ISA 5, 9.7.9): every address is checked for its alignment and its
// bounds.
#include "machine.h"

#include <fenv.h>
#include <sys/mman.h>

/* Shared memory as the threads address it from 0; this window is also its place among generic addresses. */
const size_t WINDOW = 256 << 10;
char *shared_memory = (char *)mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
unsigned shared_end;

namespace
{

struct range {
    const char *from, *to;
};
std::vector<range> &tables(void) // made before main, file by file
{
    static std::vector<range> all;
    return all;
}
range parameters;
range latest[4]; // device memory that was touched last
unsigned next_latest;

void aligned(const thread *t, uint64_t address, unsigned bytes, unsigned line)
{
    if (address & (bytes - 1U)) // a power of 2; of the whole access, vectors too (6.4.1)
        stop(t, line, "%u bytes at %#lx: misaligned", bytes, (unsigned long)address);
}

bool inside(const range &r, const char *p, unsigned bytes)
{
    return p >= r.from && p < r.to && bytes <= (size_t)(r.to - p);
}

bool in_table(const char *p, unsigned bytes)
{
    for (const range &table : tables())
        if (inside(table, p, bytes))
            return true;
    return false;
}

/* early: allowed before griddepcontrol.wait, when what the grid ahead writes cannot be seen (9.7.13.13). */
char *global_at(const thread *t, uint64_t address, unsigned bytes, unsigned line, bool write, bool early)
{
    aligned(t, address, bytes, line);
    if (write && !t->begun)
        stop(t, line, "a write before griddepcontrol.wait: the grid ahead may still read there");
    if (!t->begun && !early && !in_table((char *)(uintptr_t)address, bytes))
        stop(t, line, "a read before griddepcontrol.wait: the grid ahead may still write there");
    char *p = (char *)(uintptr_t)address;
    for (const range &r : latest)
        if (inside(r, p, bytes))
            return p;
    range r;
    if (shim_reachable(p, &r.from, &r.to) && inside(r, p, bytes)) {
        latest[next_latest++ % 4] = r;
        return p;
    }
    if (!write && in_table(p, bytes))
        return p;
    stop(t, line, "%u bytes at %p: no device memory", bytes, (void *)p);
}

bool in_window(uint64_t address)
{
    return address - (uintptr_t)shared_memory < WINDOW;
}

// Threads may be interrupted anywhere: with a seed they are where they touch what others see.
void interrupt(thread *t)
{
    if (order >= 2 && some_number() % 16 == 0)
        give_way(t);
}

} // namespace

ptx_table::ptx_table(const void *data, size_t bytes)
{
    tables().push_back({(const char *)data, (const char *)data + bytes});
}

void memory_launch(const char *param, size_t bytes)
{
    parameters = {param, param + bytes};
    for (range &r : latest) // blocks may have been given back since
        r = {NULL, NULL};
}

void memory_ends(thread *t)
{
    if (!t->begun) // the grid behind would take this one's end for that of the grid ahead as well
        stop(t, 0, "a thread has returned without griddepcontrol.wait");
    for (const std::vector<copy> &group : t->copy_groups)
        if (!group.empty())
            stop(t, group[0].line, "a thread has returned without waiting for its cp.async");
    if (!t->copies.empty())
        stop(t, t->copies[0].line, "a thread has returned without waiting for its cp.async");
    t->copy_groups.clear();
}

const char *shared_at(const thread *t, uint32_t address, unsigned bytes, unsigned line)
{
    aligned(t, address, bytes, line);
    if (address < PTX_SHARED_BASE || address >= shared_end || bytes > shared_end - address)
        stop(t, line, "%u bytes at shared address %u: the block has %u to %u", bytes, address,
             PTX_SHARED_BASE, shared_end);
    return shared_memory + address;
}

const void *ld_global(ptx_thread *t, uint64_t address, unsigned bytes, unsigned line)
{
    return global_at(whole(t), address, bytes, line, false, false);
}
/* What is read once and never written while kernels run, the weights: so also before the wait. */
const void *ld_global_cs(ptx_thread *t, uint64_t address, unsigned bytes, unsigned line)
{
    return global_at(whole(t), address, bytes, line, false, true);
}
void *st_global(ptx_thread *t, uint64_t address, unsigned bytes, unsigned line)
{
    return global_at(whole(t), address, bytes, line, true, false);
}

const void *ld_shared(ptx_thread *t, uint32_t address, unsigned bytes, unsigned line)
{
    interrupt(whole(t));
    if (racing)
        race_read(whole(t), address, bytes, line);
    return shared_at(whole(t), address, bytes, line);
}
void *st_shared(ptx_thread *t, uint32_t address, unsigned bytes, unsigned line)
{
    interrupt(whole(t));
    const char *at = shared_at(whole(t), address, bytes, line);
    if (racing)
        race_write(whole(t), address, bytes, line);
    return (char *)(uintptr_t)at;
}

const void *ld_generic(ptx_thread *t, uint64_t address, unsigned bytes, unsigned line)
{
    const char *p = (const char *)(uintptr_t)address;
    if (in_window(address))
        return ld_shared(t, (uint32_t)(p - shared_memory), bytes, line);
    aligned(whole(t), address, bytes, line);
    return inside(parameters, p, bytes) ? p : global_at(whole(t), address, bytes, line, false, false);
}
void *st_generic(ptx_thread *t, uint64_t address, unsigned bytes, unsigned line)
{
    if (in_window(address))
        return st_shared(t, (uint32_t)((char *)(uintptr_t)address - shared_memory), bytes, line);
    return global_at(whole(t), address, bytes, line, true, false);
}

void *st_local(ptx_thread *t, const char *depot, size_t size, uint64_t address, unsigned bytes, unsigned line)
{
    aligned(whole(t), address, bytes, line);
    char *p = (char *)(uintptr_t)address;
    if (!inside({depot, depot + size}, p, bytes))
        stop(whole(t), line, "%u bytes outside of local memory", bytes);
    return p;
}

uint64_t cvta_shared_u64(uint64_t address)
{
    return (uintptr_t)shared_memory + address;
}
uint64_t cvta_to_shared_u64(uint64_t address)
{
    return address - (uintptr_t)shared_memory;
}

/* ------------------------------------------------------------------ cp.async (9.7.9.25.3) */

/* Nothing is done before the thread waits: the latest moment that is allowed. The source is read then, too.
 * The manual wants a source smaller than the copy, or none given; all 16 bytes said so are what CUTLASS does
 * (copy_sm80.hpp, SM80_CP_ASYNC_CACHEGLOBAL_ZFILL), as is a size of 0, for which nothing is read. The copy
 * goes through the generic proxy: 9.7.9.25.2 names cp.async.bulk alone. */
void cp_async(ptx_thread *t, uint32_t dst, uint64_t src, unsigned bytes, unsigned from_src, unsigned line)
{
    thread *me = whole(t);
    shared_at(me, dst, bytes, line);
    if (from_src > bytes)
        stop(me, line, "cp.async of %u bytes from a source of %u", bytes, from_src);
    aligned(me, src, bytes, line);
    if (from_src)
        global_at(me, src, bytes, line, false, false);
    if (racing)
        race_copy_begins(me, dst, bytes, line);
    me->copies.push_back({dst, (const char *)(uintptr_t)src, bytes, from_src, line});
}

void cp_async_commit_group(ptx_thread *t, unsigned)
{
    whole(t)->copy_groups.push_back(std::move(whole(t)->copies));
    whole(t)->copies.clear();
}

void cp_async_wait_group(ptx_thread *t, unsigned left, unsigned)
{
    thread *me = whole(t);
    for (; me->copy_groups.size() > left; me->copy_groups.pop_front())
        for (const copy &c : me->copy_groups.front()) {
            memcpy(shared_memory + c.dst, c.src, c.from_src);
            memset(shared_memory + c.dst + c.from_src, 0, c.bytes - c.from_src);
            if (racing)
                race_copy_ends(me, c.dst, c.bytes);
        }
}

void fence_proxy_async(ptx_thread *t, unsigned)
{
    if (racing)
        race_fence(whole(t));
}

/* ------------------------------------------------------------------ numbers that need more than a line */

float __attribute__((noinline)) fma_rm_f32(float a, float b, float c)
{
    const int before = fegetround();
    fesetround(FE_DOWNWARD);
    volatile float x = a, y = b, z = c;
    volatile float sum = fmaf(x, y, z);
    fesetround(before);
    return ptx_nan(sum);
}

float __attribute__((noinline)) add_rz_f32(float a, float b)
{
    const int before = fegetround();
    fesetround(FE_TOWARDZERO);
    volatile float x = a, y = b;
    volatile float sum = x + y;
    fesetround(before);
    return ptx_nan(sum);
}

float cvt_f32_f16(uint16_t a)
{
    const uint32_t sign = (uint32_t)(a & 0x8000U) << 16, exponent = a >> 10 & 0x1fU, fraction = a & 0x3ffU;
    if (exponent == 0x1f)
        return fraction ? f32_of(0x7fffffffU) : f32_of(sign | 0x7f800000U);
    if (exponent == 0) {
        const float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    return f32_of(sign | (exponent + 112U) << 23 | fraction << 13);
}

// `drop` low bits of x away, to the nearest, of two the even one.
static uint32_t nearest(uint32_t x, unsigned drop)
{
    if (drop > 31)
        return 0;
    const uint32_t half = 1U << (drop - 1U), rest = x & ((half << 1) - 1U), kept = x >> drop;
    return kept + (rest > half || (rest == half && (kept & 1U)));
}

uint16_t cvt_rn_f16_f32(float a)
{
    const uint32_t bits = u32_of(a), sign = bits >> 16 & 0x8000U, size = bits & 0x7fffffffU;
    if (size > 0x7f800000U)
        return 0x7fff;
    if (size >= 0x47800000U) // 65536 and more
        return (uint16_t)(sign | 0x7c00U);
    if (size >= 0x38800000U) // normal; a carry goes into the exponent, up to infinity
        return (uint16_t)(sign | (nearest(size, 13) - (112U << 10)));
    const uint32_t fraction = (size & 0x7fffffU) | 0x800000U, exponent = size >> 23;
    return (uint16_t)(sign | (exponent < 90U ? 0U : nearest(fraction, 126U - exponent)));
}

uint16_t ptx_half(ptx_f80 exact)
{
    if (exact != exact || exact - exact != 0)
        return cvt_rn_f16_f32((float)exact);
    int exponent;
    frexpl(exact, &exponent);
    const int step = exponent - 11 > -24 ? exponent - 11 : -24;
    return cvt_rn_f16_f32((float)ldexpl(rintl(ldexpl(exact, -step)), step));
}

uint16_t cvt_rn_bf16_f32(float a)
{
    return a != a ? (uint16_t)0x7fff : (uint16_t)nearest(u32_of(a), 16);
}
