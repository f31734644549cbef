/* Attention of one query row per head: scores and weighted sums that read the cache once for all query heads
 * of a kv head and convert in registers. */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/isa.h"

/* How a row's channels are read. K_TABLE: codes whose values are rounded to f16 (f16_values, inverse). */
enum kind { K_F32, K_F16, K_BF16, K_CODES, K_TABLE };

#if VL == 16
/* Entries of `table` by VL codes of 2 or 4 bits. */
INLINE vf table_codes(const uint8_t *p, const int bits, __m512 table)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (bits == 2) {
        int32_t w;
        memcpy(&w, p, 4);
        __m512i s = _mm512_srlv_epi32(_mm512_set1_epi32(w), _mm512_slli_epi32(lane, 1));
        return _mm512_permutevar_ps(table, s); /* reads 2 bits, its own 4 lanes of the table */
    }
    __m512i w = _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)p));
    w = _mm512_permutexvar_epi32(_mm512_srli_epi32(lane, 3), w);
    w = _mm512_srlv_epi32(w, _mm512_slli_epi32(_mm512_and_si512(lane, _mm512_set1_epi32(7)), 2));
    return _mm512_permutexvar_ps(w, table); /* reads 4 bits */
}

/* Every code there is: 2 bits four times over. */
INLINE vf code_table(const int bits)
{
    if (bits == 2)
        return _mm512_broadcast_f32x4(_mm_setr_ps(0, 1, 2, 3));
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif

/* VL codes of `bits` bits as floats. */
INLINE vf load_codes(const uint8_t *p, const int bits)
{
#if VL == 16
    if (bits == 2 || bits == 4)
        return table_codes(p, bits, code_table(bits));
    if (bits == 8)
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif VL == 8
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    if (bits == 2 || bits == 4) {
        uint32_t w = 0;
        memcpy(&w, p, (size_t)bits);
        __m256i s =
            _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)w), _mm256_slli_epi32(lane, bits == 2 ? 1 : 2));
        return _mm256_cvtepi32_ps(_mm256_and_si256(s, _mm256_set1_epi32((1 << bits) - 1)));
    }
    if (bits == 8)
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#endif
    float t[VL];
    for (int i = 0; i < VL; i++)
        t[i] = (float)host_code(p, i, bits);
    return vf_load(t);
}

INLINE vf dequant(vf code, vf s, vf m, const bool f16_values, bool inverse)
{
    if (!f16_values)
        return vf_fma(code, s, m);
    uint16_t t[VL];
    vf_store_f16(t, inverse ? vf_div(code, s) : vf_mul(code, s));
    vf_store_f16(t, vf_add(vf_load_f16(t), m));
    return vf_load_f16(t);
}

/* One row of one head. */
struct row {
    const void *data;
    const uint16_t *scale, *min;
    vf table; /* K_TABLE: the value of every code of the present group */
};

INLINE struct row row_at(const struct decode_args *a, int64_t r, const enum kind kind)
{
    const struct kv_run *run = a->run;
    int64_t at = run->index ? run->index[r + a->at] : r + a->at;
    if (kind >= K_CODES) {
        at = at * a->n_head + a->h;
        int64_t g = at * (a->d / run->group);
        return (struct row){.data = (const uint8_t *)run->data + at * a->d * run->bits / 8,
                            .scale = run->scale + g,
                            .min = run->min + g};
    }
    return (struct row){.data = (const char *)run->data +
                                (at * a->n_head + a->h) * a->d * (kind == K_F32 ? 4 : 2)};
}

/* Whether groups of channels are whole vectors, their number a power of two (a shift instead of a division).
 */
INLINE bool vector_groups(const struct kv_run *run, int64_t d)
{
    return d % VL == 0 && run->group % VL == 0 && (run->group & (run->group - 1)) == 0;
}

INLINE int64_t group_of(const struct kv_run *run, int64_t c)
{
    return c >> __builtin_ctz((unsigned)run->group);
}

/* Values rounded to f16: worked out once per group where a vector holds them all. `first`: the row's first
 * channels of this loop. */
