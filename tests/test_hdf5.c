/* Results files: what goes in comes out, through the journal, the file and both; resume, extension, merge,
 * refusals, damage. */
#include "results_plan.h"
#include "scratch.h"

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "hdf5io/equal.h"
#include "hdf5io/store.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) < 0)                                                                                      \
            fail_msg("%s: %s", #call, err_text());                                                           \
    } while (0)
#define REFUSED(call, words)                                                                                 \
    do {                                                                                                     \
        assert_true((call) < 0);                                                                             \
        if (!strstr(err_text(), words))                                                                      \
            fail_msg("\"%s\" is not in: %s", words, err_text());                                             \
    } while (0)

struct place {
    char *dir, *path, *journal;
};

static struct place place_make(void)
{
    struct place p = {.dir = scratch_make()};
    p.path = file_join(p.dir, "r.h5");
    p.journal = journal_dir(p.path);
    return p;
}

static void place_remove(struct place *p)
{
    free(p->path);
    free(p->journal);
    scratch_remove(p->dir);
}

/* The results at path hold exactly units [0, n) of the grid (in any order when n is all). */
static void check_results(const char *path, const struct grid *g, int64_t n)
{
    struct results r;
    OK(results_open(&r, path));
    assert_int_equal(r.n_record, n);
    assert_int_equal(r.n_unit, g->plan.n_unit);
    assert_int_equal(r.n_setting, g->plan.n_setting);
    assert_string_equal(r.config_yaml, g->plan.run.config_yaml);
    assert_int_equal(r.schema_version, 1);
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
        assert_true(r.setting[i].nominal_ratio == g->setting[i].nominal_ratio);
    }
    assert_string_equal(r.task[1].category, "single_doc_qa");
    results_close(&r);
}

/* All logits of all units, against the grid. */
static void check_logits(const char *path, const struct grid *g)
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

static void assert_equal_files(const char *a, const char *b)
{
    struct str d = {0};
    OK(equal_files(a, b, &d));
    assert_string_equal(str_c(&d), "");
    str_free(&d);
}

