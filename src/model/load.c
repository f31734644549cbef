#include "model/load.h"

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "kernels/comm.h"
#include "kernels/half.h"
#include "model/file_int.h"
#include "model/hash.h"
#include "model/share.h"

#include <stdlib.h>
#include <string.h>

#define LOAD_ALIGN 4096  /* bytes: weights begin on pages of their own */
#define LOAD_CHUNK 65536 /* values converted at a time by one thread */

/* Rows go to a device by way of host memory, in two halves: one is filled while the other is copied. */
#define LOAD_STAGE ((size_t)64 << 20)

/* Sizes and places of all items. */
static int lay_out(struct load *l, struct ops *ops, enum dtype dtype)
{
    l->bytes = 0;
    for (int i = 0; i < l->n; i++) {
        struct load_item *it = &l->item[i];
        size_t count = (size_t)(it->n_out * it->n_in);
        it->bytes = it->kind == LOAD_PACKED  ? ops->pack_bytes(ops, it->n_out, it->n_in, dtype)
                    : it->kind == LOAD_TABLE ? count * dtype_bytes(dtype)
                                             : count * sizeof(float);
        if (it->bytes == 0)
            return err_set(ERR_INPUT, "weights in dtype %s are not supported by the '%s' kernels",
                           dtype_name(dtype), ops->name);
        it->at = l->bytes;
        l->bytes += (it->bytes + LOAD_ALIGN - 1) / LOAD_ALIGN * LOAD_ALIGN;
    }
    l->note = l->bytes;
    l->bytes += LOAD_ALIGN;
    return 0;
}

/* Tells the owners where their weights are. */
static void hand_out(struct load *l, enum dtype dtype)
{
    for (int i = 0; i < l->n; i++) {
        struct load_item *it = &l->item[i];
        void *p = (char *)l->block + it->at;
        if (it->kind == LOAD_PACKED)
            *it->weight = (struct weight){p, it->n_out, it->n_in, dtype, it->bytes};
        else if (it->kind == LOAD_TABLE)
            *it->table = (struct tensor){p, dtype, {it->n_out, it->n_in, 1, 1}};
        else
            *it->floats = p;
    }
}

static void convert(void *dst, enum dtype dtype, int64_t at, const float *x, int64_t n)
{
    if (dtype == DT_F32) {
        memcpy((float *)dst + at, x, (size_t)n * sizeof *x);
        return;
    }
    uint16_t *h = (uint16_t *)dst + at;
    for (int64_t i = 0; i < n; i++)
        h[i] = dtype == DT_F16 ? f16_from_f32(x[i]) : bf16_from_f32(x[i]);
}

static enum dtype dtype_of(int32_t ggml)
{
    return ggml == GGML_F32 ? DT_F32 : ggml == GGML_F16 ? DT_F16 : ggml == GGML_BF16 ? DT_BF16 : DT_N;
}

/* Does the file hold the part's bytes as the device wants them? */
static bool same_bytes(const struct model_file *f, const struct load_item *it, int part, enum dtype dtype)
{
    const struct file_tensor *ft = file_tensor_find(f, it->name[part]);
    return dtype_of(it->part[part].type) == dtype && ft && !ft->heads && !it->of && !it->slices;
}

/* Rows [row, row + n) of a matrix that lies transposed in a slice of the tensor. */
static int read_slice(const struct model_file *f, const struct load_item *it, int64_t row, int64_t n,
                      void *dst, enum dtype dtype)
{
    struct model_tensor t = it->part[0];
    t.n[0] = it->slices;
    float *x = mem_alloc((size_t)(it->n_in * it->n_out), sizeof *x),
          *y = mem_alloc((size_t)it->n_in, sizeof *y);
    int rc = model_tensor_read(f, &t, it->name[0], it->slice, 1, x);
    for (int64_t i = 0; i < n && rc == 0; i++) {
        for (int64_t k = 0; k < it->n_in; k++)
            y[k] = x[k * it->n_out + row + i];
        convert(dst, dtype, i * it->n_in, y, it->n_in);
    }
    free(x);
    free(y);
    return rc;
}