INLINE vf load_table(struct row *r, int64_t c, const struct kv_run *run, const bool first, const int bits)
{
    const uint8_t *p = (const uint8_t *)r->data + c * bits / 8;
    int64_t g = group_of(run, c);
#if VL == 16
    if (first || (c & (run->group - 1)) == 0)
        r->table =
            dequant(code_table(bits), vf_set_f16(r->scale + g), vf_set_f16(r->min + g), true, run->inverse);
    return table_codes(p, bits, r->table);
#else
    (void)first;
    return dequant(load_codes(p, bits), vf_set_f16(r->scale + g), vf_set_f16(r->min + g), true, run->inverse);
#endif
}

INLINE vf load_kv(struct row *r, int64_t c, const struct kv_run *run, const bool first, const enum kind kind,
                  const int bits)
{
    if (kind == K_F32)
        return vf_load((const float *)r->data + c);
    if (kind == K_F16)
        return vf_load_f16((const uint16_t *)r->data + c);
    if (kind == K_BF16)
        return vf_load_bf16((const uint16_t *)r->data + c);
    if (kind == K_TABLE)
        return load_table(r, c, run, first, bits);
    vf code = load_codes((const uint8_t *)r->data + c * bits / 8, bits);
    int64_t g = group_of(run, c);
    return dequant(code, vf_set_f16(r->scale + g), vf_set_f16(r->min + g), false, false);
}

#define STEP_ROWS 4

/* Rows of one head lie n_head * d apart, which the CPU's own prefetching follows badly. */
INLINE void fetch_ahead(const struct decode_args *a, const struct row *row, int64_t r, const enum kind kind)
{
    const int64_t size = kind == K_F32 ? 4 : 2;
    const char *p = (const char *)row->data + 32 * a->n_head * a->d * size;
    if (kind >= K_CODES)
        return;
    if (a->run->index) /* rows chosen by lists have no order to follow */
        p = row_at(a, r + 32 < a->n ? r + 32 : a->n - 1, kind).data;
    for (int64_t i = 0; i < a->d * size; i += 64)
        __builtin_prefetch(p + i);
}

/* Scores of nh heads from head h0. */
INLINE void scores_heads(const struct decode_args *a, int64_t h0, const int nh, const enum kind kind,
                         const int bits)
{
    for (int64_t r0 = 0; r0 < a->n; r0 += VL) {
        vf part[4][VL];
#pragma GCC unroll 4
        for (int step = 0; step < VL; step += STEP_ROWS) {
            struct row row[STEP_ROWS];
            vf acc[4][STEP_ROWS];
#pragma GCC unroll 4
            for (int i = 0; i < STEP_ROWS; i++) { /* rows beyond n: the last one again */
                row[i] = row_at(a, r0 + step + i < a->n ? r0 + step + i : a->n - 1, kind);
                fetch_ahead(a, &row[i], r0 + step + i, kind);
#pragma GCC unroll 4
                for (int h = 0; h < nh; h++)
                    acc[h][i] = vf_set(0.0f);
            }
            for (int64_t c = 0; c < a->d; c += VL) {
#pragma GCC unroll 4
                for (int i = 0; i < STEP_ROWS; i++) {
                    vf k = load_kv(&row[i], c, a->run, c == 0, kind, bits);
#pragma GCC unroll 4
                    for (int h = 0; h < nh; h++)
                        acc[h][i] = vf_fma(k, vf_load(a->q + (h0 + h) * a->d + c), acc[h][i]);
                }
            }
#pragma GCC unroll 4
            for (int h = 0; h < nh; h++)
#pragma GCC unroll 4
                for (int i = 0; i < STEP_ROWS; i++)
                    part[h][step + i] = acc[h][i];
        }
        int64_t n = a->n - r0 < VL ? a->n - r0 : VL;
#pragma GCC unroll 4
        for (int h = 0; h < nh; h++)
            vf_store_n(a->s + (h0 + h) * a->lds + r0, vf_sum_rows(part[h]), n);
    }
}

