// Which sequences decode.cu takes, and what it is told of them.
#include "kernels/cuda/decode_job.h"

// Forms of codes that the kernel reads: those of the methods.
static bool codes_fit(const struct kv_run *r, bool value)
{
    if (r->layout == QUANT_NONE)
        return true;
    if ((r->bits != 2 && r->bits != 4) || r->group % 8 || r->group & (r->group - 1))
        return false;
    if (r->layout == QUANT_TOKEN)
        return true;
    return !value && r->group % DECODE_KEYS == 0 && ((uintptr_t)r->scale | (uintptr_t)r->min) % 16 == 0 &&
           !r->f16_values && !r->inverse;
}

bool decode_fits(const struct attend_args *a, enum tile_form form)
{
    int64_t d = a->out.n[2];
    if ((d != 64 && d != 128) || decode_row_count(a) > 16 || !(a->scale > 0))
        return false;
    for (int i = 0; i < a->n_set; i++) {
        const struct attend_set *s = &a->set[i];
        if ((uintptr_t)s->q.data % 16 ||
            (s->q.dtype != DT_F32 && s->q.dtype != (form == TILE_F16 ? DT_F16 : DT_BF16)))
            return false;
        for (int x = 0; x < s->n_k; x++)
            if (!codes_fit(&s->k[x], false))
                return false;
        for (int x = 0; x < s->n_v; x++)
            if (!codes_fit(&s->v[x], true))
                return false;
    }
    return true;
}

// Keys of a block: enough blocks to fill a GPU, few enough that putting them together costs little.
static int32_t split_of(int64_t keys)
{
    return keys <= 16384 ? 256 : keys <= 65536 ? 512 : 1024;
}

// One side of a piece that begins with row `row` of a run: `*skip` rows of its first group come before.
static struct decode_side side_of(const struct kv_run *r, int64_t row, int64_t width, int32_t *skip)
{
    struct decode_side s = {};
    const char *data = (const char *)r->data;
    bool two = r->bits == 2;
    *skip = 0;
    if (r->layout == QUANT_NONE) {
        s.data = r->index ? data : data + row * width * 2;
        s.index = r->index ? r->index + row : NULL;
        return s;
    }
    s.kind = r->inverse ? KIND_INVERSE : r->f16_values ? KIND_HALF : KIND_PLAIN;
    for (s.shift = 0; 1 << s.shift < r->group; s.shift++)
        ;
    if (r->layout == QUANT_CHANNEL) {
        *skip = (int32_t)(row % r->group);
        row -= *skip;
    }
    int64_t scales = row * width / r->group;
    s.form = r->layout == QUANT_CHANNEL ? two ? CHANNEL2 : CHANNEL4 : two ? TOKEN2 : TOKEN4;
    s.data = data + row * width * r->bits / 8;
    s.scale = r->scale + scales;
    s.min = r->min + scales;
    return s;
}

// Codes of KIND_PLAIN in groups of 32, where 16 bytes of codes and all scales of a row can be read at once.
static bool in_groups(const struct decode_piece *p)
{
    const struct decode_side *k = &p->k, *v = &p->v;
    return ((k->form == CHANNEL2 && v->form == TOKEN2) || (k->form == CHANNEL4 && v->form == TOKEN4)) &&
           1 << k->shift == DECODE_GROUP && 1 << v->shift == DECODE_GROUP && v->kind == KIND_PLAIN &&
           (uintptr_t)k->data % 16 == 0 && ((uintptr_t)v->scale | (uintptr_t)v->min) % 8 == 0;
}

// Pieces of one set: from one end of a run of keys or values to the next.
static int32_t add_pieces(struct decode_piece *piece, const struct attend_set *s, int64_t width)
{
    struct attend_place at;
    int32_t n = 0, none;
    for (int64_t j = 0, total = attend_keys(s); j < total; j += at.n) {
        struct decode_piece *p = &piece[n++];
        at = attend_find(s, j);
        p->k = side_of(at.k, at.k_row, width, &p->skip);
        p->v = side_of(at.v, at.v_row, width, &none);
        p->groups = in_groups(p);
        p->n = (int32_t)at.n;
        p->pos = (int32_t)(at.k->index ? at.k->pos : at.k->pos + at.k_row);
    }
    return n;
}

struct decode_job decode_job_of(const struct attend_args *a, struct decode_piece *piece, int32_t *n)
{
    struct decode_job job = {};
    int64_t keys = 0;
    for (int i = 0; i < a->n_set; i++) {
        const struct attend_set *s = &a->set[i];
        struct decode_set *x = &job.set[i];
        x->q = s->q.data;
        x->q_dtype = s->q.dtype;
        x->from = *n;
        x->to = *n += add_pieces(piece + *n, s, a->n_kv_head * a->out.n[2]);
        x->keep = s->keep;
        x->keep_ld = s->keep_ld;
        x->per_keep = s->keep ? (int32_t)(a->out.n[1] / s->keep_rows) : 1;
        x->n = (int32_t)attend_keys(s);
        x->dist_min = cut_distance(s->dist_min, INT32_MAX);
        x->dist_max = cut_distance(s->dist_max, INT32_MAX);
        keys += x->n;
    }
    job.Hk = a->n_kv_head;
    job.d = (int32_t)a->out.n[2];
    job.n_set = a->n_set;
    job.T = (int32_t)a->out.n[0];
    job.g = (int32_t)a->out.n[1] / a->n_kv_head;
    job.q_pos = (int32_t)a->q_pos;
    job.slope = a->scale * 1.44269504f;
    job.split = split_of(keys);
    job.n_split = (int32_t)((keys + job.split - 1) / job.split);
    job.out = a->out.data;
    job.out_dtype = a->out.dtype;
    return job;
}