static void round_trip(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s;
    grid_init(&g, 4, 1);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    assert_int_equal(sink_hdf5.attempt(s), 1);
    check_results(p.path, &g, 0);
    OK(grid_put(&g, &sink_hdf5, s, 0, 12));
    check_results(p.path, &g, 12); /* from the journal alone */
    assert_false(file_exists(p.path));
    OK(sink_hdf5.refresh(s, true, false));
    assert_true(file_exists(p.path));
    OK(grid_put(&g, &sink_hdf5, s, 12, g.n));
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    struct sink_timing t[2] = {{1, 0, 2, 512, 7, 0.5, 0.25, 1 << 20, 0.1, 0.2},
                               {2, 1, 3, 9, 8, 7, 6, 5, 0, 0}};
    OK(sink_hdf5.put_timing(s, t, 2));
    OK(sink_hdf5.close(s));
    assert_false(file_exists(p.journal));
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    struct results r;
    OK(results_open(&r, p.path));
    assert_false(r.running);
    assert_int_equal(r.n_timing, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r.timing[i].example, t[i].example);
        assert_int_equal(r.timing[i].n_new, t[i].n_new);
        assert_int_equal(r.timing[i].peak_bytes, t[i].peak_bytes);
        assert_true(r.timing[i].s_decode == t[i].s_decode && r.timing[i].s_prefill == t[i].s_prefill);
        assert_true(r.timing[i].s_decode_limit == t[i].s_decode_limit);
    }
    results_close(&r);
    /* opening a finished file and closing it changes nothing */
    struct stat before, after;
    assert_int_equal(stat(p.path, &before), 0);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, g.n));
    OK(sink_hdf5.close(s));
    assert_int_equal(stat(p.path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_false(file_exists(p.journal));
    assert_true(after.st_size < 400000);
    grid_free(&g);
    place_remove(&p);
}

static void finish(const char *path, const struct grid *g)
{
    struct sink *s;
    OK(sink_hdf5.open(&s, path, &g->plan));
    OK(grid_put(g, &sink_hdf5, s, 0, g->n));
    OK(sink_hdf5.close(s));
}

static void resume(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make();
    struct grid g;
    struct sink *s;
    grid_init(&g, 3, 2);
    finish(q.path, &g);
    for (int i = 0; i < g.n; i += 6) {
        OK(sink_hdf5.open(&s, p.path, &g.plan));
        assert_int_equal(sink_hdf5.attempt(s), 1 + i / 6);
        for (int k = 0; k < g.n; k++)
            assert_int_equal(sink_hdf5.has(s, g.record[k].unit_hi, g.record[k].unit_lo), k < i);
        OK(grid_put(&g, &sink_hdf5, s, 0, i + 6 < g.n ? i + 6 : g.n));
        OK(sink_hdf5.close(s));
        if (i == 6)
            assert_int_equal(unlink(p.path), 0); /* the journal is enough */
        if (i == 12)
            OK(sink_pack(p.path, 0)); /* packing in between must not disturb */
    }
    assert_false(file_exists(p.journal));
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    assert_equal_files(p.path, q.path);
    grid_free(&g);
    place_remove(&p);
    place_remove(&q);
}

/* A finished file of two settings gets two more; killed in between. */
static void extend(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make();
    struct grid two, four;
    struct sink *s;
    grid_init(&two, 2, 3);
    grid_init(&four, 4, 3);
    finish(p.path, &two);
    finish(q.path, &four);
    pid_t pid = fork();
    if (pid == 0) {
        bool ok = sink_hdf5.open(&s, p.path, &four.plan) == 0 && grid_put(&four, &sink_hdf5, s, 0, 20) == 0 &&
                  sink_hdf5.refresh(s, true, false) == 0;
        _exit(ok ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    check_results(p.path, &four, 20);
    finish(p.path, &four);
    check_results(p.path, &four, four.n);
    check_logits(p.path, &four);
    assert_equal_files(p.path, q.path);
    /* and a plan with fewer settings keeps the others */
    finish(p.path, &two);
    struct results r;
    OK(results_open(&r, p.path));
    assert_int_equal(r.n_record, four.n);
    assert_int_equal(r.n_unit, four.n);
    results_close(&r);
    assert_equal_files(p.path, q.path);
    grid_free(&two);
    grid_free(&four);
    place_remove(&p);
    place_remove(&q);
}

static void differences(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make(), x = place_make();
    struct grid g, h;
    struct str d = {0};
    grid_init(&g, 2, 4);
    grid_init(&h, 2, 4);
    finish(p.path, &g);
    int k = 0;
    while (!h.record[k].first)
        k++;
    h.record[k].rank += 3;
    h.record[k].attempt += 1;
    h.record[k].peak_bytes += 1;
    finish(x.path, &h);
    assert_equal_files(p.path, x.path);
    h.record[k].first[17] ^= 1;
    finish(q.path, &h);
    OK(equal_files(p.path, q.path, &d));
    assert_non_null(strstr(str_c(&d), "first differs in unit"));
    grid_free(&g);
    grid_free(&h);
    str_free(&d);
    place_remove(&p);
    place_remove(&q);
    place_remove(&x);
}

static void refusals(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s, *other;
    struct results r;
    grid_init(&g, 2, 5);
    REFUSED(results_open(&r, p.path), "no results at");
    REFUSED(sink_pack(p.path, 0), "no results at");
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    REFUSED(sink_hdf5.open(&other, p.path, &g.plan), "another run is writing");
    OK(grid_put(&g, &sink_hdf5, s, 0, 6));
    OK(sink_hdf5.close(s));
    struct sink_plan plan = g.plan;
    plan.run.plan_text = "mode=fair\nseed=43\nlogits=first\n";
    REFUSED(sink_hdf5.open(&s, p.path, &plan), "line 2 is \"seed=42\" there and \"seed=43\" now");
    finish(p.path, &g);
    REFUSED(sink_hdf5.open(&s, p.path, &plan), "line 2 is \"seed=42\" there and \"seed=43\" now");
    assert_false(file_exists(p.journal));
    REFUSED(sink_pack(p.path, 10), "deflate is 10");
    hid_t f = H5Fopen(p.path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_int_equal(H5Adelete(f, "schema_version"), 0);
    assert_int_equal(schema_put_int(f, "schema_version", 7, H5T_STD_I32LE), 0);
    H5Fclose(f);
    REFUSED(results_open(&r, p.path), "schema version 7");
    REFUSED(sink_hdf5.open(&s, p.path, &g.plan), "schema version 7");
    OK(file_write_atomic(p.path, "hello", 5));
    REFUSED(results_open(&r, p.path), "not a readable HDF5 file");
    REFUSED(sink_hdf5.open(&s, p.path, &g.plan), "not a readable HDF5 file");
    assert_false(file_exists(p.journal));
    grid_free(&g);
    place_remove(&p);
}

static void merge_and_pack(void **state)
{
    (void)state;
    struct place a = place_make(), b = place_make(), c = place_make(), q = place_make();
    struct grid g, two;
    struct sink *s;
    grid_init(&g, 4, 6);
    grid_init(&two, 2, 6);
    finish(q.path, &g);
    finish(a.path, &two);
    OK(sink_hdf5.open(&s, b.path, &g.plan)); /* overlaps a by 4 units; stays a journal */
    OK(grid_put(&g, &sink_hdf5, s, 12, g.n));
    OK(sink_hdf5.close(s));
    const char *paths[] = {a.path, b.path};
    OK(sink_merge(paths, 2, c.path));
    check_logits(c.path, &g);
    struct results r;
    OK(results_open(&r, c.path));
    assert_int_equal(r.n_record, g.n);
    results_close(&r);
    REFUSED(sink_merge(paths, 2, c.path), "exists already");
    struct stat plain, small;
    OK(sink_pack(q.path, 0));
    assert_int_equal(stat(q.path, &plain), 0);
    OK(sink_pack(q.path, 6));
    assert_int_equal(stat(q.path, &small), 0);
    assert_true(small.st_size < plain.st_size);
    check_results(q.path, &g, g.n);
    check_logits(q.path, &g);
    OK(sink_pack(b.path, 1)); /* not complete: the journal stays */
    assert_true(file_exists(b.journal));
    grid_free(&g);
    grid_free(&two);
    place_remove(&a);
    place_remove(&b);
    place_remove(&c);
    place_remove(&q);
}

/* Bytes changed or cut anywhere in a journal: no crash, and every entry before the damage is still there. */
static void damage(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s;
    struct rng rng = {7};
    grid_init(&g, 2, 7);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, 6));
    OK(sink_hdf5.close(s));
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 6, 15));
    OK(sink_hdf5.close(s));
    char **names, *bytes;
    size_t n_bytes;
    int n;
    OK(journal_list(p.journal, &names, &n));
    assert_int_equal(n, 2);
    char *victim = file_join(p.journal, names[1]);
    OK(file_read(victim, &bytes, &n_bytes));
    assert_int_equal(unlink(p.path), 0);
    for (int round = 0; round < 300; round++) {
        size_t n_left = round % 3 == 0 ? rng_below(&rng, n_bytes) : n_bytes, at = rng_below(&rng, n_bytes);
        char *copy = mem_dup(bytes, n_bytes);
        if (round % 3)
            copy[at] = (char)(copy[at] + 1 + (char)rng_below(&rng, 200));
        OK(file_write_atomic(victim, copy, n_left));
        free(copy);
        struct results r;
        OK(results_open(&r, p.path));
        assert_true(r.n_record >= 6 && r.n_record <= 15);
        if (round % 3 && at > n_bytes - 100)
            assert_true(r.n_record >= 12); /* only the last entry can be hit */
        for (int64_t i = 0; i < r.n_record; i++)
            assert_string_equal(records_difference(grid_find(&g, r.record[i].unit_hi, r.record[i].unit_lo),
                                                   &r.record[i], false),
                                "");
        results_close(&r);
    }
    OK(file_write_atomic(victim, bytes, n_bytes - 3)); /* and a resume computes again what was lost */
    finish(p.path, &g);
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    free(bytes);
    free(victim);
    file_list_free(names, n);
    grid_free(&g);
    place_remove(&p);
}