/* o[h] += sum_r s[h,r] v[r] for nh heads, nv vectors of channels from c0. */
INLINE void values_part(const struct decode_args *a, int64_t h0, const int nh, int64_t c0, const int nv,
                        const enum kind kind, const int bits)
{
    vf acc[4][4];
#pragma GCC unroll 4
    for (int h = 0; h < nh; h++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++)
            acc[h][v] = vf_load(a->o + (h0 + h) * a->d + c0 + v * VL);
    for (int64_t r = 0; r < a->n; r++) {
        struct row row = row_at(a, r, kind);
        if (c0 == 0)
            fetch_ahead(a, &row, r, kind);
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++) {
            vf x = load_kv(&row, c0 + v * VL, a->run, v == 0, kind, bits);
#pragma GCC unroll 4
            for (int h = 0; h < nh; h++)
                acc[h][v] = vf_fma(x, vf_set(a->s[(h0 + h) * a->lds + r]), acc[h][v]);
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < nh; h++)
#pragma GCC unroll 4
        for (int v = 0; v < nv; v++)
            vf_store(a->o + (h0 + h) * a->d + c0 + v * VL, acc[h][v]);
}

INLINE void values_heads(const struct decode_args *a, int64_t h0, const int nh, const enum kind kind,
                         const int bits)
{
    int64_t c = 0;
    for (; c + 4 * VL <= a->d; c += 4 * VL)
        values_part(a, h0, nh, c, 4, kind, bits);
    for (; c < a->d; c += VL)
        values_part(a, h0, nh, c, 1, kind, bits);
}

INLINE void all_heads(const struct decode_args *a, const bool values, const enum kind kind, const int bits)
{
    int64_t h = 0;
#define HEADS(nh) (values ? values_heads(a, h, nh, kind, bits) : scores_heads(a, h, nh, kind, bits))
    for (; h + 4 <= a->g; h += 4)
        HEADS(4);
    if (a->g - h == 3)
        HEADS(3);
    else if (a->g - h == 2)
        HEADS(2);
    else if (a->g - h == 1)
        HEADS(1);
#undef HEADS
}

/* Codes per channel: lanes are tokens. With scale and minimum folded into the query, score = sum_c (q_c s_c)
 * code_c + sum_c q_c m_c. */
