// The machine against words that are not ours: the formulas of NVIDIA's PTX ISA 9.0 (its sections in
// brackets) and, where that has pictures alone, the layouts of CUTLASS 4.x (include/cute/atom) and
// llama.cpp's substitute for movmatrix. They are written down here once more, not shared with the machine.
#include "machine.h"

#include <float.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

int wrong;
void expect(bool right, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void expect(bool right, const char *fmt, ...)
{
    if (right)
        return;
    va_list args;
    va_start(args, fmt);
    printf("wrong: ");
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
    wrong++;
}

/* ------------------------------------------------------------------ one thread */

void check_shifts(void) // [9.7.8.8, 9.7.8.9]: amounts beyond the width are clamped to it
{
    for (uint32_t n : {32U, 33U, 64U, 255U, 0xffffffffU}) {
        expect(shl_b32(1, n) == 0 && shr_u32(~0U, n) == 0, "shift by %u", n);
        expect(shr_s32(-8, n) == -1 && shr_s32(8, n) == 0, "signed shift by %u", n);
    }
    expect(shl_b64(1, 63) == 1ULL << 63 && shl_b64(1, 64) == 0 && shr_u64(~0ULL, 64) == 0, "64-bit shift");
    expect(shr_s64(INT64_MIN, 99) == -1, "signed 64-bit shift");
}

uint64_t bfi_by_the_manual(uint64_t a, uint64_t b, unsigned c, unsigned d, unsigned msb) // [9.7.1.20]
{
    const unsigned pos = c & 0xff, len = d & 0xff;
    uint64_t f = b;
    for (unsigned i = 0; i < len && pos + i <= msb; i++)
        f = (f & ~(1ULL << (pos + i))) | (i <= msb ? a >> i & 1 : 0) << (pos + i);
    return f;
}
void check_bfi(void)
{
    const uint64_t a = 0x123456789abcdef5U, b = 0xfedcba9876543210U;
    for (unsigned c : {0U, 1U, 3U, 4U, 31U, 32U, 63U, 64U, 255U, 256U})
        for (unsigned d : {0U, 1U, 28U, 29U, 32U, 33U, 63U, 64U, 255U, 256U}) {
            expect(bfi_b64(a, b, c, d) == bfi_by_the_manual(a, b, c, d, 63), "bfi.b64 %u %u", c, d);
            expect(bfi_b32((uint32_t)a, (uint32_t)b, c, d) ==
                       bfi_by_the_manual((uint32_t)a, (uint32_t)b, c, d, 31),
                   "bfi.b32 %u %u", c, d);
        }
}

void check_prmt(void) // [9.7.9.7]
{
    const uint32_t a = 0x83828180U, b = 0x07060504U; // byte i of b a is i, with its sign in those of a
    expect(prmt_b32(a, b, 0x3210) == a && prmt_b32(a, b, 0x7654) == b, "prmt in order");
    expect(prmt_b32(a, b, 0x1054) == 0x81800504U, "prmt 0x1054");
    expect(prmt_b32(a, b, 0xf8c9) == 0x00ff00ffU, "prmt of signs");
    expect(prmt_b32(a, b, 0xffff3210U) == a, "prmt looks at 16 bits");
}

void check_comparisons(void) // [9.3.1.2]
{
    const float nan = NAN;
    expect(!setp_eq_f32(nan, 1) && !setp_ne_f32(nan, 1) && !setp_lt_f32(1, nan) && !setp_le_f32(1, nan) &&
               !setp_gt_f32(nan, 1) && !setp_ge_f32(nan, nan),
           "ordered comparisons with a NaN");
    expect(setp_equ_f32(nan, 1) && setp_neu_f32(nan, 1) && setp_ltu_f32(1, nan) && setp_leu_f32(1, nan) &&
               setp_gtu_f32(nan, 1) && setp_geu_f32(nan, nan),
           "unordered comparisons with a NaN");
    expect(!setp_equ_f32(1, 2) && !setp_neu_f32(2, 2) && !setp_ltu_f32(2, 2) && setp_leu_f32(2, 2),
           "unordered comparisons of numbers");
    expect(setp_num_f32(1, 2) && !setp_num_f32(1, nan) && setp_nan_f32(nan, 1) && !setp_nan_f32(1, 1),
           "num and nan");
}

void check_floats(void)
{
    const float nan = NAN;
    expect(max_f32(nan, 1) == 1 && max_f32(1, nan) == 1 && min_f32(nan, 1) == 1, "min, max: one NaN");
    expect(isnan(max_f32(nan, nan)) && isnan(min_f32(nan, nan)), "min, max: two NaNs");
    expect(!signbit(max_f32(-0.0f, 0.0f)) && !signbit(max_f32(0.0f, -0.0f)), "max of zeros");
    expect(signbit(min_f32(-0.0f, 0.0f)) && signbit(min_f32(0.0f, -0.0f)), "min of zeros");
    expect(copysign_f32(-1, 2) == -2, "copysign: sign of the first"); // [9.7.3.2]
    expect(add_rn_f32(FLT_MIN, -1.5f * FLT_MIN) == -0.5f * FLT_MIN, "subnormal sums stay");
    // [9.7.3.21]
    expect(ex2_approx_ftz_f32(-INFINITY) == 0 && ex2_approx_ftz_f32(INFINITY) == INFINITY, "ex2 of infinity");
    expect(ex2_approx_ftz_f32(-0.0f) == 1 && isnan(ex2_approx_ftz_f32(nan)), "ex2 of -0, NaN");
    expect(ex2_approx_ftz_f32(-127) == 0, "ex2 flushes");
    expect(add_rz_f32(1, -0x1p-30f) < 1 && add_rz_f32(1, 0x1.8p-24f) == 1 && add_rz_f32(-1, 0x1p-30f) > -1, "add.rz");
    expect(fma_rm_f32(1, 1, -0x1p-30f) < 1 && fma_rm_f32(1, 1, 0x1p-30f) == 1, "fma.rm");
}

void check_rcp(void) // [9.7.3.14]
{
    const double tiny = 0x1p-1023;
    expect(rcp_approx_ftz_f64(tiny) == INFINITY && rcp_approx_ftz_f64(-tiny) == -INFINITY,
           "rcp of subnormal");
    expect(rcp_approx_ftz_f64(0x1p1023) == 0 && signbit(rcp_approx_ftz_f64(-0x1p1023)), "rcp to subnormal");
    expect(signbit(rcp_approx_ftz_f64(-INFINITY)) && rcp_approx_ftz_f64(-0.0) == -INFINITY,
           "rcp of infinity, -0");
    expect(u64_of(rcp_approx_ftz_f64(f64_of(0xfff8000000000001U))) == 0x7fffffff00000000U, "rcp of a NaN");
    expect((uint32_t)u64_of(rcp_approx_ftz_f64(3)) == 0 && fabs(rcp_approx_ftz_f64(3) * 3 - 1) < 1e-5,
           "rcp of 3");
}

void check_conversions(void) // [9.7.9.21]
{
    expect(cvt_rzi_u32_f32(-1) == 0 && cvt_rzi_u32_f32(5e9f) == UINT32_MAX && cvt_rzi_u32_f32(NAN) == 0,
           "to u32");
    expect(cvt_rni_s32_f32(2.5f) == 2 && cvt_rni_s32_f32(3.5f) == 4 && cvt_rni_s32_f32(-3e9f) == INT32_MIN &&
               cvt_rni_s32_f32(3e9f) == INT32_MAX && cvt_rni_s32_f32(NAN) == 0,
           "to s32");
    expect(cvt_sat_f32_f32(NAN) == 0 && cvt_sat_f32_f32(-1) == 0 && cvt_sat_f32_f32(2) == 1, "sat");
    expect(cvt_rn_f32_u32(0x1000001) == 0x1p24f && cvt_rn_f32_u32(0x1000003) == 0x1000004, "from u32");
    // The first operand goes into the upper half.
    expect(cvt_rn_f16x2_f32(1, 2) == 0x3c004000U && cvt_rn_bf16x2_f32(1, 2) == 0x3f804000U, "two halves");
    // As __float2half_rn and __float2bfloat16_rn of cuda_fp16.hpp and cuda_bf16.hpp; all 2^32 values were
    // compared.
    expect(cvt_rn_f16_f32(65519) == 0x7bff && cvt_rn_f16_f32(65520) == 0x7c00, "f16: the largest");
    expect(cvt_rn_f16_f32(0x1p-25f) == 0 && cvt_rn_f16_f32(0x1.8p-25f) == 1, "f16: the smallest");
    expect(cvt_rn_f16_f32(NAN) == 0x7fff && cvt_rn_bf16_f32(-NAN) == 0x7fff, "halves of a NaN");
    expect(cvt_rn_bf16_f32(FLT_MAX) == 0x7f80 && cvt_rn_bf16_f32(0x1.01p0f) == 0x3f80, "bf16");
}

/* ------------------------------------------------------------------ threads together */

std::function<void(ptx_thread *, unsigned)> work;
bool early; // it runs before griddepcontrol.wait
void run_work(ptx_thread *me, const char *)
{
    if (!early)
        griddepcontrol_wait(me, 1);
    work(me, me->tid.x);
    griddepcontrol_wait(me, 1);
}

void run(unsigned n, unsigned shared, const std::function<void(ptx_thread *, unsigned)> &what)
{
    static const ptx_loc loc = {1, 0, 1, 0, 0};
    static const char *const file = "check.cc";
    static const ptx_module module("check", run_work, {}, {}, 0, 0, 0, file, &loc, 1, &file);
    work = what;
    kernel = &module;
    ptx_block = {{n, 1, 1}, {0, 0, 0}, {1, 1, 1}};
    run_block(NULL, PTX_SHARED_BASE + shared);
    kernel = NULL;
}

// What is undefined must end the program.
void expect_stop(const char *what, const std::function<void(ptx_thread *, unsigned)> &body)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        (void)!freopen("/dev/null", "w", stderr);
        run(1, 64, body);
        _exit(0);
    }
    expect(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
               WTERMSIG(status) == SIGABRT,
           "%s: not noticed", what);
}

