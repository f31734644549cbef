// Instructions of matrices: mma.sync, ldmatrix (PTX ISA 9.7.14), wgmma (9.7.15). The manual has formulas for
// mma's fragments and pictures for the others; these were taken from CUTLASS 4.x as well (include/cute/atom):
// mma_traits_sm80.hpp, copy_traits_sm75.hpp (ldmatrix), mma_traits_sm90_gmma.hpp (ALayout_64x16,
// CLayout_64xN, make_gmma_desc) and mma_sm90_desc.hpp; movmatrix from its substitute in llama.cpp's
// ggml-cuda/mma.cuh.
#include "machine.h"

#include <algorithm>
#include <map>

namespace
{

/* ------------------------------------------------------------------ one dot product of 16 */

struct row { // of 16 factors mantissa * 2^exponent; of a zero the exponent is very small
    int32_t mantissa[16], exponent[16];
    float value[16];
    bool odd; // one is infinite or NaN
};
const int NO_EXPONENT = -1000;

void put(row &r, unsigned k, uint16_t bits, bool brain)
{
    const unsigned width = brain ? 7 : 10, most = brain ? 0xff : 0x1f, exponent = bits >> width & most;
    const int32_t fraction = bits & ((1 << width) - 1),
                  mantissa = exponent ? fraction | 1 << width : fraction;
    r.mantissa[k] = bits & 0x8000U ? -mantissa : mantissa;
    r.exponent[k] = mantissa ? (exponent ? (int)exponent : 1) - (brain ? 127 : 15) : NO_EXPONENT;
    r.value[k] = brain ? f32_of((uint32_t)bits << 16) : cvt_f32_f16(bits);
    r.odd = (k ? r.odd : false) || exponent == most;
}

float odd_sum(const row &a, const row &b, float c)
{
    float sum = c;
    for (int k = 0; k < 16; k++)
        sum += a.value[k] * b.value[k];
    return ptx_nan(sum);
}

/* size * 2^exponent, cut to an f32. */
float cut(int64_t sum, int exponent)
{
    const uint64_t size = (uint64_t)(sum < 0 ? -sum : sum);
    const int bits = size ? 64 - __builtin_clzll(size) : 0, drop = bits > 24 ? bits - 24 : 0;
    const float value = ldexpf((float)(size >> drop), exponent + drop);
    return sum < 0 ? -value : value;
}

/* The manual leaves the precision of the sum open ("at least single precision"). Measurements of GPUs (Fasi
 * et al. 2021, and for Hopper those after them) fit this: products are exact, all terms are cut to BELOW bits
 * under the last bit of an f32 as large as the largest, the sum is cut to f32. That is worse than rounding:
 * what passes here passes with any better sum. */
const int BELOW = 2;

int64_t moved(int32_t mantissa, int up)
{
    const int64_t size = mantissa < 0 ? -(int64_t)mantissa : mantissa;
    const int64_t at = up >= 0 ? size << (up < 32 ? up : 32) : size >> (up > -63 ? -up : 63);
    return mantissa < 0 ? -at : at;
}

float dot16(const row &a, const row &b, float c, bool brain)
{
    const int fraction = brain ? 14 : 20; // bits of a product behind its point
    const uint32_t c_bits = u32_of(c), c_field = c_bits >> 23 & 0xffU;
    if (a.odd || b.odd || c_field == 0xff)
        return odd_sum(a, b, c);
    const int32_t c_size = (int32_t)(c_bits & 0x7fffffU) | (c_field ? 0x800000 : 0);
    const int c_exponent = c_size ? (c_field ? (int)c_field : 1) - 127 : NO_EXPONENT;
    int top = c_exponent;
    for (int k = 0; k < 16; k++)
        top = std::max(top, a.exponent[k] + b.exponent[k]);
    if (top <= NO_EXPONENT / 2)
        return 0.0f;
    const int last = top - 23 - BELOW; // exponent of the last bit that is kept
    int64_t sum = moved(c_bits >> 31 ? -c_size : c_size, c_exponent - 23 - last);
    for (int k = 0; k < 16; k++)
        sum += moved(a.mantissa[k] * b.mantissa[k], a.exponent[k] + b.exponent[k] - fraction - last);
    return cut(sum, last);
}

uint16_t half_of(const uint32_t *registers, unsigned i)
{
    return (uint16_t)(registers[i / 2] >> i % 2 * 16);
}

unsigned whole_warp(const thread *me, const char *what, unsigned line)
{
    if (warps[me->warp].size != LANES)
        stop(me, line, "%s in a warp that is not full", what);
    return EVERY_LANE;
}

/* ------------------------------------------------------------------ fragments (9.7.14.5.8) */

/* Lane 4 g + t holds of A rows g and g + 8, columns 2 t, 2 t + 1 and those plus 8; of B column g, the same k;
 * of C and D rows g and g + 8, columns 2 t and 2 t + 1. */
void a_fragment(uint16_t a[16][16], const uint32_t *registers, unsigned lane)
{
    for (unsigned i = 0; i < 8; i++)
        a[lane / 4 + (i / 2 % 2) * 8][lane % 4 * 2 + i % 2 + i / 4 * 8] = half_of(registers, i);
}

void put_all(row *rows, const uint16_t (*bits)[16], unsigned n, bool brain)
{
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < 16; k++)
            put(rows[i], k, bits[i][k], brain);
}

