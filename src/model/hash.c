#include "model/hash.h"

#include "base/mem.h"
#include "base/str.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define BLOCK   4096              /* bytes of one sample */
#define SAMPLES 16                /* of a tensor: the first block, the last, 14 between */
#define PIECE   ((size_t)1 << 20) /* of a tensor that is hashed whole */

static void config_text(struct str *s, const struct model_config *c)
{
    const struct rope_setting *r = &c->rope[0];
    str_printf(s,
               "%s %s layers %d heads %d %d dim %d model %" PRId64 " ff %" PRId64 " vocab %" PRId64
               " eps %.9g theta %.17g scaling %d %.17g %.17g %.17g %" PRId64 " len %" PRId64
               " tied %d bias %d %d dtype %s\n",
               c->family, c->architecture, c->n_layer, c->n_head, c->n_kv_head, c->head_dim, c->d_model,
               c->d_ff, c->n_vocab, (double)c->norm_eps, r->theta, (int)r->scaling, r->factor, r->low_freq,
               r->high_freq, r->original_len, c->max_len, c->tied, c->qkv_bias, c->o_bias,
               dtype_name(c->dtype));
    if (r->scaling == ROPE_YARN)
        str_printf(s, "yarn %.17g %.17g %.17g %d\n", r->yarn.fast, r->yarn.slow, r->yarn.attention,
                   r->yarn.whole);
    const struct family *family = family_find(c->architecture); /* a prompt encoder has none */
    if (family && family->describe)
        family->describe(c, s);
}

static void tensor_text(struct str *s, const struct file_tensor *ft)
{
    const struct model_tensor *t = &ft->t;
    str_printf(s, "%s %d %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", ft->name, t->type, t->n[0],
               t->n[1], t->n[2], t->n[3]);
}

/* Where the k-th sample of a tensor begins, and its bytes; 0: there is none. */
static size_t sample(const struct model_tensor *t, int k, size_t *at)
{
    if (t->bytes <= SAMPLES * BLOCK) {
        *at = 0;
        return k == 0 ? t->bytes : 0;
    }
    *at = (t->bytes - BLOCK) / (SAMPLES - 1) * (size_t)k;
    if (k == SAMPLES - 1)
        *at = t->bytes - BLOCK;
    return BLOCK;
}

/* Lets the kernel fetch all samples at once: one after the other they would wait for the disk each. */
static void want_samples(const struct model_file *f)
{
    for (int i = 0; i < f->n; i++)
        for (int k = 0; k < SAMPLES; k++) {
            const struct file_tensor *ft = &f->t[i];
            const struct file_map *m = &f->map[ft->map];
            size_t at, n = sample(&ft->t, k, &at);
            if (n)
                file_want(m, (size_t)((const unsigned char *)ft->t.data - m->data) + at, n);
        }
}

void hash_file(struct model_file *f)
{
    struct str s = {0};
    XXH3_state_t *x = XXH3_createState();
    XXH3_128bits_reset(x);
    want_samples(f);
    config_text(&s, &f->cfg);
    for (int i = 0; i < f->n; i++) {
        const struct model_tensor *t = &f->t[i].t;
        tensor_text(&s, &f->t[i]);
        XXH3_128bits_update(x, str_c(&s), s.n);
        str_clear(&s);
        for (int k = 0; k < SAMPLES; k++) {
            size_t at, n = sample(t, k, &at);
            if (n)
                XXH3_128bits_update(x, (const char *)t->data + at, n);
        }
    }
    str_add(&s, "stop");
    for (int i = 0; i < f->stop.n; i++)
        str_printf(&s, " %d", f->stop.v[i]);
    XXH3_128bits_update(x, str_c(&s), s.n);
    XXH128_hash_t h = XXH3_128bits_digest(x);
    XXH3_freeState(x);
    f->hash[0] = h.high64;
    f->hash[1] = h.low64;
    str_free(&s);
}

void content_open(struct content *c, const struct model_file *f)
{
    c->t = mem_alloc((size_t)f->n + 1, sizeof *c->t);
}

static void hash_tensor(const struct model_tensor *t, int threads, uint64_t hash[2])
{
    const int64_t n = (int64_t)((t->bytes + PIECE - 1) / PIECE);
    XXH128_hash_t *piece = mem_alloc((size_t)n + 1, sizeof *piece), h;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (n > 1)
    for (int64_t i = 0; i < n; i++) {
        size_t at = (size_t)i * PIECE, left = t->bytes - at;
        piece[i] = XXH3_128bits((const char *)t->data + at, left < PIECE ? left : PIECE);
    }
    h = XXH3_128bits(piece, (size_t)n * sizeof *piece);
    free(piece);
    hash[0] = h.high64;
    hash[1] = h.low64;
}

static void add_at(struct content *c, const struct model_file *f, int i, int threads)
{
    if (c->t[i].known)
        return;
    hash_tensor(&f->t[i].t, threads, c->t[i].hash);
    c->t[i].known = true;
}

void content_add(struct content *c, const struct model_file *f, const char *name, int threads)
{
    const struct file_tensor *ft = file_tensor_find(f, name);
    assert(ft);
    add_at(c, f, (int)(ft - f->t), threads);
}

void content_close(struct content *c, const struct model_file *f, int threads, uint64_t hash[2])
{
    struct str s = {0};
    for (int i = 0; i < f->n; i++) {
        if (!c->t[i].known) {
            add_at(c, f, i, threads);
            file_tensor_release(f, f->t[i].name);
        }
        tensor_text(&s, &f->t[i]);
        str_printf(&s, "%016" PRIx64 "%016" PRIx64 "\n", c->t[i].hash[0], c->t[i].hash[1]);
    }
    XXH128_hash_t h = XXH3_128bits(str_c(&s), s.n);
    hash[0] = h.high64;
    hash[1] = h.low64;
    str_free(&s);
    free(c->t);
    c->t = NULL;
}

void model_file_weights_xxh3(const struct model_file *f, int threads, uint64_t hash[2])
{
    struct content c;
    content_open(&c, f);
    content_close(&c, f, threads > 0 ? threads : 1, hash);
}