unsigned shfl_by_the_manual(bool bfly, unsigned lane, unsigned b, unsigned c, bool *p) // [9.7.9.6]
{
    const unsigned bval = b & 31, cval = c & 31, segmask = c >> 8 & 31;
    const unsigned max_lane = (lane & segmask) | (cval & ~segmask), min_lane = lane & segmask;
    const unsigned j = bfly ? lane ^ bval : min_lane | (bval & ~segmask & 31);
    *p = j <= max_lane;
    return *p ? j : lane;
}
void check_shfl(void)
{
    run(32, 0, [](ptx_thread *me, unsigned lane) {
        for (unsigned c : {0x1fU, 0x181fU, 0x1c1fU, 0x1e1fU, 0x0fU, 0x1003U})
            for (unsigned b = 0; b < 36; b++)
                for (bool bfly : {true, false}) {
                    bool in, want_in;
                    const unsigned want = shfl_by_the_manual(bfly, lane, b, c, &want_in);
                    const unsigned got = (bfly ? shfl_sync_bfly : shfl_sync_idx)(me, lane, b, c, ~0U, &in, 1);
                    expect(got == want && in == want_in, "shfl lane %u b %u c %x: %u", lane, b, c, got);
                }
        expect(vote_sync_ballot(me, lane % 3 == 0, ~0U, 1) == 0x49249249U, "ballot"); // [9.7.13.9]
    });
}

