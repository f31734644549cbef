/* Products with packed weights. A weight lies in panels of 64 columns: f32 and f16 [panel, k, 64], bf16
 * [panel, k/2, 64, 2] (k up to a multiple of 16 or 32, zeros beyond) - the layout that oneDNN's AVX-512 and
 * AMX kernels read, which our own loops for few rows read too.
 *
 * Rows are cut into pieces of 128, 64, 32 and 16, so that oneDNN compiles a handful of kernels per weight
 * shape whatever lengths come; what is left goes through panel products. One item is computed by one thread:
 * a piece of 128 rows times the whole weight, or a smaller piece times a few panels (oneDNN 2.x has fast
 * kernels for dense outputs only, so those go through a scratch block). f16 weights are widened panel by
 * panel. */
#include <assert.h>
#include <omp.h>
#include <string.h>

#include "base/err.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/onednn.h"

#define MOST_ROWS    128
#define SLAB_ROWS    4096
#define MAX_PIECES   (SLAB_ROWS / MOST_ROWS + 8)
#define WHOLE_PIECES 4   /* so many pieces keep threads busy without cutting columns */
#define TILE_ROWS    256 /* of one item with AMX */
#define PAD_ROWS     5 /* from so many rows on, padding up to 16 for oneDNN is cheaper than panel products */

static int64_t padded_k(int64_t k, enum dtype t)
{
    return round_up(k, t == DT_BF16 ? 32 : 16);
}

static size_t panel_bytes(int64_t k, enum dtype t)
{
    return (size_t)padded_k(k, t) * PANEL * dtype_bytes(t);
}

size_t cpu_pack_bytes(struct ops *o, int64_t n_out, int64_t n_in, enum dtype dtype)
{
    (void)o;
    return dtype <= DT_BF16 ? (size_t)((n_out + PANEL - 1) / PANEL) * panel_bytes(n_in, dtype) : 0;
}

/* One panel: columns n0.. of the packed matrix are rows of src. */
static void pack_panel(const struct cpu *c, const struct weight *w, const struct tensor *src, int64_t n0)
{
    char *p = (char *)w->packed + (size_t)(n0 / PANEL) * panel_bytes(w->n_in, w->dtype);
    int64_t K = w->n_in;
    float row[512];
    memset(p, 0, panel_bytes(K, w->dtype));
    for (int64_t n = n0; n < min_i64(n0 + PANEL, w->n_out); n++) {
        for (int64_t k0 = 0; k0 < K; k0 += 512) {
            int64_t count = min_i64(512, K - k0), col = n - n0;
            c->isa->to_f32(row, (const char *)src->data + (size_t)(n * K + k0) * dtype_bytes(src->dtype),
                           src->dtype, count);
            for (int64_t i = 0; i < count; i++) {
                int64_t k = k0 + i;
                host_put(p, w->dtype,
                         w->dtype == DT_BF16 ? (k / 2 * PANEL + col) * 2 + k % 2 : k * PANEL + col, row[i]);
            }
        }
    }
}

void cpu_pack(struct ops *o, struct weight *w, const struct tensor *src)
{
    const struct cpu *c = o->impl;
    assert(w->bytes >= cpu_pack_bytes(o, w->n_out, w->n_in, w->dtype) && w->bytes > 0);
#pragma omp parallel for num_threads(o->threads) schedule(dynamic)
    for (int64_t n = 0; n < w->n_out; n += PANEL)
        pack_panel(c, w, src, n);
}

/* ------------------------------------------------------------------ one product */

struct piece {
    int64_t row, m;                /* m rows of x; padded to 16 where real < m */
    int64_t real;                  /* rows that exist */
    const void *x;                 /* [m,ldx] in xt */
    bool whole;                    /* one item for all columns */
    bool tiles;                    /* our own AMX product */
    const struct dn_plan *plan[2]; /* whole groups (or all columns), last group; NULL: panel products */
};

struct product {
    struct cpu *c;
    const struct weight *w;
    enum dtype xt;
    int64_t ldx, ldy;
    float *y;
    const float *bias;
    struct piece piece[MAX_PIECES];
    int n_piece;
    bool tiles;            /* bf16 weights and AMX */
    int64_t group, groups; /* panels of one item; groups of panels */
    char *scratch;
    size_t scratch_bytes;
};

