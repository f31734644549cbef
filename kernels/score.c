/* Scores of keys and what is chosen by them, in plain loops: attention scores, select, gather, mean, dots,
 * norms. The meaning of these entries for every backend. */
#include "kernels/score.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

bool score_kept(const struct attend_set *s, int64_t head, int64_t j)
{
    int64_t H = s->q.n[1];
    return !s->keep || s->keep[head / (H / s->keep_rows) * s->keep_ld + j];
}

/* Logits of one row of one head over all keys of a set, -inf where a key is masked. Returns their number. */
static int64_t row_logits(const struct attend_args *a, const struct attend_set *s, int64_t t, int64_t head,
                          float *out)
{
    int64_t H = s->q.n[1], d = s->q.n[2], j = 0;
    int32_t h = (int32_t)(head / (H / a->n_kv_head));
    const float *q = (const float *)s->q.data + (t * H + head) * d;
    for (int i = 0; i < s->n_k; i++) {
        const struct kv_run *k = &s->k[i];
        for (int64_t r = 0; r < k->n; r++, j++) {
            int64_t dist = a->q_pos + t - (k->pos + (k->index ? k->index[r] : r));
            float x = 0.0f;
            for (int64_t c = 0; c < d; c++)
                x += q[c] * host_kv(k, r, h, (int32_t)c, a->n_kv_head, (int32_t)d);
            x = a->f16_attn_scores ? f16_round(f16_round(x) * a->scale) : x * a->scale;
            out[j] = dist >= s->dist_min && dist < s->dist_max && score_kept(s, head, j) ? x : -INFINITY;
        }
    }
    return j;
}

static int64_t keys_of(const struct attend_set *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->n_k; i++)
        n += s->k[i].n;
    return n;
}

static void row_attention(const struct attend_args *a, int64_t t, int64_t head, float *x)
{
    int64_t n = 0;
    float max = -INFINITY, sum = 0.0f;
    for (int s = 0; s < a->n_set; s++)
        n += row_logits(a, &a->set[s], t, head, x + n);
    for (int64_t j = 0; j < n; j++)
        max = x[j] > max ? x[j] : max;
    if (max == -INFINITY)
        return;
    for (int64_t j = 0; j < n; j++)
        sum += x[j] = expf(x[j] - max);
    for (int s = 0; s < a->n_set; s++) {
        int64_t m = keys_of(&a->set[s]);
        float *attn_scores =
            a->set[s].attn_scores ? a->set[s].attn_scores + head * a->set[s].attn_scores_ld : NULL;
        for (int64_t j = 0; attn_scores && j < m; j++)
            attn_scores[j] = a->f16_attn_scores ? f16_round(attn_scores[j] + f16_round(x[j] / sum))
                                                : attn_scores[j] + x[j] / sum;
        x += m;
    }
}

void score_attention(const struct attend_args *a)
{
    int64_t T = a->out.n[0], H = a->out.n[1], n = 0;
    bool wanted = false;
    for (int s = 0; s < a->n_set; s++) {
        n += keys_of(&a->set[s]);
        wanted = wanted || a->set[s].attn_scores;
    }
    if (!wanted || !n)
        return;
    float *x = mem_alloc((size_t)n, sizeof *x);
    for (int64_t head = 0; head < H; head++)
        for (int64_t t = 0; t < T; t++)
            row_attention(a, t, head, x);
    free(x);
}

struct scored {
    float score;
    int32_t at;
};

static int best_first(const void *pa, const void *pb)
{
    const struct scored *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->at < b->at ? -1 : 1;
}

