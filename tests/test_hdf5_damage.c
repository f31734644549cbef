/* Results files under damage: bytes changed, a full disk, kills at any moment, readers beside a writer. */
#include "results_check.h"

/* Bytes changed or cut anywhere in a journal: no crash, a changed byte costs at most the entry that it hits.
 */
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
        if (round % 3)
            assert_true(r.n_record >= 12); /* three units to an entry */
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
    char *aside = mem_printf("%s.damaged", p.journal);
    assert_false(file_is_dir(aside)); /* a cut end is no damage */
    free(aside);
    free(bytes);
    free(victim);
    file_list_free(names, n);
    grid_free(&g);
    place_remove(&p);
}

static int count_entry(void *ctx, const struct journal_head *h, const void *payload, uint64_t at)
{
    (void)payload;
    (void)at;
    *(int *)ctx += h->kind == JOURNAL_RECORDS;
    return 0;
}

/* A cut end is what a kill leaves; a changed byte before whole entries, or in the last one, is damage. The
 * plan is there twice. */
static void told_damage(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s;
    char **names, *bytes;
    size_t n_bytes;
    int n;
    grid_init(&g, 2, 7);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, 12));
    OK(sink_hdf5.close(s));
    OK(journal_list(p.journal, &names, &n));
    char *victim = file_join(p.journal, names[0]);
    OK(file_read(victim, &bytes, &n_bytes));
    uint64_t second = 0; /* entry of records: where it begins */
    for (int i = 0; i < 3; i++) {
        struct journal_head h;
        memcpy(&h, bytes + second, sizeof h);
        second += sizeof h + h.n_small;
    }
    const struct {
        size_t left, change;
        bool damaged;
        int n_read;
    } try[] = {{n_bytes, 0, false, 4},          {n_bytes - 3, 0, false, 3},
               {n_bytes, second + 60, true, 3}, /* payload */
               {n_bytes, second + 1, true, 3},  /* magic */
               {n_bytes, second + 9, true, 3},  /* length: too long for the file, but whole entries follow */
               {n_bytes, second + 14, true, 3}, {n_bytes, n_bytes - 1, true, 3},
               {second + 10, 0, false, 1},      {n_bytes, 70, true, 4}}; /* the first plan */
    for (size_t i = 0; i < sizeof try / sizeof *try; i++) {
        char *copy = mem_dup(bytes, n_bytes);
        copy[try[i].change] ^= try[i].change ? 0x55 : 0;
        OK(file_write_atomic(victim, copy, try[i].left));
        free(copy);
        struct journal_rest rest;
        int n_read = 0, fd = open(victim, O_RDONLY);
        OK(journal_scan(fd, victim, count_entry, &n_read, &rest));
        close(fd);
        assert_int_equal(n_read, try[i].n_read);
        assert_int_equal(rest.damaged, try[i].damaged);
        assert_true(rest.at + rest.bytes <= try[i].left);
        assert_int_equal(rest.bytes > 0, try[i].damaged || try[i].left < n_bytes);
    }
    bytes[70] ^= 1; /* a run with a damaged plan goes on, and keeps that journal */
    OK(file_write_atomic(victim, bytes, n_bytes));
    assert_int_equal(unlink(p.path), 0);
    finish(p.path, &g);
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    char *aside = mem_printf("%s.damaged", p.journal);
    assert_true(file_is_dir(aside));
    assert_false(file_exists(p.journal));
    free(aside);
    free(bytes);
    free(victim);
    file_list_free(names, n);
    grid_free(&g);
    place_remove(&p);
}

/* Units whose logits are damaged in the journal, or gone with it, are not done for a run: they are computed
 * again, while their scores can be read. The journal stays beside the file. */