void check_dynamic(void) // Tencent/hpc-ops, issue 42: behind 24 bytes, declared with an alignment of 128
{
    expect(ptx_dynamic(24) == PTX_SHARED_BASE + 32 && ptx_dynamic(0) == PTX_SHARED_BASE,
           "dynamic shared memory");
}

void check_mbarrier(void) // [9.7.13.15.6, 9.7.13.15.9, 9.7.13.15.16]
{
    run(1, 8, [](ptx_thread *me, unsigned) {
        const uint32_t at = PTX_SHARED_BASE;
        mbarrier_init(me, at, 2, 1);
        for (unsigned phase = 0; phase < 5; phase++)
            for (unsigned arrived = 0; arrived < 2; arrived++) {
                expect(!mbarrier_test_wait_parity(me, at, phase & 1, 1), "mbarrier: phase %u is over", phase);
                expect(mbarrier_test_wait_parity(me, at, ~phase & 1, 1), "mbarrier: phase before %u is not",
                       phase);
                mbarrier_arrive(me, at, 1);
            }
    });
}

void check_misuse(void) // [9.7.13.15.4, 9.7.13.13]
{
    uint32_t *word;
    (void)cudaMallocHost((void **)&word, 4);
    const uint64_t address = (uint64_t)(uintptr_t)word;
    expect_stop("an arrival before the end of the last phase was seen", [](ptx_thread *me, unsigned) {
        mbarrier_init(me, PTX_SHARED_BASE, 1, 1);
        mbarrier_arrive(me, PTX_SHARED_BASE, 1);
        mbarrier_arrive(me, PTX_SHARED_BASE, 1);
    });
    early = true;
    expect_stop("a read before the wait", [=](ptx_thread *me, unsigned) { ld_global(me, address, 4, 1); });
    expect_stop("a write before the wait", [=](ptx_thread *me, unsigned) { st_global(me, address, 4, 1); });
    run(1, 0, [=](ptx_thread *me, unsigned) { ld_global_cs(me, address, 4, 1); });
    early = false;
    (void)cudaFreeHost(word);
}