/* Panel products of a piece, PANEL_ROWS rows at a time. xs: room for these rows as f32. */
static void panel_rows(const struct product *p, const struct piece *b, int64_t g, float *xs)
{
    const struct weight *w = p->w;
    int64_t kp = w->dtype == DT_BF16 ? padded_k(w->n_in, DT_BF16) : w->n_in;
    int64_t end = min_i64((g + 1) * p->group * PANEL, w->n_out);
    for (int64_t row = 0; row < b->real; row += PANEL_ROWS) {
        struct panel_args a = {.k = kp, .dtype = w->dtype, .ldy = p->ldy};
        a.m = (int)min_i64(b->real - row, PANEL_ROWS);
        if (p->xt == DT_BF16) { /* the call's x is bf16 for oneDNN */
            for (int i = 0; i < a.m; i++)
                p->c->isa->to_f32(xs + i * kp, (const uint16_t *)b->x + (row + i) * p->ldx, DT_BF16, kp);
            a.x = xs;
            a.ldx = kp;
        } else {
            a.x = (const float *)b->x + row * p->ldx;
            a.ldx = p->ldx;
        }
        for (int64_t n = g * p->group * PANEL; n < end; n += PANEL) {
            a.w = (const char *)w->packed + (size_t)(n / PANEL) * panel_bytes(w->n_in, w->dtype);
            a.y = p->y + (b->row + row) * p->ldy + n;
            a.n = (int)min_i64(PANEL, end - n);
            a.bias = p->bias ? p->bias + n : NULL;
            p->c->isa->panel(&a);
        }
    }
}

/* Copies a dense block of the output to its place. */
static void place(const struct product *p, const struct piece *b, const float *block, int64_t n0, int64_t n)
{
    for (int64_t t = 0; t < b->real; t++)
        memcpy(p->y + (b->row + t) * p->ldy + n0, block + t * n, (size_t)n * sizeof *block);
}

/* AMX tiles store 16 x 16 results where they belong, so any piece and any group of panels will do. */
static void run_tiles(const struct product *p, const struct piece *b, int64_t g, float *block)
{
    const struct weight *w = p->w;
    int64_t n0 = g * p->group * PANEL, n = min_i64(p->group * PANEL, w->n_out - n0), wide = round_up(n, 16);
    bool direct = n == wide && b->real == b->m;
    const char *packed = (const char *)w->packed + (size_t)(n0 / PANEL) * panel_bytes(w->n_in, w->dtype);
    float *y = direct ? p->y + b->row * p->ldy + n0 : block;
    cpu_amx_product(y, direct ? p->ldy : wide, b->x, p->ldx, (const uint16_t *)(const void *)packed,
                    padded_k(w->n_in, DT_BF16), b->m, wide);
    for (int64_t t = 0; t < b->real; t++) {
        float *row = p->y + (b->row + t) * p->ldy + n0;
        if (!direct)
            memcpy(row, block + t * wide, (size_t)n * sizeof *row);
        if (p->bias)
            p->c->isa->add(row, p->bias + n0, n);
    }
}