/* Damaged logits cost the logits of their bundle, not its scores. */
static void damaged_logits(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s;
    grid_init(&g, 2, 8);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, g.n - 1));
    OK(sink_hdf5.close(s));
    char **names;
    int n;
    OK(journal_list(p.journal, &names, &n));
    char *big = mem_printf("%s/%s.big", p.journal, names[0]);
    int fd = open(big, O_RDWR);
    char byte;
    assert_int_equal(pread(fd, &byte, 1, 100), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 100), 1);
    close(fd);
    finish(p.path, &g);
    check_results(p.path, &g, g.n);
    struct h5file f;
    OK(h5file_open(&f, p.path));
    int without = 0;
    for (int64_t i = 0; i < f.n_row; i++) {
        const struct record *want = grid_find(&g, f.row[i].unit_hi, f.row[i].unit_lo);
        bool lost = (want->first && f.row[i].first_at < 0) || (want->topk_id && f.row[i].logit_at < 0);
        assert_true(!lost || want->bundle == 0);
        without += lost;
    }
    assert_in_range(without, 1, 3);
    h5file_close(&f);
    free(big);
    file_list_free(names, n);
    grid_free(&g);
    place_remove(&p);
}

/* A file system that takes no more: one clear error, then nothing is taken any more; what was acknowledged is
 * there. */
