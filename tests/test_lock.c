/* The lock of a results file: who lives keeps it, who is lost loses it, and who comes back replaces nothing.
 * Holders on other machines are played by processes that hold flock() and write another kernel's id. */
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "hdf5io/journal.h"
#include "hdf5io/lock.h"
#include "hdf5io/read.h"
#include "results_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void put_line(int fd, int beat)
{
    char line[256];
    memset(line, ' ', sizeof line);
    int n = snprintf(
        line, sizeof line,
        "process 77 on elsewhere boot 00000000-0000-0000-0000-000000000000 id 00000000000000ab beat %d",
        beat);
    line[n] = ' ';
    line[255] = '\n';
    assert_int_equal(pwrite(fd, line, sizeof line, 0), (int)sizeof line);
}

/* Writes such a line; where `held` a process holds flock() and where `beats` it counts up. Returns that
 * process. */
static pid_t elsewhere(const char *dir, bool held, bool beats)
{
    char *path = file_join(dir, "lock");
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    OK(file_mkdirs(dir));
    pid_t pid = fork();
    if (pid == 0) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0 || (held && flock(fd, LOCK_EX) != 0))
            _exit(1);
        put_line(fd, 1);
        (void)!write(ready[1], "x", 1);
        int i = 2;
        while (held || beats) {
            usleep(100000);
            if (beats)
                put_line(fd, i++);
        }
        _exit(0);
    }
    char x;
    assert_int_equal(read(ready[0], &x, 1), 1);
    close(ready[0]);
    close(ready[1]);
    free(path);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_plain(void **state)
{
    (void)state;
    struct place p = place_make();
    struct lock *l, *other = NULL;
    OK(lock_take(&l, p.journal, 5, NULL));
    assert_true(lock_is_held(p.journal));
    double t0 = clock_now();
    assert_int_equal(lock_take(&other, p.journal, 5, NULL), ERR_AGAIN);
    assert_non_null(strstr(err_text(), "another run is writing these results (process "));
    assert_true(clock_now() - t0 < 3); /* the kernel knows that it lives: no waiting */
    OK(lock_check(l));
    lock_drop(l);
    assert_false(lock_is_held(p.journal));
    OK(lock_take(&l, p.journal, 5, NULL));
    lock_drop(l);
    place_remove(&p);
}

/* What was put there to be overwritten is left alone. */
static void test_planted(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make();
    struct lock *l;
    OK(file_write_atomic(q.path, "precious", 8));
    OK(file_mkdirs(p.journal));
    char *path = file_join(p.journal, "lock"), *text;
    size_t n;
    assert_int_equal(symlink(q.path, path), 0);
    assert_int_equal(lock_take(&l, p.journal, 1, NULL), ERR_INPUT);
    assert_non_null(strstr(err_text(), "symbolic link"));
    assert_false(lock_is_held(p.journal));
    OK(file_read(q.path, &text, &n));
    assert_string_equal(text, "precious");
    free(text);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(lock_take(&l, p.journal, 1, NULL), ERR_INPUT);
    unlink(path);
    rmdir(p.journal);
    OK(file_mkdirs(q.journal));
    assert_int_equal(symlink(q.journal, p.journal), 0);
    assert_int_equal(lock_take(&l, p.journal, 1, NULL), ERR_INPUT);
    unlink(p.journal);
    free(path);
    place_remove(&p);
    place_remove(&q);
}

static int count(void *ctx)
{
    ++*(int *)ctx;
    return 0;
}

static int stop(void *ctx)
{
    (void)ctx;
    return 1;
}

static void test_elsewhere(void **state)
{
    (void)state;
    for (int held = 0; held < 2; held++) {
        struct place p = place_make();
        struct lock *l;
        int polls = 0;
        struct poll poll = {count, &polls}, no = {stop, NULL};
        pid_t pid = elsewhere(p.journal, held, true);
        assert_int_equal(lock_take(&l, p.journal, 30, &poll), ERR_AGAIN); /* it lives */
        assert_non_null(strstr(err_text(), "process 77 on elsewhere"));
        end(pid);
        pid = elsewhere(p.journal, held, false);
        assert_int_equal(lock_take(&l, p.journal, 30, &no), ERR_INTERNAL); /* told to give up */
        if (held)
            assert_int_equal(lock_take(&l, p.journal, 0, NULL), ERR_AGAIN); /* not without waiting */
        double t0 = clock_now();
        polls = 0;
        OK(lock_take(&l, p.journal, 1.5, &poll)); /* it is lost */
        assert_true(clock_now() - t0 >= 1.4 && polls >= 3);
        OK(lock_check(l));
        lock_drop(l);
        end(pid);
        place_remove(&p);
    }
}