/* Rows [row, row + n) of one part -> dst. Each value is converted by itself, so threads do not matter for the
 * result; bytes that stay as they are are copied by all of them too, as pages of the file come in slowly. */
static int read_rows(const struct model_file *f, const struct load_item *it, int part, int64_t row, int64_t n,
                     void *dst, enum dtype dtype, int threads)
{
    const struct model_tensor *t = &it->part[part];
    const bool same = same_bytes(f, it, part, dtype);
    const size_t pitch = (size_t)it->n_in * dtype_bytes(dtype);
    int64_t width = it->n_in, step = LOAD_CHUNK / width + 1, n_step = (n + step - 1) / step;
    int failed = 0;
    if (it->slices)
        return read_slice(f, it, row, n, dst, dtype);
#pragma omp parallel num_threads(threads) if (n_step > 1)
    {
        float *x = same ? NULL : mem_alloc((size_t)(step * width), sizeof *x);
#pragma omp for schedule(dynamic)
        for (int64_t s = 0; s < n_step; s++) {
            int64_t at = s * step, m = at + step < n ? step : n - at;
            int rc = same ? 0 : model_tensor_read(f, t, it->name[part], row + at, m, x);
            if (rc < 0) {
#pragma omp atomic write
                failed = rc;
            } else if (same) {
                memcpy((char *)dst + (size_t)at * pitch, (const char *)t->data + (size_t)(row + at) * pitch,
                       (size_t)m * pitch);
            } else {
                if (it->of)
                    it->of(it->ctx, x, m * width);
                convert(dst, dtype, at * width, x, m * width);
            }
        }
        free(x);
    }
    if (failed) /* the text may belong to another thread: say it again here */
        return err_set(failed, "cannot read the rows of tensor '%s'", it->name[part]);
    return 0;
}

/* Does the device want an item's rows one after the other? Then they come piece by piece, and `pack` has
 * nothing to do. */
static bool by_rows(const struct load_item *it, const struct ops *ops)
{
    return it->kind != LOAD_PACKED || ops->plain_weights;
}

static enum dtype item_dtype(const struct load_item *it, const struct model_options *opt)
{
    return it->kind == LOAD_FLOATS ? DT_F32 : opt->dtype;
}

static int threads_of(const struct model_options *opt)
{
    return opt->threads > 0 ? opt->threads : 1;
}

/* What reading wants: host memory, and the hashes of what was read. */
struct stage {
    void *data;
    size_t bytes;
    struct content content;
};

/* All of a tensor has been read: its pages are still there to be hashed, then they may go. */
static void let_go(const struct model_file *f, const char *name, struct stage *stage,
                   const struct model_options *opt)
{
    content_add(&stage->content, f, name, threads_of(opt));
    file_tensor_release(f, name);
}

/* A part's rows to their place on the device; through the halves of the stage. */
static int send_rows(const struct model_file *f, const struct load_item *it, int part, char *dst,
                     struct ops *ops, const struct model_options *opt, const struct stage *stage)
{
    const enum dtype dtype = item_dtype(it, opt);
    const size_t pitch = (size_t)it->n_in * dtype_bytes(dtype), half = stage->bytes / 2 / pitch * pitch;
    const int64_t rows = it->part[part].n[0], step = (int64_t)(half / pitch);
    char *from = stage->data;
    for (int64_t row = 0; row < rows; row += step) {
        int64_t n = row + step < rows ? step : rows - row;
        TRY(read_rows(f, it, part, row, n, from, dtype, threads_of(opt)));
        TRY(ops->sync(ops)); /* the other half is free */
        TRY(poll_call(&opt->poll));
        ops->copy(ops, dst + (size_t)row * pitch, from, (size_t)n * pitch);
        from = from == stage->data ? from + half : stage->data;
    }
    return ops->sync(ops);
}

