/* The method matrix on two devices: every method decodes greedily on the CPU, then on the CUDA backend
 * along the CPU's tokens; logits are compared. matrix MODEL [N_PROMPT [MAX_NEW [real]]]: one line per
 * method and dtype, exit status 1 if one is off.
 *
 * Bounds. f32: the same numbers but for the order of sums; where codes or kept keys are chosen (everything
 * but full and streaming) a tie may turn over, so there the mean difference counts. bf16 and f16, methods
 * that choose nothing, a real model: the greedy choice is equal wherever the best logit leads by more than
 * 0.1, and in 98 % of the other places (from 50 on). Random weights amplify rounding (up to 0.7 where the
 * spread is 8): there the mean difference is bounded by the logits' spread, at three times what was measured,
 * and the choice is equal where the lead is more than twice the largest difference of the run, at most a
 * fifth of the spread. The other methods differ by rounding from step one on, and only the mean difference is
 * bounded. */
#include "base/err.h"
#include "base/mem.h"
#include "run/probe.h"
#include "run/runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rows {
    float *x; /* [n, n_vocab] */
    int64_t n, n_vocab;
};

static int keep_rows(void *ctx, const float *logits, int64_t n, int64_t n_vocab)
{
    struct rows *r = ctx;
    size_t have = (size_t)(r->n * n_vocab), more = (size_t)(n * n_vocab);
    r->x = mem_grow(r->x, have + more, sizeof *r->x);
    memcpy(r->x + have, logits, more * sizeof *r->x);
    r->n += n;
    r->n_vocab = n_vocab;
    return 0;
}

struct both {
    struct runner *cpu, *cuda;
    int32_t *ids, *out[2];
    int64_t n_prompt, max_new;
    bool real; /* weights that were trained */
    int failed;
};

static int decode(struct both *b, struct runner *r, const struct kv_spec *spec, enum dtype t,
                  const int32_t *force, int32_t *out, struct rows *rows)
{
    struct probe_logits p = {
        .spec = spec, .cache_dtype = t, .over = {.rope_theta_factor = 1}, .rows = keep_rows, .ctx = rows};
    p.ids = b->ids;
    p.n_ids = b->n_prompt;
    p.force = force;
    p.n_force = force ? b->max_new : 0;
    p.max_new = b->max_new;
    p.out_ids = out;
    return probe_logits(r, &p);
}