struct mma_brought {
    float *d;
    const uint32_t *a, *b;
    const float *c;
};

void multiply(warp &w, bool brain)
{
    uint16_t a_bits[16][16], b_bits[8][16];
    for (unsigned lane = 0; lane < LANES; lane++) {
        const mma_brought *m = (const mma_brought *)w.lanes[lane].brought;
        a_fragment(a_bits, m->a, lane);
        for (unsigned i = 0; i < 4; i++)
            b_bits[lane / 4][lane % 4 * 2 + i % 2 + i / 2 * 8] = half_of(m->b, i);
    }
    row a[16], b[8];
    put_all(a, a_bits, 16, brain);
    put_all(b, b_bits, 8, brain);
    for (unsigned lane = 0; lane < LANES; lane++) {
        const mma_brought *m = (const mma_brought *)w.lanes[lane].brought;
        for (unsigned i = 0; i < 4; i++)
            m->d[i] = dot16(a[lane / 4 + i / 2 * 8], b[lane % 4 * 2 + i % 2], m->c[i], brain);
    }
}

void mma(ptx_thread *t, float *d, const uint32_t *a, const uint32_t *b, const float *c, bool brain,
         unsigned line)
{
    mma_brought m = {d, a, b, c};
    meet(whole(t), "mma.sync", line, whole_warp(whole(t), "mma.sync", line), &m,
         [brain](warp &w) { multiply(w, brain); });
}

} // namespace

void mma_m16n8k16_f16(ptx_thread *me, float *d, const uint32_t *a, const uint32_t *b, const float *c,
                      unsigned line)
{
    mma(me, d, a, b, c, false, line);
}
void mma_m16n8k16_bf16(ptx_thread *me, float *d, const uint32_t *a, const uint32_t *b, const float *c,
                       unsigned line)
{
    mma(me, d, a, b, c, true, line);
}

/* Lane 8 m + r gives the address of row r of matrix m, 8 halves; lane 4 r + t gets of every matrix the
 * columns 2 t and 2 t + 1 of row r, or with .trans the rows 2 t and 2 t + 1 of column r (9.7.14.5.15). */
void ldmatrix_x4(ptx_thread *t, uint32_t *d, uint32_t address, bool trans, unsigned line)
{
    thread *me = whole(t);
    shared_at(me, address, 16, line);
    if (racing)
        race_read(me, address, 16, line);
    struct brought {
        uint32_t *d, address;
    } mine = {d, address};
    meet(me, "ldmatrix", line, whole_warp(me, "ldmatrix", line), &mine, [trans](warp &w) {
        uint16_t rows[32][8];
        for (unsigned lane = 0; lane < LANES; lane++)
            memcpy(rows[lane], shared_memory + ((const brought *)w.lanes[lane].brought)->address, 16);
        for (unsigned lane = 0; lane < LANES; lane++)
            for (unsigned m = 0; m < 4; m++) {
                const unsigned r = lane / 4, k = lane % 4 * 2;
                const uint32_t low = trans ? rows[m * 8 + k][r] : rows[m * 8 + r][k];
                const uint32_t high = trans ? rows[m * 8 + k + 1][r] : rows[m * 8 + r][k + 1];
                ((const brought *)w.lanes[lane].brought)->d[m] = low | high << 16;
            }
    });
}

