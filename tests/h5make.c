/* h5make OUT.h5: writes a results file of random records for tests/oracle/hdf5_check.py, and beside it
 * OUT.h5.txt with what a reader must find. h5make OUT.h5 N MB: measures instead, with N records and MB
 * megabytes of logits. */
#include "results_plan.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int expect(const char *path, const struct grid *g)
{
    char *name = mem_printf("%s.txt", path);
    FILE *f = fopen(name, "w");
    free(name);
    if (!f)
        return err_set(ERR_IO, "cannot write the expectation");
    for (int i = 0; i < g->n; i++) {
        const struct record *r = &g->record[i];
        double first = 0, top = 0, lse = 0;
        for (int k = 0; k < r->n_first * r->n_vocab; k++)
            first += half_to_float(r->first[k]);
        for (int k = 0; r->topk_id && k < r->n_new * r->n_top; k++)
            top += (double)half_to_float(r->topk_logit[k]) + r->topk_id[k];
        for (int k = 0; r->topk_id && k < r->n_new; k++)
            lse += r->logsumexp[k];
        fprintf(f, "%016llx%016llx %s %s %.17g %d %zu %d %d %d %d %.17g %.17g %.17g\n",
                (unsigned long long)r->unit_hi, (unsigned long long)r->unit_lo, record_status_name(r->status),
                record_stop_name(r->stop), r->score, r->n_new, r->n_text, r->n_metric, r->n_budget,
                r->n_ledger, r->n_fidelity, first, top, lse);
    }
    return fclose(f) == 0 ? 0 : err_set(ERR_IO, "cannot write the expectation");
}

/* Every record gets rows of whole logits, so that all together have `megabytes`. */
static void widen(struct grid *g, int megabytes)
{
    int64_t values = (int64_t)megabytes * 500000 / g->n;
    for (int i = 0; i < g->n; i++) {
        struct record *r = &g->record[i];
        free(r->first);
        r->n_first = values > 0;
        r->n_vocab = (int32_t)values;
        r->first = values ? mem_alloc((size_t)values, sizeof *r->first) : NULL;
        for (int64_t k = 0; k < values; k++)
            r->first[k] = (uint16_t)(k * 31 + i);
    }
}

static int measure(const char *path, int n, int megabytes)
{
    struct grid g;
    struct sink *s;
    grid_init_wide(&g, 4, 1, n / 32 > 0 ? n / 32 : 1);
    widen(&g, megabytes);
    TRY(sink_hdf5.open(&s, path, &g.plan));
    double t0 = now_s();
    TRY(grid_put(&g, &sink_hdf5, s, 0, g.n));
    double t1 = now_s();
    TRY(sink_hdf5.refresh(s, true, false));
    double t2 = now_s();
    TRY(sink_hdf5.refresh(s, true, true));
    double t3 = now_s();
    TRY(sink_hdf5.close(s));
    printf("%d records, %d MB of logits: journal %.3f s (%.0f MB/s, %.0f commits/s), rebuild %.3f s, with "
           "logits "
           "%.3f s (%.0f MB/s)\n",
           g.n, megabytes, t1 - t0, megabytes / (t1 - t0), g.n / 3.0 / (t1 - t0), t2 - t1, t3 - t2,
           megabytes / (t3 - t2));
    grid_free(&g);
    return 0;
}

static int make(const char *path)
{
    struct grid g;
    struct sink *s;
    struct sink_timing t[2] = {{0, 0, 1, 0, 0.5, 0.125, 0.25, 0.1, 0.2, 512, 7, 1 << 20},
                               {2, 1, 3, 1, 7, 0.5, 6, 0, 0, 9, 8, 5}};
    grid_init_wide(&g, 4, 11, 4);
    TRY(sink_hdf5.open(&s, path, &g.plan));
    TRY(grid_put(&g, &sink_hdf5, s, 0, g.n));
    TRY(sink_hdf5.put_timing(s, t, 2));
    TRY(sink_hdf5.close(s));
    int rc = expect(path, &g);
    grid_free(&g);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 4) {
        fprintf(stderr, "usage: h5make OUT.h5 [N MB]\n");
        return 1;
    }
    int rc = argc == 4 ? measure(argv[1], atoi(argv[2]), atoi(argv[3])) : make(argv[1]);
    if (rc < 0)
        fprintf(stderr, "%s\n", err_text());
    return rc < 0;
}