/* One piece times one group of panels. scratch: [widened f16 panels][block of the output][oneDNN's own]. */
static void run_item(const struct product *p, const struct piece *b, int64_t g, int thread)
{
    char *s = p->scratch + (size_t)thread * p->scratch_bytes;
    const struct weight *w = p->w;
    const struct dn_plan *plan = b->plan[!b->whole && g == p->groups - 1];
    if (b->tiles) {
        run_tiles(p, b, g, (float *)(void *)s);
        return;
    }
    if (!plan) {
        panel_rows(p, b, g, (float *)(void *)s);
        return;
    }
    int64_t n0 = g * p->group * PANEL, n = b->whole ? w->n_out : min_i64(p->group * PANEL, w->n_out - n0);
    const char *packed = (const char *)w->packed + (size_t)(n0 / PANEL) * panel_bytes(w->n_in, w->dtype);
    if (w->dtype == DT_F16) {
        int64_t count = round_up(n, PANEL) * padded_k(w->n_in, DT_F16);
        p->c->isa->to_f32((float *)(void *)s, packed, DT_F16, count);
        packed = s;
        s += (size_t)count * sizeof(float);
    }
    float *y = b->whole ? p->y + b->row * p->ldy : (float *)(void *)s;
    if (!b->whole)
        s += (size_t)(b->m * p->group * PANEL) * sizeof(float);
    if (dn_run(p->c->dn, plan, thread, y, b->x, packed, s) < 0) {
#pragma omp critical
        host_fail(&p->c->host, ERR_DEVICE, "oneDNN failed to run a product");
        return;
    }
    if (!b->whole)
        place(p, b, y, n0, n);
    for (int64_t t = b->row; p->bias && t < b->row + b->real; t++)
        p->c->isa->add(p->y + t * p->ldy + n0, p->bias + n0, n);
}

/* Looks up oneDNN's kernels for a piece and how much scratch they need. */
static void plan_piece(struct product *p, struct piece *b)
{
    const struct weight *w = p->w;
    if (b->m < 16)
        return;
    if (p->tiles) {
        size_t need = (size_t)(b->m * p->group * PANEL) * sizeof(float);
        p->scratch_bytes = need > p->scratch_bytes ? need : p->scratch_bytes;
        b->tiles = true;
        return;
    }
    if (!p->c->dn)
        return;
    int64_t n = p->group * PANEL, last = w->n_out - (p->groups - 1) * n;
    b->whole = b->m == MOST_ROWS && p->n_piece >= WHOLE_PIECES && w->dtype != DT_F16;
    if (b->whole) {
        b->plan[0] = dn_get(p->c->dn, p->xt, b->m, w->n_in, w->n_out, p->ldx);
        b->whole = b->plan[0] != NULL;
    } else {
        b->plan[0] = p->groups > 1 || last == n ? dn_get(p->c->dn, p->xt, b->m, w->n_in, n, p->ldx) : NULL;
        b->plan[1] = last == n ? b->plan[0] : dn_get(p->c->dn, p->xt, b->m, w->n_in, last, p->ldx);
    }
    size_t block = b->whole ? 0 : (size_t)(b->m * n) * sizeof(float);
    size_t wide = w->dtype == DT_F16 ? (size_t)(n * padded_k(w->n_in, DT_F16)) * sizeof(float) : 0;
    for (int i = 0; i < 2; i++) {
        size_t need = block + wide + (b->plan[i] ? dn_scratch(b->plan[i]) : 0);
        p->scratch_bytes = need > p->scratch_bytes ? need : p->scratch_bytes;
    }
}

/* Cuts rows into pieces. */
static void cut_rows(struct product *p, int64_t rows)
{
    int64_t row = 0;
    for (int64_t m = p->tiles ? TILE_ROWS : MOST_ROWS; m >= (p->tiles ? TILE_ROWS : 16); m /= 2)
        for (; rows - row >= m; row += m)
            p->piece[p->n_piece++] = (struct piece){.row = row, .m = m, .real = m};
    int64_t rest = rows - row;
    if (rest > 0) {
        int64_t m = rest >= PAD_ROWS && (p->tiles || p->c->dn) ? round_up(rest, 16) : rest;
        p->piece[p->n_piece++] = (struct piece){.row = row, .m = m, .real = rest};
    }
}

/* x in the form the pieces read: bf16 weights want bf16 (panel products alone: bf16 values as f32), padded
 * with zeros to whole k blocks and to 16 rows; otherwise only a padded last piece needs a copy. */