static int bring_rows(const struct load *l, const struct load_item *it, const struct model_file *f,
                      struct ops *ops, const struct model_options *opt, struct stage *stage)
{
    const enum dtype dtype = item_dtype(it, opt);
    char *dst = (char *)l->block + it->at;
    for (int i = 0; i < it->n_part; i++) {
        int64_t rows = it->part[i].n[0];
        if (ops->on_host)
            TRY(read_rows(f, it, i, 0, rows, dst, dtype, threads_of(opt)));
        else
            TRY(send_rows(f, it, i, dst, ops, opt, stage));
        dst += (size_t)(rows * it->n_in) * dtype_bytes(dtype);
        let_go(f, it->name[i], stage, opt);
    }
    return 0;
}

/* A matrix that the file holds as `pack` wants it needs no copy. */
static bool as_it_is(const struct model_file *f, const struct load_item *it, enum dtype dtype)
{
    return it->n_part == 1 && same_bytes(f, it, 0, dtype) &&
           (uintptr_t)it->part[0].data % dtype_bytes(dtype) == 0;
}

static int bring_packed(const struct load_item *it, const struct model_file *f, struct ops *ops,
                        const struct model_options *opt, struct stage *stage)
{
    struct tensor src = {stage->data, opt->dtype, {it->n_out, it->n_in, 1, 1}};
    bool direct = as_it_is(f, it, opt->dtype);
    int64_t row = 0;
    if (direct)
        src.data = (void *)(uintptr_t)it->part[0].data;
    for (int i = 0; i < it->n_part && !direct; i++) {
        struct tensor to = tensor_rows(&src, row, it->part[i].n[0]);
        TRY(read_rows(f, it, i, 0, to.n[0], to.data, opt->dtype, threads_of(opt)));
        let_go(f, it->name[i], stage, opt);
        row += to.n[0];
    }
    ops->pack(ops, it->weight, &src);
    TRY(ops->sync(ops)); /* the stage is used again */
    if (direct)
        let_go(f, it->name[0], stage, opt);
    return 0;
}

static int bring(const struct load *l, const struct load_item *it, const struct model_file *f,
                 struct ops *ops, const struct model_options *opt, struct stage *stage)
{
    return by_rows(it, ops) ? bring_rows(l, it, f, ops, opt, stage) : bring_packed(it, f, ops, opt, stage);
}

/* Everything is read: the hash of the whole goes behind the weights. */
static int write_note(struct load *l, const struct model_file *f, struct ops *ops,
                      const struct model_options *opt, struct stage *stage)
{
    content_close(&stage->content, f, threads_of(opt), l->content);
    if (ops->on_host) {
        memcpy((char *)l->block + l->note, l->content, sizeof l->content);
        return 0;
    }
    ops->copy(ops, (char *)l->block + l->note, l->content, sizeof l->content);
    return ops->sync(ops);
}

/* The same for those who got the block from another process. */
static int read_note(struct load *l, struct ops *ops)
{
    if (ops->on_host) {
        memcpy(l->content, (char *)l->block + l->note, sizeof l->content);
        return 0;
    }
    ops->copy(ops, l->content, (char *)l->block + l->note, sizeof l->content);
    return ops->sync(ops);
}

/* Rows go through a part of it; a matrix to be packed must fit, if it is not taken as it is. */
static size_t stage_bytes(const struct load *l, const struct model_file *f, const struct ops *ops,
                          const struct model_options *opt)
{
    size_t most = 0, limit = opt->stage ? opt->stage : LOAD_STAGE;
    for (int i = 0; i < l->n; i++) {
        const struct load_item *it = &l->item[i];
        enum dtype dtype = item_dtype(it, opt);
        size_t row = (size_t)it->n_in * dtype_bytes(dtype), all = (size_t)it->n_out * row, bytes;
        if (by_rows(it, ops)) {
            bytes = 2 * all < limit ? 2 * all : limit;
            bytes = ops->on_host ? 0 : bytes > 2 * row ? bytes : 2 * row;
        } else {
            bytes = as_it_is(f, it, dtype) ? 0 : all;
        }
        most = bytes > most ? bytes : most;
    }
    return most;
}