/* An 8x8 matrix of 16-bit values, row i / 4 of it in lane i, columns 2 (i % 4) and the next one; every lane
 * gets the same places of the transposed matrix (9.7.14.5.17). */
uint32_t movmatrix(ptx_thread *t, uint32_t a, unsigned line)
{
    thread *me = whole(t);
    struct brought {
        uint32_t a, d;
    } mine = {a, 0};
    meet(me, "movmatrix", line, whole_warp(me, "movmatrix", line), &mine, [](warp &w) {
        uint16_t matrix[8][8];
        for (unsigned lane = 0; lane < LANES; lane++)
            for (unsigned i = 0; i < 2; i++)
                matrix[lane / 4][lane % 4 * 2 + i] =
                    (uint16_t)(((const brought *)w.lanes[lane].brought)->a >> i * 16);
        for (unsigned lane = 0; lane < LANES; lane++)
            ((brought *)w.lanes[lane].brought)->d =
                matrix[lane % 4 * 2][lane / 4] | (uint32_t)matrix[lane % 4 * 2 + 1][lane / 4] << 16;
    });
    return mine.d;
}

/* ------------------------------------------------------------------ wgmma (9.7.15) */

namespace
{

/* Accumulators are away from when a product is issued until all products on them are done; who reads the
 * registers meanwhile finds NaNs. The first accumulator of the warp's first lane stands for all. */
struct accumulators {
    std::vector<float *> registers; // lane by lane
    std::vector<float> value;
    unsigned under_way;
};
std::map<float *, accumulators> away;

struct issue { // of a warpgroup: its four warps must issue the same
    unsigned line;
    uint64_t a_desc, b_desc;
};
std::vector<std::vector<issue>> issues;

/* Matrix descriptors (9.7.15.5.1.2.2): the start in bits 0 to 13, leading and stride byte offsets in 16 to 29
 * and 32 to 45, all in 16 bytes, base offset in 49 to 51, swizzle in 62 and 63. */
struct operand {
    uint32_t start, leading, stride;
    bool trans;
};
operand operand_of(const thread *t, uint64_t desc, bool trans, unsigned line)
{
    if (desc >> 62 != 1)
        stop(t, line, "a matrix descriptor with a swizzle other than 128 bytes: not modelled");
    const operand o = {(uint32_t)(desc & 0x3fffU) << 4, (uint32_t)(desc >> 16 & 0x3fffU) << 4,
                       (uint32_t)(desc >> 32 & 0x3fffU) << 4, trans};
    if ((desc >> 49 & 7U) || (o.start >> 7 & 7U))
        stop(t, line, "a matrix that does not begin at a multiple of 1024 bytes (start %u)", o.start);
    if (!trans && (o.start & 0x7fU) > 96)
        stop(t, line, "16 values of k reach over the end of a row of 128 bytes (start %u)", o.start);
    if (trans && (o.start & 0x7fU))
        stop(t, line, "a transposed matrix that begins inside of a row (start %u)", o.start);
    return o;
}
/* Address of the 16 bytes with (row, k). Rows of 128 bytes, 8 of them one pattern. K-major: a row holds k,
 * stride leads to the next 8 rows. Transposed: a row of memory has one k and 64 rows of the matrix; stride
 * leads to the next 8 k, leading to the next 64 rows. The swizzle adds bits 7 to 9 of an address to bits 4 to
 * 6, without carry (9.7.15.5.1.2.1.3; Swizzle<3,4,3> of CUTLASS's swizzle.hpp). */
uint32_t chunk(const operand &o, unsigned row, unsigned k)
{
    uint32_t at = o.start;
    if (o.trans)
        at += row / 64 * o.leading + k / 8 * o.stride + k % 8 * 128 + row % 64 / 8 * 16;
    else
        at += row / 8 * o.stride + row % 8 * 128 + k / 8 * 16;
    return at ^ (at >> 3 & 0x70U);
}
/* All chunks of `rows` rows from `from`, 16 k. */
template <typename F> void each_chunk(const operand &o, unsigned from, unsigned rows, F f)
{
    for (unsigned row = from; row < from + rows; row += o.trans ? 8 : 1)
        for (unsigned k = 0; k < 16; k += o.trans ? 1 : 8)
            f(row, k, chunk(o, row, k));
}
std::vector<row> load(const thread *t, const operand &o, unsigned from, unsigned rows, bool brain,
                      unsigned line)
{
    std::vector<uint16_t> bits(rows * 16);
    each_chunk(o, from, rows, [&](unsigned at, unsigned k, uint32_t address) {
        uint16_t eight[8];
        memcpy(eight, shared_at(t, address, 16, line), 16);
        for (unsigned i = 0; i < 8; i++)
            bits[(at - from + (o.trans ? i : 0)) * 16 + k + (o.trans ? 0 : i)] = eight[i];
    });
    std::vector<row> all(rows);
    put_all(all.data(), (const uint16_t(*)[16])bits.data(), rows, brain);
    return all;
}
// What a warp of a product reads: its 16 rows of A, all of B.
template <typename F> void each_read(const warp &w, const product &p, F f)
{
    const thread *t = w.lanes;
    if (p.a.empty())
        each_chunk(operand_of(t, p.a_desc, p.shape.trans_a, p.line), t->warp % 4 * 16, 16,
                   [&](unsigned, unsigned, uint32_t at) { f(at); });
    each_chunk(operand_of(t, p.b_desc, p.shape.trans_b, p.line), 0, (unsigned)p.shape.n,
               [&](unsigned, unsigned, uint32_t at) { f(at); });
}

struct wgmma_brought {
    const wgmma_shape *shape;
    float *const *d;
    uint32_t *const *a;
    uint64_t a_desc, b_desc;
    bool scale_d;
};

void take_accumulators(warp &w, float *key, const wgmma_shape &shape, unsigned line)
{
    accumulators &acc = away[key];
    std::vector<float *> registers;
    for (unsigned lane = 0; lane < LANES; lane++) {
        float *const *d = ((const wgmma_brought *)w.lanes[lane].brought)->d;
        registers.insert(registers.end(), d, d + shape.accumulators);
    }
    if (acc.under_way++) {
        if (acc.registers != registers)
            stop(w.lanes, line, "wgmma on some of the accumulators that another one has");
        return;
    }
    acc.registers = registers;
    acc.value.clear();
    for (float *r : registers) {
        acc.value.push_back(*r);
        *r = f32_of(0x7fffffffU);
    }
}

void check_group(const warp &w, const wgmma_brought &m, unsigned line)
{
    std::vector<issue> &all = issues[w.lanes->warp / 4];
    const issue now = {line, m.a_desc, m.b_desc};
    if (w.issued == all.size())
        all.push_back(now);
    const issue &first = all[w.issued];
    if (first.line != line || first.a_desc != m.a_desc || first.b_desc != m.b_desc)
        stop(w.lanes, line, "wgmma: another warp of the warpgroup has issued another one, at %s",
             place(first.line).c_str());
}

void issue_product(warp &w, unsigned line)
{
    const wgmma_brought &m = *(const wgmma_brought *)w.lanes->brought;
    product p = {*m.shape, {}, m.a_desc, m.b_desc, m.scale_d, m.d[0], line};
    if (m.shape->scale_a != 1 || m.shape->scale_b != 1 || m.shape->accumulators != m.shape->n / 2)
        stop(w.lanes, line, "wgmma: operands that are not modelled");
    for (unsigned lane = 0; lane < LANES; lane++) {
        const wgmma_brought &other = *(const wgmma_brought *)w.lanes[lane].brought;
        if (other.a_desc != m.a_desc || other.b_desc != m.b_desc || other.scale_d != m.scale_d)
            stop(&w.lanes[lane], line, "wgmma: operands differ within the warp");
        if (m.a)
            p.a.insert(p.a.end(), other.a, other.a + 4);
    }
    if (warps.size() < w.lanes->warp / 4 * 4 + 4)
        stop(w.lanes, line, "wgmma without a whole warpgroup");
    check_group(w, m, line);
    w.issued++;
    take_accumulators(w, p.key, p.shape, line);
    each_read(w, p, [&](uint32_t at) { shared_at(w.lanes, at, 16, line); });
    if (racing) {
        race_product_begins(w);
        each_read(w, p, [&](uint32_t at) { race_product_reads(w, at, 16, line); });
    }
    w.products.push_back(p);
}

void finish_product(warp &w, const product &p)
{
    const thread *t = w.lanes;
    const bool brain = p.shape.brain;
    std::vector<row> a(16);
    if (p.a.empty()) {
        a = load(t, operand_of(t, p.a_desc, p.shape.trans_a, p.line), t->warp % 4 * 16, 16, brain, p.line);
    } else { // as for mma (9.7.15.5.1.1.1)
        uint16_t bits[16][16];
        for (unsigned lane = 0; lane < LANES; lane++) {
            const uint32_t registers[] = {*p.a[lane * 4], *p.a[lane * 4 + 1], *p.a[lane * 4 + 2],
                                          *p.a[lane * 4 + 3]};
            a_fragment(bits, registers, lane);
        }
        put_all(a.data(), bits, 16, brain);
    }
    const std::vector<row> b =
        load(t, operand_of(t, p.b_desc, p.shape.trans_b, p.line), 0, (unsigned)p.shape.n, brain, p.line);
    accumulators &acc = away[p.key];
    for (unsigned lane = 0; lane < LANES; lane++)
        for (unsigned i = 0; i < (unsigned)p.shape.accumulators; i++) { // fragment D (9.7.15.5.1.1.1)
            float &d = acc.value[lane * (unsigned)p.shape.accumulators + i];
            const unsigned column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            d = dot16(a[lane / 4 + i / 2 % 2 * 8], b[column], p.scale_d ? d : 0.0f, brain);
        }
    if (--acc.under_way == 0) {
        for (size_t i = 0; i < acc.registers.size(); i++)
            *acc.registers[i] = acc.value[i];
        away.erase(p.key);
    }
}

void finish_group(warp &w, const std::vector<product> &group)
{
    if (racing)
        race_product_ends(w);
    for (const product &p : group) {
        finish_product(w, p);
        if (racing)
            each_read(w, p, [&](uint32_t at) { race_product_has_read(w, at, 16, p.line); });
    }
}

} // namespace

