/* kvsweep bench prefill and decode: one method at one length. */
#include "base/err.h"
#include "run/probe.h"
#include "sweep/bench.h"

int bench_prefill(struct bench *b, const struct kv_spec *spec, int64_t context)
{
    struct probe_time t, best = {0};
    double whole = 0; /* products of the prompt's rows in one go; the engine cuts it into chunks */
    for (int i = 0; i < 5; i++) {
        TRY(probe_time(b->r, spec, context, 1, 1, &t));
        if (i == 0 || t.s_prefill < best.s_prefill)
            best = t;
        runner_limits_again(b->r, &b->lim);
        double rate = limits_product_rate(b->r, context);
        whole = rate > whole ? rate : whole;
    }
    double n = (double)context, flops = limits_prefill_flops(runner_model(b->r), context);
    char label[96];
    snprintf(label, sizeof label, "prefill of %lld tokens, %s", (long long)context, spec->label);
    bench_row(b, label, n / best.s_prefill, "tokens/s", n * b->lim.product_rate / flops,
              "tokens/s at the product rate");
    bench_row(b, "  its products and attention", 1e-9 * flops / best.s_prefill, "GFLOP/s",
              1e-9 * b->lim.product_rate, "GFLOP/s");
    bench_row(b, "  beside products of the whole prompt", 1e-9 * flops / best.s_prefill, "GFLOP/s",
              1e-9 * whole, "GFLOP/s");
    return 0;
}

static void decode_rows(struct bench *b, const struct kv_spec *spec, int64_t context, int n_seq,
                        const struct probe_time *t)
{
    char label[96];
    double floor = limits_step_s(runner_model(b->r), &b->lim, b->dtype, n_seq, (double)t->device_bytes);
    snprintf(label, sizeof label, "decode at %lld, %s, %d sequence%s", (long long)context, spec->label, n_seq,
             n_seq == 1       ? ""
             : t->own_prompts ? "s, own prompts"
                              : "s, one prompt");
    bench_row(b, label, n_seq / t->s_step, "tokens/s", floor > 0 ? n_seq / floor : 0,
              bench_on_gpu(b) ? "tokens/s at the copy rate" : "tokens/s at the read rate");
    if (floor > 0 && bench_on_gpu(b))
        bench_row(b, "  weights and caches", 1e-9 * floor * b->lim.read_rate / t->s_step, "GB/s",
                  1e-9 * b->lim.read_rate, "GB/s (device copy)");
}

static int bench_decode_many(struct bench *b, const struct kv_spec *spec, int64_t context,
                             const struct probe_time *one)
{
    const int n = (int)b->a->sequences;
    char label[96];
    struct probe_time many;
    int rc = probe_time(b->r, spec, context, n, 12, &many);
    if (rc == ERR_NOMEM && bench_on_gpu(b)) {
        snprintf(label, sizeof label, "  %d sequences: no memory", n);
        bench_row(b, label, 0, "", 0, "");
        return 0;
    }
    TRY(rc);
    decode_rows(b, spec, context, n, &many);
    snprintf(label, sizeof label, "  %d sequences over 1", n);
    bench_row(b, label, n * one->s_step / many.s_step, "times", 0, "");
    snprintf(label, sizeof label, "  prompt passes of the %d", n);
    bench_row(b, label, (double)many.prefill_passes, "", 0, "");
    return 0;
}

int bench_decode(struct bench *b, const struct kv_spec *spec, int64_t context)
{
    struct ops *o = runner_ops(b->r);
    struct probe_time one;
    o->peak(o, true);
    TRY(probe_time(b->r, spec, context, 1, 24, &one));
    decode_rows(b, spec, context, 1, &one);
    if (!bench_on_gpu(b))
        bench_row(b, "  attention per step", 1e3 * one.s_attend_step, "ms", 0, "");
    bench_row(b, "  cache", (double)one.cache_bytes / 1048576, "MiB", 0, "");
    if (one.device_bytes != one.cache_bytes)
        bench_row(b, "  of it on the device", (double)one.device_bytes / 1048576, "MiB", 0, "");
    if (bench_on_gpu(b))
        bench_row(b, "  peak on the device, weights aside", (double)o->peak(o, false) / 1048576, "MiB",
                  (double)one.device_bytes / 1048576, "MiB (cache)");
    if (b->a->sequences < 2 || (context > 4096 && !bench_on_gpu(b)))
        return 0; /* many long caches are a test of memory, not of speed */
    return bench_decode_many(b, spec, context, &one);
}