static int64_t best_of(const float *x, int64_t n, float *lead)
{
    int64_t best = 0;
    float second = -INFINITY;
    for (int64_t i = 1; i < n; i++) {
        if (x[i] > x[best]) {
            second = x[best];
            best = i;
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    *lead = x[best] - second;
    return best;
}

struct verdict {
    double worst, mean, spread; /* largest and mean difference; standard deviation of the logits */
    double lead;                /* of the best logit, from which on the choice is sure */
    int sure, sure_wrong, unsure, unsure_wrong;
};

static void count_choices(struct verdict *v, const struct rows *a, const struct rows *b)
{
    for (int64_t t = 0; t < a->n; t++) {
        float lead, other;
        bool same = best_of(a->x + t * a->n_vocab, a->n_vocab, &lead) ==
                    best_of(b->x + t * b->n_vocab, b->n_vocab, &other);
        if ((double)lead > v->lead) {
            v->sure++;
            v->sure_wrong += !same;
        } else {
            v->unsure++;
            v->unsure_wrong += !same;
        }
    }
}

static struct verdict weigh(const struct rows *a, const struct rows *b, bool contract)
{
    struct verdict v = {.lead = 0.1};
    double sum = 0, square = 0, total = (double)(a->n * a->n_vocab);
    for (int64_t i = 0; i < a->n * a->n_vocab; i++) {
        double e = fabs((double)a->x[i] - (double)b->x[i]);
        v.worst = e <= v.worst ? v.worst : e;
        v.mean += e / total;
        sum += (double)a->x[i];
        square += (double)a->x[i] * (double)a->x[i];
    }
    v.spread = sqrt(square / total - sum / total * (sum / total));
    if (!contract)
        v.lead = 2 * v.worst < 0.2 * v.spread ? 2 * v.worst : 0.2 * v.spread;
    count_choices(&v, a, b);
    return v;
}

static bool good(const struct verdict *v, enum dtype t, bool chooses, bool real)
{
    if (!(v->worst < 1e30))
        return false;
    if (t == DT_F32)
        return chooses ? v->mean <= 0.02 * v->spread : v->worst <= 2e-3;
    if (chooses)
        return v->mean <= 0.35 * v->spread;
    if (v->sure_wrong)
        return false;
    return real ? v->unsure < 50 || v->unsure_wrong * 50 <= v->unsure
                : v->mean <= (t == DT_BF16 ? 0.03 : 0.01) * v->spread;
}

static int one(struct both *b, const char *text, enum dtype t)
{
    struct kv_spec spec = {0};
    struct rows rows[2] = {{0}};
    TRY(kv_spec_parse(&spec, text));
    int rc = decode(b, b->cpu, &spec, t, NULL, b->out[0], &rows[0]);
    if (rc == ERR_INPUT) {
        printf("  %-44s %-5s refused: %s\n", text, dtype_name(t), err_text());
        rc = 0;
    } else if (rc == 0 && (rc = decode(b, b->cuda, &spec, t, b->out[0], b->out[1], &rows[1])) == 0) {
        struct verdict v = weigh(&rows[0], &rows[1], b->real || t == DT_F32);
        bool chooses = strncmp(text, "full", 4) != 0 && strncmp(text, "streaming", 9) != 0;
        bool ok = rows[0].n == rows[1].n && good(&v, t, chooses, b->real);
        printf("  %-44s %-5s off by %.2e at most, %.2e in the mean (spread %.2f); greedy %d of %d that lead "
               "by %.2f, %d of %d others%s\n",
               text, dtype_name(t), v.worst, v.mean, v.spread, v.sure - v.sure_wrong, v.sure, v.lead,
               v.unsure - v.unsure_wrong, v.unsure, ok ? "" : "  FAILED");
        b->failed += !ok;
    }
    kv_spec_free(&spec);
    free(rows[0].x);
    free(rows[1].x);
    return rc;
}

static const char *const methods[] = {"full",
                                      "streaming:keep=0.25",
                                      "kivi:bits=2",
                                      "kivi:bits=4,residual=32",
                                      "flexgen",
                                      "flexgen-upstream",
                                      "h2o:heavy=0.2,recent=0.2",
                                      "h2o-paper:heavy=0.2,recent=0.2",
                                      "knorm",
                                      "infllm:keep=0.5,block=32,piece=64,min_local=64"};

static int all(struct both *b, const char *path)
{
    static const enum dtype dtypes[] = {DT_F32, DT_BF16, DT_F16};
    for (int t = 0; t < 3; t++) {
        const struct run_model m = {
            .id = "matrix", .path = path, .template = "none", .dtype = dtypes[t], .cache_dtype = dtypes[t]};
        TRY(runner_load(b->cpu, &m));
        TRY(runner_load(b->cuda, &m));
        uint64_t x = 88172645463325252U;
        for (int64_t i = 0; i < b->n_prompt; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            b->ids[i] = (int32_t)(x % (uint64_t)model_config(runner_model(b->cpu))->n_vocab);
        }
        for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
            TRY(one(b, methods[i], dtypes[t]));
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct both b = {.n_prompt = argc > 2 ? atoll(argv[2]) : 300, .max_new = argc > 3 ? atoll(argv[3]) : 24};
    const struct run_options cpu = {.device = "cpu", .isa = "auto"}, cuda = {.device = "cuda"};
    b.real = argc > 4 && !strcmp(argv[4], "real");
    if (argc < 2 || argc > 4 + b.real || b.n_prompt < 1 || b.max_new < 1) {
        printf("usage: %s MODEL [N_PROMPT [MAX_NEW [real]]]\n", argv[0]);
        return 2;
    }
    b.ids = mem_alloc((size_t)b.n_prompt, sizeof *b.ids);
    for (int i = 0; i < 2; i++)
        b.out[i] = mem_alloc((size_t)b.max_new, sizeof *b.out[i]);
    int rc = runner_open(&b.cpu, &cpu);
    if (rc == 0)
        rc = runner_open(&b.cuda, &cuda);
    if (rc == 0)
        rc = all(&b, argv[1]);
    if (rc < 0)
        printf("%s\n", err_text());
    else
        printf("matrix: %d failed (%s)\n", b.failed, runner_ops(b.cuda)->device);
    runner_close(b.cpu);
    runner_close(b.cuda);
    free(b.ids);
    free(b.out[0]);
    free(b.out[1]);
    return rc < 0 || b.failed;
}