void matrix_begins(void)
{
    issues.assign(warps.size() / 4 + 1, {});
    away.clear();
}

void matrix_ends(void)
{
    for (const warp &w : warps) {
        if (!w.products.empty() || !w.product_groups.empty())
            stop(w.lanes, 0, "a warp has returned without waiting for its wgmma");
        if (w.issued != issues[w.lanes->warp / 4].size())
            stop(w.lanes, 0, "wgmma: not by all warps of the warpgroup");
    }
}

void wgmma_mma_async(ptx_thread *t, const wgmma_shape &shape, float *const *d, uint32_t *const *a,
                     uint64_t a_desc, uint64_t b_desc, bool scale_d, unsigned line)
{
    wgmma_brought m = {&shape, d, a, a_desc, b_desc, scale_d};
    meet(whole(t), "wgmma.mma_async", line, whole_warp(whole(t), "wgmma", line), &m,
         [line](warp &w) { issue_product(w, line); });
}

void wgmma_fence(ptx_thread *t, unsigned line)
{
    meet(whole(t), "wgmma.fence", line, whole_warp(whole(t), "wgmma.fence", line), NULL, [](warp &) {});
}

void wgmma_commit_group(ptx_thread *t, unsigned line)
{
    meet(whole(t), "wgmma.commit_group", line, whole_warp(whole(t), "wgmma.commit_group", line), NULL,
         [](warp &w) {
             w.product_groups.push_back(std::move(w.products));
             w.products.clear();
         });
}

void wgmma_wait_group(ptx_thread *t, unsigned left, unsigned line)
{
    meet(whole(t), "wgmma.wait_group", line, whole_warp(whole(t), "wgmma.wait_group", line), NULL,
         [left](warp &w) {
             for (; w.product_groups.size() > left; w.product_groups.pop_front())
                 finish_group(w, w.product_groups.front());
         });
}