/* Of several that wait for a lost one, one gets the lock. */
static void test_crowd(void **state)
{
    (void)state;
    enum { N = 6 };
    struct place p = place_make();
    pid_t lost = elsewhere(p.journal, true, false), pid[N];
    int n_have = 0;
    for (int i = 0; i < N; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            struct lock *l;
            int rc = lock_take(&l, p.journal, 1, NULL);
            sleep(rc == 0 ? 3 : 0);
            _exit(rc == 0 && lock_check(l) == 0 ? 0 : rc == ERR_AGAIN ? 75 : 1);
        }
    }
    for (int i = 0; i < N; i++) {
        int status;
        waitpid(pid[i], &status, 0);
        assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 75));
        n_have += WEXITSTATUS(status) == 0;
    }
    assert_int_equal(n_have, 1);
    end(lost);
    place_remove(&p);
}

/* A run that lost its lock neither adds to the journal nor replaces the file nor removes its successor's
 * journal. */
static void test_ghost(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s;
    struct results r;
    grid_init(&g, 2, 5);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, 6));
    OK(sink_hdf5.refresh(s, true, false));
    struct stat before, after;
    assert_int_equal(stat(p.path, &before), 0);
    char *path = file_join(p.journal, "lock"), *fresh = file_join(p.journal, "lock.new");
    int fd = open(fresh, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    put_line(fd, 1);
    close(fd);
    assert_int_equal(rename(fresh, path), 0); /* as one that takes over does */
    assert_int_equal(sink_put_records(&sink_hdf5, s, &g.record[6], g.n - 6), ERR_AGAIN);
    assert_non_null(strstr(err_text(), "lost its lock"));
    assert_int_equal(sink_hdf5.close(s), ERR_AGAIN);
    assert_int_equal(stat(p.path, &after), 0);
    assert_true(before.st_ino == after.st_ino);
    assert_true(file_exists(path));
    OK(results_open(&r, p.path));
    assert_int_equal(r.n_record, 6);
    results_close(&r);
    free(path);
    free(fresh);
    grid_free(&g);
    place_remove(&p);
}

/* One that packs beside a run must not replace the file that the run left at its end. */
static void test_follow(void **state)
{
    (void)state;
    struct place p = place_make();
    struct lock *l, *seen;
    OK(lock_take(&l, p.journal, 5, NULL));
    lock_follow(&seen, p.journal);
    OK(lock_check(seen));
    lock_drop(l);
    assert_int_equal(lock_check(seen), ERR_AGAIN);
    lock_drop(seen);
    OK(lock_take(&l, p.journal, 5, NULL));
    lock_follow(&seen, p.journal);
    OK(journal_remove(p.journal));
    assert_int_equal(lock_check(seen), ERR_AGAIN);
    lock_drop(seen);
    lock_drop(l);
    place_remove(&p);
}

/* Links where temporary files and folders of an earlier run would lie. */
static void test_temporary(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make();
    struct grid g;
    char *done = mem_printf("%s.done", p.journal), *inside = file_join(q.journal, "precious"),
         *tmp = mem_printf("%s.tmp.%d", p.path, (int)getpid());
    OK(file_mkdirs(q.journal));
    OK(file_write_atomic(inside, "precious", 8));
    assert_int_equal(symlink(q.journal, done), 0);
    assert_int_equal(symlink(inside, tmp), 0);
    grid_init(&g, 2, 5);
    struct sink *s;
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, g.n));
    OK(sink_hdf5.close(s));
    assert_false(file_exists(p.journal));
    char *text;
    size_t n;
    OK(file_read(inside, &text, &n));
    assert_string_equal(text, "precious");
    free(text);
    unlink(done);
    unlink(tmp);
    free(done);
    free(inside);
    free(tmp);
    grid_free(&g);
    place_remove(&p);
    place_remove(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),     cmocka_unit_test(test_planted), cmocka_unit_test(test_elsewhere),
        cmocka_unit_test(test_crowd),     cmocka_unit_test(test_follow),  cmocka_unit_test(test_ghost),
        cmocka_unit_test(test_temporary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