void check_cp_async(void) // [9.7.9.25.3]
{
    char *src;
    (void)cudaMallocHost((void **)&src, 64);
    memset(src, 7, 64);
    run(1, 64, [&](ptx_thread *me, unsigned) {
        const uint32_t at = PTX_SHARED_BASE;
        const unsigned from_src[] = {16, 4, 0, 16};
        for (unsigned i = 0; i < 4; i++) {
            cp_async(me, at + i * 16, (uint64_t)(uintptr_t)(src + i * 16), 16, from_src[i], 1);
            cp_async_commit_group(me, 1);
        }
        cp_async_wait_group(me, 1, 1);
        const char *got = (const char *)ld_shared(me, at, 16, 1);
        for (unsigned i = 0; i < 48; i++)
            expect(got[i] == (i % 16 < from_src[i / 16] ? 7 : 0), "cp.async: byte %u", i);
        cp_async_wait_group(me, 0, 1);
        expect(got[63] == 7, "cp.async: the last group");
    });
    (void)cudaFreeHost(src);
}

/* ------------------------------------------------------------------ matrices */

/* A layout of CuTe, nested modes laid out flat: index -> place. */
struct mode {
    unsigned size, stride;
};
typedef std::vector<mode> layout;
unsigned place(const layout &l, unsigned i)
{
    unsigned at = 0;
    for (const mode &m : l) {
        at += i % m.size * m.stride;
        i /= m.size;
    }
    return at;
}

int a_value(unsigned m, unsigned k)
{
    return (int)(m * 5 + k * 3 + m * k) % 11 - 5;
}
int b_value(unsigned n, unsigned k)
{
    return (int)(n * 7 + k + n * k) % 13 - 6;
}
float product(unsigned m, unsigned n)
{
    int sum = 0;
    for (unsigned k = 0; k < 16; k++)
        sum += a_value(m, k) * b_value(n, k);
    return (float)sum;
}
uint16_t bits_of(int x, bool brain)
{
    return brain ? cvt_rn_bf16_f32((float)x) : cvt_rn_f16_f32((float)x);
}

