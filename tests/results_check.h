/* What the tests of results files share: a place for one, and its comparison with a grid. */
#ifndef KVS_TESTS_RESULTS_CHECK_H
#define KVS_TESTS_RESULTS_CHECK_H

#include "expect.h"
#include "results_plan.h"
#include "scratch.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "hdf5io/equal.h"
#include "hdf5io/store.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct place {
    char *dir, *path, *journal;
};

static inline struct place place_make(void)
{
    struct place p = {.dir = scratch_make()};
    p.path = file_join(p.dir, "r.h5");
    p.journal = journal_dir(p.path);
    return p;
}

static inline void place_remove(struct place *p)
{
    free(p->path);
    free(p->journal);
    scratch_remove(p->dir);
}

/* The results at path hold exactly units [0, n) of the grid (in any order when n is all). */
static inline void check_results(const char *path, const struct grid *g, int64_t n)
{
    struct results r;
    OK(results_open(&r, path));
    assert_int_equal(r.n_record, n);
    assert_int_equal(r.n_unit, g->plan.n_unit);
    assert_int_equal(r.n_setting, g->plan.n_setting);
    assert_string_equal(r.config_yaml, g->plan.run.config_yaml);
    assert_int_equal(r.schema_version, SCHEMA_VERSION);
    for (int64_t i = 0; i < r.n_record; i++) {
        const struct record *want = grid_find(g, r.record[i].unit_hi, r.record[i].unit_lo);
        assert_non_null(want);
        assert_string_equal(records_difference(want, &r.record[i], false), "");
        const struct sink_example *e = results_example(&r, want->task, want->example);
        assert_non_null(e);
        assert_string_equal(e->gold_json, g->plan.example[want->task * g->task[0].n_examples].gold_json);
        if (i)
            assert_true(r.record[i - 1].unit_hi < r.record[i].unit_hi);
    }
    assert_null(results_example(&r, 0, 99));
    for (int i = 0; i < r.n_setting; i++) {
        assert_string_equal(r.setting[i].id, g->setting[i].id);
        assert_true(book_same_setting(&r.setting[i], &g->setting[i]));
        assert_string_equal(r.setting[i].weights_xxh3, g->setting[i].weights_xxh3);
        assert_string_equal(r.setting[i].model_path, g->setting[i].model_path);
        assert_string_equal(r.setting[i].weight_type, g->setting[i].weight_type);
        assert_string_equal(r.setting[i].refused, g->setting[i].refused);
    }
    assert_string_equal(r.task[1].category, "single_doc_qa");
    results_close(&r);
}

/* All logits of all units, against the grid. */
static inline void check_logits(const char *path, const struct grid *g)
{
    struct store s;
    struct store_found found;
    store_init(&s, NULL);
    OK(store_load(&s, path, NULL, &found));
    store_sort(&s);
    assert_int_equal(s.n, g->n);
    for (int64_t k = 0; k < s.n; k++) {
        struct record r;
        bool good;
        OK(store_read(&s, k, &r));
        OK(store_check(&s, k, &good));
        assert_true(good);
        const struct record *want = grid_find(g, r.unit_hi, r.unit_lo);
        const void *data[PART_N] = {want->topk_id, want->logsumexp, want->topk_logit, want->first};
        for (int p = 0; p < PART_N; p++) {
            int64_t rows = part_rows((enum part)p, want), width = part_width((enum part)p, want);
            assert_int_equal(rows, part_rows((enum part)p, &r));
            char *got = mem_alloc((size_t)(rows * width) + 1, 4);
            for (int64_t i = 0; i < rows; i++)
                OK(store_part(&s, k, &r, (enum part)p, i, 1,
                              got + (size_t)(i * width) * part_size((enum part)p)));
            if (rows)
                assert_memory_equal(got, data[p], (size_t)(rows * width) * part_size((enum part)p));
            free(got);
        }
        record_free(&r);
    }
    store_close(&s);
}

static inline void assert_equal_files(const char *a, const char *b)
{
    struct str d = {0};
    OK(equal_files(a, b, &d));
    assert_string_equal(str_c(&d), "");
    str_free(&d);
}

static inline void finish(const char *path, const struct grid *g)
{
    struct sink *s;
    OK(sink_hdf5.open(&s, path, &g->plan));
    OK(grid_put(g, &sink_hdf5, s, 0, g->n));
    OK(sink_hdf5.close(s));
}

#endif