static void damaged_logits(void **state)
{
    (void)state;
    for (int cut = 0; cut < 3; cut++) {
        struct place p = place_make();
        struct grid g;
        struct sink *s;
        struct results r;
        grid_init(&g, 2, 8);
        OK(sink_hdf5.open(&s, p.path, &g.plan));
        OK(grid_put(&g, &sink_hdf5, s, 0, g.n - 1));
        OK(sink_hdf5.close(s));
        char **names;
        int n, has = 0;
        OK(journal_list(p.journal, &names, &n));
        char *big = mem_printf("%s/%s.big", p.journal, names[0]);
        int fd = open(big, O_RDWR);
        char byte;
        assert_int_equal(pread(fd, &byte, 1, 100), 1);
        byte ^= 1;
        if (cut == 0)
            assert_int_equal(pwrite(fd, &byte, 1, 100), 1);
        else if (cut == 1)
            assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_END) - 1), 0);
        else
            assert_int_equal(unlink(big), 0);
        close(fd);
        OK(results_open(&r, p.path));
        assert_int_equal(r.n_record, g.n - 1);
        results_close(&r);
        OK(sink_hdf5.open(&s, p.path, &g.plan));
        for (int i = 0; i < g.n - 1; i++)
            has += sink_hdf5.has(s, g.record[i].unit_hi, g.record[i].unit_lo);
        if (cut < 2)
            assert_in_range(has, g.n - 4, g.n - 2);
        else
            assert_true(has < g.n / 2);
        OK(sink_hdf5.close(s));
        finish(p.path, &g);
        check_results(p.path, &g, g.n);
        check_logits(p.path, &g);
        char *aside = mem_printf("%s.damaged", p.journal);
        assert_true(file_is_dir(aside));
        free(aside);
        free(big);
        file_list_free(names, n);
        grid_free(&g);
        place_remove(&p);
    }
}

/* Logits that go while the run has their journal open: the end says so instead of "complete". */
static void logits_lost_under_way(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s;
    grid_init(&g, 2, 12);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, g.n));
    char **names;
    int n;
    OK(journal_list(p.journal, &names, &n));
    char *big = mem_printf("%s/%s.big", p.journal, names[0]);
    assert_int_equal(truncate(big, 200), 0);
    assert_int_equal(sink_hdf5.close(s), ERR_AGAIN);
    assert_non_null(strstr(err_text(), "computes them again"));
    finish(p.path, &g);
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    free(big);
    file_list_free(names, n);
    grid_free(&g);
    place_remove(&p);
}

/* In a process of its own: units until no more fit into `limit` bytes, the number of each group that was
 * taken into `out`. Returns the status: 0 if the error says so, stays, and closing does no harm. */
static int write_until_full(const struct place *p, const struct grid *g, int limit, int out)
{
    struct sink *s;
    const struct rlimit lim = {(rlim_t)limit, (rlim_t)limit};
    int rc = sink_hdf5.open(&s, p->path, &g->plan);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &lim);
    for (int i = 0; i < g->n && rc == 0; i += 3) {
        rc = grid_put(g, &sink_hdf5, s, i, i + 3 < g->n ? i + 3 : g->n);
        if (rc == 0 && write(out, &i, sizeof i) != sizeof i)
            _exit(3);
    }
    if (rc == 0)
        rc = sink_hdf5.refresh(s, true, true); /* the rebuilt file itself may be too large */
    bool clear = rc == ERR_AGAIN && strstr(err_text(), "File too large");
    bool sticks = sink_put_records(&sink_hdf5, s, g->record, 1) == ERR_AGAIN;
    bool closes = sink_hdf5.close(s) == ERR_AGAIN;
    if (!clear)
        fprintf(stderr, "rc %d: %s\n", rc, err_text());
    return clear && sticks && closes ? 0 : 1;
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
            int rc = write_until_full(&p, &g, limit, pipefd[1]);
            grid_free(&g); /* checkers of memory look at the end of this process too */
            exit(rc);      /* exit: HDF5's own clean-up must survive it too */
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
        cmocka_unit_test(damage),         cmocka_unit_test(told_damage),
        cmocka_unit_test(damaged_logits), cmocka_unit_test(logits_lost_under_way),
        cmocka_unit_test(disk_full),      cmocka_unit_test(watch),
        cmocka_unit_test(kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