static int stage_open(struct stage *s, const struct load *l, const struct model_file *f, struct ops *ops,
                      const struct model_options *opt)
{
    content_open(&s->content, f);
    s->bytes = stage_bytes(l, f, ops, opt);
    s->data = s->bytes ? ops->alloc(ops, s->bytes, MEM_WORKSPACE, PLACE_HOST) : NULL;
    return s->bytes && !s->data
               ? err_set(ERR_NOMEM, "no host memory to convert weights (%zu bytes)", s->bytes)
               : 0;
}

static void stage_close(struct stage *s, struct ops *ops)
{
    if (s->data)
        ops->free(ops, s->data);
    free(s->content.t);
}

static int bring_all(struct load *l, const struct model_file *f, struct ops *ops,
                     const struct model_options *opt)
{
    struct stage stage;
    int rc = stage_open(&stage, l, f, ops, opt);
    for (int i = 0; i < l->n && rc == 0; i++) {
        rc = bring(l, &l->item[i], f, ops, opt, &stage);
        rc = rc < 0 ? rc : poll_call(&opt->poll);
    }
    if (rc == 0)
        rc = write_note(l, f, ops, opt, &stage);
    stage_close(&stage, ops);
    if (rc == 0)
        log_debug("%s: weights read from the file (%zu bytes)", f->path, l->bytes);
    return rc;
}

/* ---- loading in a group ---- */

/* Bytes that are read before they are handed on. */
#define HAND_ON ((size_t)64 << 20)

/* What a rank says before anything is sent. */
struct seat {
    uint64_t key; /* of what its block will hold */
    int32_t rc, full;
};

/* What the bytes of the block depend on, the very files aside: the group takes those of its first rank. */
static uint64_t group_key(const struct load *l, const struct model_file *f, const struct ops *ops,
                          enum dtype dtype)
{
    struct str s = {0};
    bool gpu = ops->plain_weights; /* whatever the GPU */
    str_printf(&s, "layout 2 %016lx %016lx %s %s %s %s %zu", (unsigned long)f->hash[0],
               (unsigned long)f->hash[1], dtype_name(dtype), ops->name, gpu ? "" : ops->isa,
               gpu ? "" : ops->libraries, l->bytes);
    uint64_t key = share_key(s.data, s.n);
    str_free(&s);
    return key;
}

/* Takes a seat; *all_alike: everyone has room for the same bytes, and nobody has them. */
static int meet(struct comm *c, struct seat mine, bool *all_alike)
{
    struct seat *seat = mem_alloc((size_t)c->n_rank, sizeof *seat);
    int rc = c->exchange(c, &mine, seat, sizeof mine);
    *all_alike = rc == 0;
    for (int i = 0; i < c->n_rank && rc == 0; i++)
        *all_alike = *all_alike && seat[i].key == seat[0].key && seat[i].rc == 0 && !seat[i].full;
    if (rc == 0)
        free(seat);
    return rc;
}

void model_decline(struct comm *c)
{
    bool alike;
    (void)meet(c, (struct seat){.rc = ERR_INPUT}, &alike);
}

/* `rc` of every rank: 0 if all are well, the own one if that is not, else a line about the first that is not.
 */
static int all_well(struct comm *c, int rc)
{
    int32_t mine = rc, *all = mem_alloc((size_t)c->n_rank, sizeof *all);
    int lost = c->exchange(c, &mine, all, sizeof mine);
    if (lost < 0)
        return lost; /* and leave the memory to messages that are late */
    int first = c->n_rank;
    for (int i = c->n_rank - 1; i >= 0; i--)
        first = all[i] < 0 ? i : first;
    int code = first < c->n_rank ? all[first] : 0;
    free(all);
    return rc < 0 || code == 0
               ? rc
               : err_set(code, "another rank could not load the weights (%s)", err_name(code));
}