static bool prepare_x(struct product *p, const float *x, int64_t rows)
{
    struct cpu *c = p->c;
    int64_t K = p->w->n_in, kp = padded_k(K, p->w->dtype);
    struct piece *last = &p->piece[p->n_piece - 1];
    bool bf16 = p->w->dtype == DT_BF16, padded = last->real < last->m;
    p->xt = bf16 && (c->dn || p->tiles) && rows >= PAD_ROWS ? DT_BF16 : DT_F32;
    p->ldx = bf16 ? kp : K;
    int64_t first = bf16 ? 0 : padded ? last->row : rows, copy = last->row + last->m - first;
    if (first >= rows)
        copy = 0;
    if (!host_grow(&c->host, &c->x, (size_t)(copy * p->ldx) * dtype_bytes(p->xt) + 64))
        return false;
#pragma omp parallel for num_threads(c->ops.threads) if (copy * K > 65536)
    for (int64_t t = 0; t < copy; t++) {
        char *row = (char *)c->x.data + (size_t)(t * p->ldx) * dtype_bytes(p->xt);
        int64_t n = first + t < rows ? K : 0;
        memset(row + (size_t)n * dtype_bytes(p->xt), 0, (size_t)(p->ldx - n) * dtype_bytes(p->xt));
        if (n > 0 && p->xt == DT_BF16 && c->bf16)
            cpu_to_bf16((uint16_t *)(void *)row, x + (first + t) * K, n);
        else if (n > 0)
            c->isa->from_f32(row, p->xt, x + (first + t) * K, n);
        if (n > 0 && bf16 && p->xt == DT_F32)
            c->isa->round_bf16((float *)(void *)row, n);
    }
    for (int i = 0; i < p->n_piece; i++) {
        struct piece *b = &p->piece[i];
        if (b->row >= first && copy)
            b->x = (char *)c->x.data + (size_t)((b->row - first) * p->ldx) * dtype_bytes(p->xt);
        else
            b->x = x + b->row * K;
    }
    return true;
}

/* Few rows stream the weights: each thread reads one stretch. Otherwise threads take what comes. */
static void run_items(const struct product *p)
{
    int64_t whole = 0; /* these come first */
    while (whole < p->n_piece && p->piece[whole].whole)
        whole++;
    int64_t rest = p->n_piece - whole, items = whole + rest * p->groups;
#pragma omp parallel num_threads(p->c->ops.threads)
    {
        int thread = omp_get_thread_num();
        if (p->tiles)
            cpu_amx_start();
        if (p->n_piece == 1) {
#pragma omp for schedule(static)
            for (int64_t g = 0; g < items; g++)
                run_item(p, &p->piece[0], g, thread);
        } else {
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < items; i++) {
                const struct piece *b = i < whole ? &p->piece[i] : &p->piece[whole + (i - whole) % rest];
                run_item(p, b, i < whole ? 0 : (i - whole) / rest, thread);
            }
        }
        if (p->tiles)
            cpu_amx_stop();
    }
}

static void multiply(struct cpu *c, float *y, const float *x, int64_t rows, const struct weight *w,
                     const float *bias)
{
    struct product p = {.c = c, .w = w, .y = y, .bias = bias, .ldy = w->n_out};
    int64_t panels = (w->n_out + PANEL - 1) / PANEL;
    p.tiles = c->amx && w->dtype == DT_BF16 && rows >= PAD_ROWS;
    p.group = panels < 16 ? 1 : p.tiles && rows > TILE_ROWS ? 4 : 2;
    p.groups = (panels + p.group - 1) / p.group;
    cut_rows(&p, rows);
    if (!prepare_x(&p, x, rows))
        return;
    p.scratch_bytes = (size_t)(PANEL_ROWS * padded_k(w->n_in, DT_BF16)) * sizeof(float);
    for (int i = 0; i < p.n_piece; i++)
        plan_piece(&p, &p.piece[i]);
    p.scratch_bytes = (size_t)round_up((int64_t)p.scratch_bytes, 64);
    if (!(p.scratch = cpu_scratch(c, p.scratch_bytes)))
        return;
    run_items(&p);
}

void cpu_matmul(struct ops *o, struct tensor out, struct tensor x, const struct weight *w, const float *bias)
{
    assert(x.n[1] == w->n_in && out.n[1] == w->n_out && out.n[0] == x.n[0]);
    for (int64_t t = 0; t < x.n[0]; t += SLAB_ROWS)
        multiply(o->impl, (float *)out.data + t * w->n_out, (const float *)x.data + t * w->n_in,
                 min_i64(SLAB_ROWS, x.n[0] - t), w, bias);
}