// Value v of a thread in registers of two, the first in the low half.
void pack(uint32_t *registers, unsigned v, uint16_t bits)
{
    registers[v / 2] = (v % 2 ? registers[v / 2] : 0) | (uint32_t)bits << v % 2 * 16;
}

void check_mma(
    bool brain) // [9.7.14.5.8]; mma_traits_sm80.hpp, SM80_16x8x16: places are m + 16 k, n + 8 k, m + 16 n
{
    run(32, 0, [brain](ptx_thread *me, unsigned lane) {
        uint32_t a[4], b[2];
        const float c[] = {1, 2, 3, 4};
        float d[4];
        for (unsigned v = 0; v < 8; v++) {
            const unsigned at = place({{4, 32}, {8, 1}}, lane) + place({{2, 16}, {2, 8}, {2, 128}}, v);
            pack(a, v, bits_of(a_value(at % 16, at / 16), brain));
        }
        for (unsigned v = 0; v < 4; v++) {
            const unsigned at = place({{4, 16}, {8, 1}}, lane) + place({{2, 8}, {2, 64}}, v);
            pack(b, v, bits_of(b_value(at % 8, at / 8), brain));
        }
        (brain ? mma_m16n8k16_bf16 : mma_m16n8k16_f16)(me, d, a, b, c, 1);
        for (unsigned v = 0; v < 4; v++) {
            const unsigned at = place({{4, 32}, {8, 1}}, lane) + place({{2, 16}, {2, 8}}, v);
            expect(d[v] == product(at % 16, at / 16) + c[v], "mma lane %u value %u", lane, v);
        }
    });
}

void check_ldmatrix(
    bool trans) // [9.7.14.5.15]; copy_traits_sm75.hpp, U32x4_LDSM_N and U16x8_LDSM_T: bits of 4 matrices
{
    run(32, 512, [trans](ptx_thread *me, unsigned lane) {
        const uint32_t row = PTX_SHARED_BASE + lane * 11 % 32 * 16; // rows may lie anywhere
        uint32_t d[4];
        for (unsigned i = 0; i < 8; i++)
            *(ptx_u16 *)st_shared(me, row + i * 2, 2, 1) = (uint16_t)(lane * 8 + i);
        bar_sync(me, 0, 0, 1);
        ldmatrix_x4(me, d, row, trans, 1);
        const layout thread = trans ? layout{{4, 256}, {8, 16}} : layout{{32, 32}},
                     half = trans ? layout{{2, 128}, {4, 1024}} : layout{{2, 16}, {4, 1024}};
        for (unsigned v = 0; v < 8; v++)
            expect((d[v / 2] >> v % 2 * 16 & 0xffff) == (place(thread, lane) + place(half, v)) / 16,
                   "ldmatrix lane %u value %u", lane, v);
    });
}

void check_movmatrix(
    void) // llama.cpp, ggml-cuda/mma.cuh: ggml_cuda_movmatrix where there is no such instruction
{
    run(32, 0, [](ptx_thread *me, unsigned lane) {
        const uint32_t d = movmatrix(me, lane * 2 | (lane * 2 + 1) << 16, 1); // value 8 row + column
        const unsigned row = 2 * (lane % 4), column = lane / 4;
        expect(d == ((row * 8 + column) | ((row + 1) * 8 + column) << 16), "movmatrix lane %u", lane);
    });
}

/* A matrix in shared memory as wgmma finds it [9.7.15.5.1.2], 128-byte swizzle: canonical layouts, in units
 * of 2 bytes, T = 8; Swizzle<3,4,3> of the address. */