/* Rank 0 reads and everyone gets, some items at a time: reading is far slower than handing on. */
static int hand_on(struct load *l, const struct model_file *f, struct ops *ops,
                   const struct model_options *opt, struct stage *stage)
{
    struct comm *c = opt->comm;
    int rc = 0;
    for (int i = 0; i < l->n;) {
        size_t from = l->item[i].at, to = from;
        for (; i < l->n && to - from < HAND_ON; i++) {
            if (c->rank == 0 && rc == 0)
                rc = bring(l, &l->item[i], f, ops, opt, stage);
            rc = rc < 0 ? rc : poll_call(&opt->poll);
            to = i + 1 < l->n ? l->item[i + 1].at : l->bytes;
        }
        if (i == l->n && c->rank == 0 && rc == 0)
            rc = write_note(l, f, ops, opt, stage);
        TRY(all_well(c, rc));
        rc = c->broadcast(c, (char *)l->block + from, to - from, 0);
        if (c->lost)
            return rc;
    }
    if (rc == 0 && c->rank > 0)
        rc = read_note(l, ops);
    return all_well(c, rc);
}

static int load_together(struct load *l, const struct model_file *f, struct ops *ops,
                         const struct model_options *opt, int rc, bool full)
{
    struct comm *c = opt->comm;
    bool alike;
    TRY(meet(c, (struct seat){group_key(l, f, ops, opt->dtype), rc, full}, &alike));
    if (rc < 0 || full)
        return rc;
    if (!alike) {
        log_info("%s: the ranks of this group do not load the same; each reads the weights itself", f->path);
        return bring_all(l, f, ops, opt);
    }
    struct stage stage = {0};
    if (c->rank == 0)
        rc = stage_open(&stage, l, f, ops, opt);
    rc = all_well(c, rc);
    if (rc == 0)
        rc = hand_on(l, f, ops, opt, &stage);
    stage_close(&stage, ops);
    if (rc == 0)
        log_debug("%s: weights %s (%zu bytes, %s)", f->path, c->rank == 0 ? "read from the file" : "received",
                  l->bytes, c->way);
    return rc;
}

/* What the bytes of the block depend on. */
static uint64_t block_key(const struct load *l, const struct model_file *f, const struct ops *ops,
                          enum dtype dtype)
{
    struct str s = {0};
    str_printf(&s, "layout 2 %016lx %016lx %016lx %s %s %s %s %zu", (unsigned long)f->hash[0],
               (unsigned long)f->hash[1], (unsigned long)f->identity, dtype_name(dtype), ops->name, ops->isa,
               ops->libraries, l->bytes);
    uint64_t key = share_key(s.data, s.n);
    str_free(&s);
    return key;
}

/* Where the block lies: in memory of the node or of the device. *full: another process has filled it. */
static int make_room(struct load *l, const struct model_file *f, struct ops *ops,
                     const struct model_options *opt, bool *full)
{
    char text[32];
    bool creator = true;
    *full = false;
    TRY(lay_out(l, ops, opt->dtype));
    if (opt->share && ops->on_host)
        TRY(share_open(&l->share, block_key(l, f, ops, opt->dtype), l->bytes, &opt->poll, &creator));
    *full = l->share && !creator;
    l->block = l->share ? share_data(l->share) : ops->alloc(ops, l->bytes, MEM_WEIGHTS, PLACE_DEVICE);
    str_bytes(text, (double)l->bytes);
    if (!l->block)
        return err_set(ERR_NOMEM, "no memory for %s of weights", text);
    hand_out(l, opt->dtype);
    return 0;
}

int load_run(struct load *l, const struct model_file *f, struct ops *ops, const struct model_options *opt)
{
    bool full;
    int rc = make_room(l, f, ops, opt, &full);
    if (opt->comm)
        rc = load_together(l, f, ops, opt, rc, full);
    else if (rc == 0 && !full)
        rc = bring_all(l, f, ops, opt);
    if (rc == 0 && full)
        rc = read_note(l, ops);
    if (rc == 0 && l->share && !full)
        rc = share_publish(l->share);
    return rc;
}

void load_free(struct load *l, struct ops *ops)
{
    if (l->share)
        share_close(l->share);
    else if (l->block)
        ops->free(ops, l->block);
    for (int i = 0; i < l->n; i++)
        for (int p = 0; p < l->item[i].n_part; p++)
            free(l->item[i].name[p]);
    free(l->item);
    str_free(&l->problems);
    *l = (struct load){0};
}