static void select_row(const struct select_args *a, int64_t row, struct scored *s, uint8_t *chosen)
{
    float *score = a->score + row * a->group * a->score_ld;
    for (int64_t j = 0; j < a->n; j++) {
        float sum = score[j];
        for (int64_t g = 1; g < a->group; g++)
            sum += score[g * a->score_ld + j];
        s[j] = (struct scored){sum / (float)a->group, (int32_t)j};
    }
    qsort(s, (size_t)a->n, sizeof *s, best_first);
    memset(chosen, 0, (size_t)a->n);
    memset(chosen + a->n, 1, (size_t)a->tail);
    for (int64_t i = 0; i < a->k; i++)
        chosen[s[i].at] = 1;
    int64_t m = 0;
    for (int64_t j = 0; j < a->n + a->tail; j++) {
        if (a->index && chosen[j])
            a->index[row * a->index_ld + m++] = (int32_t)j;
        for (int64_t g = 0; (a->zero_rest || a->bar_rest) && !chosen[j] && g < a->group; g++)
            score[g * a->score_ld + j] = a->bar_rest ? -INFINITY : 0.0f;
    }
    if (a->keep)
        memcpy(a->keep + row * a->keep_ld, chosen, (size_t)(a->n + a->tail));
}

void score_select(struct ops *o, const struct select_args *args, int n)
{
    (void)o;
    for (int i = 0; i < n; i++) {
        const struct select_args *a = &args[i];
        assert(a->k <= a->n && a->group >= 1);
        struct scored *s = mem_alloc((size_t)a->n + 1, sizeof *s);
        uint8_t *chosen = mem_alloc((size_t)(a->n + a->tail) + 1, 1);
        for (int64_t row = 0; row < a->rows; row++)
            select_row(a, row, s, chosen);
        free(s);
        free(chosen);
    }
}

void score_gather(struct ops *o, const struct gather_args *args, int n)
{
    (void)o;
    for (int i = 0; i < n; i++) {
        const struct gather_args *a = &args[i];
        int64_t H = a->dst.n[1], Hk = a->src.n[1], per = H / a->rows;
        size_t row = (size_t)a->src.n[2] * dtype_bytes(a->src.dtype);
        assert(H % Hk == 0 && H % a->rows == 0 && a->src.dtype == a->dst.dtype && a->src.n[2] == a->dst.n[2]);
        for (int64_t m = 0; m < a->dst.n[0]; m++) {
            for (int64_t h = 0; h < H; h++) {
                int64_t from = a->index[h / per * a->index_ld + m] * Hk + h / (H / Hk);
                assert(from < a->src.n[0] * Hk);
                memmove((char *)a->dst.data + (size_t)(m * H + h) * row,
                        (const char *)a->src.data + (size_t)from * row, row);
            }
        }
    }
}

void score_mean(struct ops *o, struct tensor out, struct tensor x)
{
    (void)o;
    int64_t T = x.n[0], D = x.n[1] * x.n[2];
    float *y = out.data;
    for (int64_t i = 0; i < D; i++) {
        float sum = 0.0f;
        for (int64_t t = 0; t < T; t++)
            sum += host_get(x.data, x.dtype, t * D + i);
        y[i] = sum / (float)T;
    }
}

void score_dots(struct ops *o, float *out, struct tensor rows, const float *x)
{
    (void)o;
    int64_t D = tensor_count(&rows) / (rows.n[0] ? rows.n[0] : 1);
    for (int64_t n = 0; n < rows.n[0]; n++) {
        float sum = 0.0f;
        for (int64_t i = 0; i < D; i++)
            sum += host_get(rows.data, rows.dtype, n * D + i) * x[i];
        out[n] = sum;
    }
}

void score_norms(struct ops *o, float *out, int64_t ld, struct tensor x, float factor)
{
    (void)o;
    for (int64_t t = 0; t < x.n[0]; t++) {
        for (int64_t h = 0; h < x.n[1]; h++) {
            float sum = 0.0f;
            for (int64_t c = 0; c < x.n[2]; c++) {
                float v = host_get(x.data, x.dtype, (t * x.n[1] + h) * x.n[2] + c);
                sum += v * v;
            }
            out[h * ld + t] = norm_rounded(factor * sqrtf(sum));
        }
    }
}