INLINE void scores_channel(const struct decode_args *a, int64_t h0, const int nh, const int bits)
{
    const struct kv_run *run = a->run;
    int64_t G = run->group, d = a->d;
    for (int64_t at = a->at; at < a->at + a->n;) {
        int64_t tg = at / G, skip = at % G, n = G - skip;
        n = n < a->at + a->n - at ? n : a->at + a->n - at;
        int64_t first = (tg * a->n_head + a->h) * d;
        const uint8_t *codes = (const uint8_t *)run->data + first * G * bits / 8;
        float qs[4][CPU_MAX_D], base[4], out[4][QUANT_MAX_GROUP];
#pragma GCC unroll 4
        for (int h = 0; h < nh; h++) {
            vf sum = vf_set(0.0f);
            for (int64_t c = 0; c < d; c += VL) {
                vf q = vf_load(a->q + (h0 + h) * d + c);
                vf_store(qs[h] + c, vf_mul(q, vf_load_f16(run->scale + first + c)));
                sum = vf_fma(q, vf_load_f16(run->min + first + c), sum);
            }
            base[h] = vf_sum(sum);
        }
        for (int64_t t = 0; t < G; t += 2 * VL) {
            vf acc[4][2];
#pragma GCC unroll 4
            for (int h = 0; h < nh; h++)
                acc[h][0] = acc[h][1] = vf_set(base[h]);
            const uint8_t *p = codes + t * bits / 8;
            for (int64_t c = 0; c < d; c++, p += G * bits / 8) {
                vf x = load_codes(p, bits), y = load_codes(p + VL * bits / 8, bits);
#pragma GCC unroll 4
                for (int h = 0; h < nh; h++) {
                    acc[h][0] = vf_fma(x, vf_set(qs[h][c]), acc[h][0]);
                    acc[h][1] = vf_fma(y, vf_set(qs[h][c]), acc[h][1]);
                }
            }
#pragma GCC unroll 4
            for (int h = 0; h < nh; h++) {
                vf_store(out[h] + t, acc[h][0]);
                vf_store(out[h] + t + VL, acc[h][1]);
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < nh; h++)
            memcpy(a->s + (h0 + h) * a->lds + at - a->at, out[h] + skip, (size_t)n * sizeof(float));
        at += n;
    }
}

INLINE void channel_heads(const struct decode_args *a, const int bits)
{
    int64_t h = 0;
    for (; h + 4 <= a->g; h += 4)
        scores_channel(a, h, 4, bits);
    if (a->g - h == 3)
        scores_channel(a, h, 3, bits);
    else if (a->g - h == 2)
        scores_channel(a, h, 2, bits);
    else if (a->g - h == 1)
        scores_channel(a, h, 1, bits);
}

/* Any shape: plain loops over rows already in f32. */
static void plain_rows(const struct decode_args *a, const float *x, int64_t n, int64_t at, bool values)
{
    for (int64_t r = 0; r < n; r++) {
        for (int64_t h = 0; h < a->g; h++) {
            float *s = a->s + h * a->lds + at + r, sum = 0.0f;
            for (int64_t c = 0; c < a->d; c++) {
                if (values)
                    a->o[h * a->d + c] += *s * x[r * a->d + c];
                else
                    sum += a->q[h * a->d + c] * x[r * a->d + c];
            }
            if (!values)
                *s = sum;
        }
    }
}

/* Converts pieces of the run to f32 first. */
static void by_rows(const struct decode_args *a, bool values)
{
    for (int64_t r = 0; r < a->n; r += SPLIT_TMP) {
        int64_t n = a->n - r < SPLIT_TMP ? a->n - r : SPLIT_TMP;
        ISA(kv_rows)(a->tmp, a->run, a->at + r, n, a->h, a->n_head, a->d);
        if (a->d % VL) {
            plain_rows(a, a->tmp, n, r, values);
            continue;
        }
        struct kv_run run = {.layout = QUANT_NONE, .dtype = DT_F32, .data = a->tmp, .n = n, .group = 1};
        struct decode_args b = *a;
        b.run = &run;
        b.at = b.h = 0;
        b.n_head = 1;
        b.n = n;
        b.s = a->s + r;
        all_heads(&b, values, K_F32, 0);
    }
}

INLINE void dispatch(const struct decode_args *a, const bool values)
{
    const struct kv_run *run = a->run;
    bool packed = run->bits == 2 || run->bits == 4;
    if (a->n <= 0)
        return;
    if (a->d % VL == 0 && run->layout == QUANT_NONE) {
        if (run->dtype == DT_F32)
            all_heads(a, values, K_F32, 0);
        else if (run->dtype == DT_F16)
            all_heads(a, values, K_F16, 0);
        else
            all_heads(a, values, K_BF16, 0);
    } else if (run->layout == QUANT_TOKEN && packed && vector_groups(run, a->d)) {
        bool rounded = run->f16_values || run->inverse;
        if (rounded && run->bits == 2)
            all_heads(a, values, K_TABLE, 2);
        else if (rounded)
            all_heads(a, values, K_TABLE, 4);
        else if (run->bits == 2)
            all_heads(a, values, K_CODES, 2);
        else
            all_heads(a, values, K_CODES, 4);
    } else if (!values && a->d % VL == 0 && run->layout == QUANT_CHANNEL && packed && !run->f16_values &&
               !run->inverse && run->group % (2 * VL) == 0) {
        if (run->bits == 2)
            channel_heads(a, 2);
        else
            channel_heads(a, 4);
    } else {
        by_rows(a, values);
    }
}

void ISA(decode_scores)(const struct decode_args *a)
{
    dispatch(a, false);
}

void ISA(decode_values)(const struct decode_args *a)
{
    dispatch(a, true);
}

float ISA(decode_softmax)(float *s, int64_t n, float *sum)
{
    float m = -INFINITY;
    int64_t i = 0;
    vf best = vf_set(m), total = vf_set(0.0f);
    for (; i + VL <= n; i += VL)
        best = vf_max(best, vf_load(s + i)); /* NaN in s is kept */
    m = vf_hmax(best);
    for (; i < n; i++)
        m = s[i] > m || s[i] != s[i] ? s[i] : m;
    *sum = 0.0f;
    if (m == -INFINITY) { /* no visible key */
        memset(s, 0, (size_t)n * sizeof *s);
        return m;
    }
    for (i = 0; i < n; i += VL) {
        int64_t k = n - i < VL ? n - i : VL;
        vf x = k < VL ? vf_load_n(s + i, k) : vf_load(s + i), p = vf_exp(vf_sub(x, vf_set(m)));
        vf_store_n(s + i, p, k);
        if (k == VL) {
            total = vf_add(total, p);
        } else {
            float t[VL];
            vf_store(t, p);
            for (int64_t j = 0; j < k; j++)
                *sum += t[j];
        }
    }
    *sum += vf_sum(total);
    return m;
}

/* ------------------------------------------------------------------ rows of any run as f32 */

static void token_row(float *dst, const struct kv_run *run, int64_t at, int64_t d)
{
    const uint8_t *codes = (const uint8_t *)run->data + at * d * run->bits / 8;
    for (int64_t c = 0; c < d; c++) {
        int64_t g = at * (d / run->group) + c / run->group;
        dst[c] = host_dequant(run, f16_to_f32(run->scale[g]), f16_to_f32(run->min[g]),
                              host_code(codes, c, run->bits));
    }
}

/* Whole vectors of codes: groups and d are multiples of VL. */
INLINE void token_row_fast(float *dst, const struct kv_run *run, int64_t at, int64_t d, const int bits)
{
    int64_t g0 = at * (d / run->group);
    struct row r = {.data = (const uint8_t *)run->data + at * d * bits / 8,
                    .scale = run->scale + g0,
                    .min = run->min + g0};
    bool rounded = run->f16_values || run->inverse;
    for (int64_t c = 0; c < d && bits < 8; c += VL)
        vf_store(dst + c, load_kv(&r, c, run, false, rounded ? K_TABLE : K_CODES, bits));
    for (int64_t c = 0; c < d && bits == 8; c += VL) { /* too many values for a table */
        int64_t g = group_of(run, c);
        vf code = load_codes((const uint8_t *)r.data + c, 8);
        vf_store(dst + c,
                 dequant(code, vf_set_f16(r.scale + g), vf_set_f16(r.min + g), rounded, run->inverse));
    }
}

/* Rows of one token group; lanes are tokens. */
static void channel_rows(float *dst, const struct kv_run *run, int64_t at, int64_t n, int32_t h,
                         int32_t n_head, int64_t d)
{
    int64_t G = run->group, first = (at / G * n_head + h) * d, skip = at % G;
    bool fast = (run->bits == 2 || run->bits == 4 || run->bits == 8) && G % VL == 0;
    float value[QUANT_MAX_GROUP];
    for (int64_t c = 0; c < d; c++) {
        const uint8_t *codes = (const uint8_t *)run->data + (first + c) * G * run->bits / 8;
        vf s = vf_set_f16(run->scale + first + c), m = vf_set_f16(run->min + first + c);
        for (int64_t t = 0; fast && t < G; t += VL) {
            const uint8_t *p = codes + t * run->bits / 8;
            vf code = run->bits == 2   ? load_codes(p, 2)
                      : run->bits == 4 ? load_codes(p, 4)
                                       : load_codes(p, 8);
            vf_store(value + t, dequant(code, s, m, run->f16_values || run->inverse, run->inverse));
        }
        for (int64_t t = 0; !fast && t < G; t++)
            value[t] = host_dequant(run, f16_to_f32(run->scale[first + c]), f16_to_f32(run->min[first + c]),
                                    host_code(codes, t, run->bits));
        for (int64_t t = 0; t < n; t++)
            dst[t * d + c] = value[skip + t];
    }
}

void ISA(kv_rows)(float *dst, const struct kv_run *run, int64_t at, int64_t n, int32_t h, int32_t n_head,
                  int64_t d)
{
    if (run->layout == QUANT_CHANNEL) {
        for (int64_t end = at + n; at < end;) {
            int64_t k = run->group - at % run->group;
            k = k < end - at ? k : end - at;
            channel_rows(dst, run, at, k, h, n_head, d);
            dst += k * d;
            at += k;
        }
        return;
    }
    for (int64_t r = 0; r < n; r++, dst += d) {
        int64_t row = run->index ? run->index[at + r] : at + r;
        if (run->layout == QUANT_TOKEN) {
            bool fast = vector_groups(run, d);
            if (fast && run->bits == 2)
                token_row_fast(dst, run, row * n_head + h, d, 2);
            else if (fast && run->bits == 4)
                token_row_fast(dst, run, row * n_head + h, d, 4);
            else if (fast && run->bits == 8)
                token_row_fast(dst, run, row * n_head + h, d, 8);
            else
                token_row(dst, run, row * n_head + h, d);
            continue;
        }
        size_t step = dtype_bytes(run->dtype);
        const char *src = (const char *)run->data + (size_t)((row * n_head + h) * d) * step;
        ISA(row_to_f32)(dst, src, run->dtype, d);
    }
}