struct in_shared {
    uint32_t start, lbo, sbo;
    bool trans;
    uint32_t byte_of(unsigned row, unsigned k) const
    {
        const unsigned at =
            trans ? place({{8, 1}, {8, 8}, {4, lbo / 2}}, row) + place({{8, 64}, {2, sbo / 2}}, k)
                  : place({{8, 64}, {16, sbo / 2}}, row) + place({{8, 1}, {2, 8}}, k);
        const uint32_t byte = start + at * 2;
        return byte ^ (byte >> 7 & 7) << 4;
    }
    uint64_t descriptor(void) const
    {
        const auto encode = [](uint64_t x) { return (x & 0x3ffff) >> 4; };
        return encode(start) | encode(lbo) << 16 | encode(sbo) << 32 | 1ULL << 62;
    }
};
void put(ptx_thread *me, const in_shared &x, unsigned rows, int (*value)(unsigned, unsigned), bool brain)
{
    for (unsigned i = me->tid.x; i < rows * 16; i += 128)
        *(ptx_u16 *)st_shared(me, x.byte_of(i / 16, i % 16), 2, 1) = bits_of(value(i / 16, i % 16), brain);
}

// mma_traits_sm90_gmma.hpp: ALayout_64x16 and CLayout_64xN, places m + 64 k and m + 64 n [9.7.15.5.1.1].
void check_wgmma(unsigned n, bool held, bool trans, bool brain)
{
    run(128, 96 << 10, [=](ptx_thread *me, unsigned t) {
        const in_shared a = {4096 + 96, 16, 2048, false},
                        b = {trans ? 32768U : 32768 + 64, trans ? 8192U : 16, trans ? 3072U : 1024, trans};
        const layout thread = {{4, 128}, {8, 1}, {4, 16}};
        float d[64], *to[64];
        uint32_t r[4], *from[] = {r, r + 1, r + 2, r + 3};
        put(me, a, 64, a_value, brain);
        put(me, b, n, b_value, brain);
        fence_proxy_async(me, 1);
        bar_sync(me, 0, 0, 1);
        for (unsigned v = 0; v < 8; v++) {
            const unsigned at = place(thread, t) + place({{2, 64}, {2, 8}, {2, 512}}, v);
            pack(r, v, bits_of(a_value(at % 64, at / 64), brain));
        }
        for (unsigned v = 0; v < n / 2; v++) {
            d[v] = 3;
            to[v] = &d[v];
        }
        const wgmma_shape shape = {(int)n, (int)n / 2, brain, 1, 1, 0, trans};
        wgmma_fence(me, 1);
        for (bool add : {false, true}) // overwritten, then doubled
            wgmma_mma_async(me, shape, to, held ? from : NULL, a.descriptor(), b.descriptor(), add, 1);
        wgmma_commit_group(me, 1);
        wgmma_wait_group(me, 0, 1);
        for (unsigned v = 0; v < n / 2; v++) {
            const unsigned at = place(thread, t) + place({{2, 64}, {2, 8}, {n / 8, 512}}, v);
            expect(d[v] == 2 * product(at % 64, at / 64), "wgmma n %u held %d trans %d thread %u value %u", n,
                   held, trans, t, v);
        }
    });
}

} // namespace

int main(void)
{
    check_shifts();
    check_bfi();
    check_prmt();
    check_comparisons();
    check_floats();
    check_rcp();
    check_conversions();
    check_shfl();
    check_dynamic();
    check_mbarrier();
    check_misuse();
    check_cp_async();
    for (bool brain : {false, true}) {
        check_mma(brain);
        for (unsigned n : {64U, 128U})
            for (int how = 0; how < 4; how++)
                check_wgmma(n, how & 1, how & 2, brain);
    }
    check_ldmatrix(false);
    check_ldmatrix(true);
    check_movmatrix();
    printf("%d wrong\n", wrong);
    return wrong != 0;
}