static void disk_full(void **state)
{
    (void)state;
    for (int limit = 4000; limit <= 40000; limit += 6000) {
        struct place p = place_make();
        struct grid g;
        int pipefd[2], status, acked = 0;
        grid_init(&g, 4, 9);
        assert_int_equal(pipe(pipefd), 0);
        pid_t pid = fork();
        if (pid == 0) {
            struct sink *s;
            struct rlimit lim = {(rlim_t)limit, (rlim_t)limit};
            int rc = sink_hdf5.open(&s, p.path, &g.plan);
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &lim);
            for (int i = 0; i < g.n && rc == 0; i += 3) {
                rc = grid_put(&g, &sink_hdf5, s, i, i + 3 < g.n ? i + 3 : g.n);
                if (rc == 0 && write(pipefd[1], &i, sizeof i) != sizeof i)
                    _exit(3);
            }
            if (rc == 0)
                rc = sink_hdf5.refresh(s, true, true); /* the rebuilt file itself may be too large */
            bool clear = rc == ERR_IO && strstr(err_text(), "File too large");
            bool sticks = sink_hdf5.put(s, g.record, 1) == ERR_IO;
            bool closes = sink_hdf5.close(s) == ERR_IO;
            if (!clear)
                fprintf(stderr, "rc %d: %s\n", rc, err_text());
            exit(clear && sticks && closes ? 0 : 1); /* exit: HDF5's own clean-up must survive it too */
        }
        close(pipefd[1]);
        for (int i; read(pipefd[0], &i, sizeof i) == sizeof i;)
            acked = i + 3;
        close(pipefd[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        struct results r;
        OK(results_open(&r, p.path));
        assert_true(r.n_record >= (acked < g.n ? acked : g.n));
        results_close(&r);
        char **names;
        int n;
        OK(file_list(p.dir, &names, &n));
        for (int i = 0; i < n; i++)
            assert_null(strstr(names[i], ".tmp."));
        file_list_free(names, n);
        finish(p.path, &g);
        check_logits(p.path, &g);
        grid_free(&g);
        place_remove(&p);
    }
}

static bool h5dump_reads(const char *path)
{
    char *command = mem_printf("h5dump -H '%s' > /dev/null 2>&1", path);
    int rc = system(command);
    free(command);
    if (WIFEXITED(rc) && WEXITSTATUS(rc) == 127) { /* no hdf5-tools here: the library's word */
        h5_quiet();
        hid_t f;
        rc = h5_open(&f, path);
        if (rc == 0)
            H5Fclose(f);
    }
    return rc == 0;
}

static void writer(const char *path, const struct grid *g, int ack)
{
    struct sink *s;
    if (sink_hdf5.open(&s, path, &g->plan) < 0) {
        fprintf(stderr, "%s\n", err_text());
        _exit(1);
    }
    for (int i = 0; i < g->n; i += 3) {
        int to = i + 3 < g->n ? i + 3 : g->n;
        if (grid_put(g, &sink_hdf5, s, i, to) < 0 || write(ack, &i, sizeof i) != sizeof i)
            _exit(2);
        if (i % 9 == 0 && sink_hdf5.refresh(s, true, i % 18 == 0) < 0)
            _exit(3);
        usleep(500);
    }
    _exit(sink_hdf5.close(s) < 0 ? 4 : 0);
}

/* kill -9 at random moments, then resume: the file always opens, nothing acknowledged is lost, the end equals
 * an undisturbed run. */
static void kills(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make();
    struct grid g;
    struct rng rng = {10};
    grid_init_wide(&g, 4, 10, 8);
    finish(q.path, &g);
    for (int done = 0, n_kill = 0, acked = 0; n_kill < 30;) { /* acked: units safe so far */
        int pipefd[2], status;
        assert_int_equal(pipe(pipefd), 0);
        pid_t pid = fork();
        if (pid == 0)
            writer(p.path, &g, pipefd[1]);
        close(pipefd[1]);
        usleep((useconds_t)(1000 + rng_below(&rng, 60000)));
        kill(pid, SIGKILL);
        for (int i; read(pipefd[0], &i, sizeof i) == sizeof i;)
            acked = i + 3 > acked ? i + 3 : acked;
        close(pipefd[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        n_kill += WIFSIGNALED(status);
        done = WIFEXITED(status);
        if (done)
            assert_int_equal(WEXITSTATUS(status), 0);
        if (file_exists(p.path))
            assert_true(h5dump_reads(p.path));
        struct results r;
        int rc = results_open(&r, p.path);
        if (acked)
            assert_int_equal(rc, 0);
        for (int i = 0; i < g.n && i < acked; i++) {
            int64_t k = 0;
            while (k < r.n_record && r.record[k].unit_hi != g.record[i].unit_hi)
                k++;
            if (k == r.n_record)
                fail_msg("unit %d of bundle %d was acknowledged and is lost (acked %d, %d records, file %d, "
                         "journal %d)",
                         i, (int)g.record[i].bundle, acked, (int)r.n_record, file_exists(p.path),
                         file_exists(p.journal));
            assert_string_equal(records_difference(&r.record[k], &g.record[i], false), "");
        }
        if (rc == 0)
            results_close(&r);
        if (done) { /* finished in spite of it: start again */
            assert_equal_files(p.path, q.path);
            unlink(p.path);
            acked = 0;
        }
    }
    finish(p.path, &g);
    check_logits(p.path, &g);
    assert_equal_files(p.path, q.path);
    char **names;
    int n;
    OK(file_list(p.dir, &names, &n));
    assert_int_equal(n, 1); /* no temporary files are left */
    file_list_free(names, n);
    assert_false(file_exists(p.journal));
    grid_free(&g);
    place_remove(&p);
    place_remove(&q);
}

/* A reader beside a running writer, to its end and past it: never an error once there is something, never
 * fewer units than before. */
static void watch(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        struct place p = place_make();
        struct grid g;
        int pipefd[2], status = 0;
        int64_t before = 0;
        bool began = false;
        grid_init_wide(&g, 4, 12, 4);
        assert_int_equal(pipe(pipefd), 0);
        pid_t pid = fork();
        if (pid == 0)
            writer(p.path, &g, pipefd[1]);
        while (waitpid(pid, &status, WNOHANG) == 0) {
            struct results r;
            int rc = results_open(&r, p.path);
            if (rc < 0 && began)
                fail_msg("%s", err_text());
            if (rc < 0)
                continue;
            began = true;
            assert_true(r.n_record >= before);
            before = r.n_record;
            results_close(&r);
        }
        close(pipefd[0]);
        close(pipefd[1]);
        assert_int_equal(status, 0);
        check_results(p.path, &g, g.n);
        grid_free(&g);
        place_remove(&p);
    }
}

int main(void)
{
    log_set_level(LOG_QUIET);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),  cmocka_unit_test(resume),         cmocka_unit_test(extend),
        cmocka_unit_test(differences), cmocka_unit_test(refusals),       cmocka_unit_test(merge_and_pack),
        cmocka_unit_test(damage),      cmocka_unit_test(damaged_logits), cmocka_unit_test(disk_full),
        cmocka_unit_test(watch),       cmocka_unit_test(kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
