/* Shared weights: one segment for several processes, and nothing left behind whatever kills them. Children
 * are forked before this process starts any thread. */
#include "model/model_int.h"
#include "model_common.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES 300001

static uint64_t fresh_key(void)
{
    static int n;
    char text[64];
    snprintf(text, sizeof text, "test %d %d", (int)getpid(), n++);
    return share_key(text, strlen(text));
}

static char *path_of(uint64_t key)
{
    return mem_printf("/dev/shm/kvsweep-%lu-%016lx", (unsigned long)geteuid(), (unsigned long)key);
}

static bool is_there(uint64_t key)
{
    char *p = path_of(key);
    bool yes = file_exists(p);
    free(p);
    return yes;
}

static bool is_filled(struct share *s)
{
    const unsigned char *p = share_data(s);
    for (size_t i = 0; i < BYTES; i++)
        if (p[i] != (unsigned char)(i * 7 + 1))
            return false;
    return true;
}

static void fill(struct share *s)
{
    unsigned char *p = share_data(s);
    for (size_t i = 0; i < BYTES; i++)
        p[i] = (unsigned char)(i * 7 + 1);
}

/* A child that opens the segment, says so through the pipe, and waits to be killed. */
struct child {
    pid_t pid;
    int pipe;
};
static struct child start(uint64_t key, bool publish)
{
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    struct child c = {fork(), fd[0]};
    if (c.pid == 0) {
        struct share *s;
        bool creator;
        if (share_open(&s, key, BYTES, NULL, &creator) < 0 || !s)
            _exit(2);
        if (creator && publish) {
            fill(s);
            if (share_publish(s) < 0)
                _exit(3);
        }
        if (write(fd[1], creator ? "c" : "u", 1) != 1)
            _exit(4);
        for (;;)
            pause();
    }
    close(fd[1]);
    return c;
}

static char role(const struct child *c)
{
    char r = 0;
    assert_int_equal(read(c->pipe, &r, 1), 1);
    return r;
}

static void end(struct child *c)
{
    int status;
    kill(c->pid, SIGKILL);
    waitpid(c->pid, &status, 0);
    close(c->pipe);
}

static void test_two_processes(void **state)
{
    (void)state;
    uint64_t key = fresh_key();
    struct child c = start(key, true);
    struct share *s, *again;
    bool creator;
    assert_int_equal(role(&c), 'c');
    OK(share_open(&s, key, BYTES, NULL, &creator));
    assert_non_null(s);
    assert_false(creator);
    assert_true(is_filled(s));
    end(&c); /* kill -9 of the creator: the bytes stay as long as somebody uses them */
    share_clean();
    assert_true(is_filled(s));
    OK(share_open(&again, key, BYTES, NULL, &creator));
    assert_false(creator);
    assert_true(is_filled(again));
    share_close(again);
    assert_true(is_there(key));
    share_close(s);
    assert_false(is_there(key));
}

/* Users may not write. */
static void test_read_only(void **state)
{
    (void)state;
    uint64_t key = fresh_key();
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        struct share *s;
        bool creator;
        signal(SIGSEGV, SIG_DFL);
        if (share_open(&s, key, BYTES, NULL, &creator) < 0 || !s || !creator ||
            (fill(s), share_publish(s)) < 0)
            _exit(1);
        *(volatile char *)share_data(s) = 0;
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) > 1); /* ASan turns the signal into an exit */
    share_clean();
    assert_false(is_there(key));
}

/* The creator dies before it is done: a waiting process takes over. */
static void test_creator_killed(void **state)
{
    (void)state;
    uint64_t key = fresh_key();
    struct child a = start(key, false);
    assert_int_equal(role(&a), 'c');
    struct child b = start(key, true);
    usleep(100000); /* b waits now; it would be a creator after the kill in any case */
    end(&a);
    assert_int_equal(role(&b), 'c');
    struct share *s;
    bool creator;
    OK(share_open(&s, key, BYTES, NULL, &creator));
    assert_false(creator);
    assert_true(is_filled(s));
    end(&b);
    share_close(s);
    assert_false(is_there(key));
}

/* All users are killed: the next start, of whatever model, removes what they left. */
static void test_stale(void **state)
{
    (void)state;
    uint64_t key[3] = {fresh_key(), fresh_key(), fresh_key()};
    for (int i = 0; i < 2; i++) {
        struct child c = start(key[i], i == 0);
        role(&c);
        end(&c);
        assert_true(is_there(key[i]));
    }
    struct share *s;
    bool creator;
    OK(share_open(&s, key[2], BYTES, NULL, &creator));
    assert_true(creator);
    assert_false(is_there(key[0]));
    assert_false(is_there(key[1]));
    share_close(s); /* never published: gone at once */
    assert_false(is_there(key[2]));
}

/* Many come and go: every one sees complete bytes, and the last one leaves nothing. */
static void test_crowd(void **state)
{
    (void)state;
    uint64_t key = fresh_key();
    pid_t pid[6];
    for (int i = 0; i < 6; i++) {
        pid[i] = fork();
        if (pid[i] != 0)
            continue;
        for (int k = 0; k < 60; k++) {
            struct share *s;
            bool creator;
            if (share_open(&s, key, BYTES, NULL, &creator) < 0 || !s)
                _exit(1);
            if (creator) {
                fill(s);
                if (share_publish(s) < 0)
                    _exit(2);
            }
            if (!is_filled(s))
                _exit(3);
            share_close(s);
        }
        _exit(0);
    }
    for (int i = 0; i < 6; i++) {
        int status;
        waitpid(pid[i], &status, 0);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    assert_false(is_there(key));
}

static void test_no_room(void **state)
{
    (void)state;
    uint64_t key = fresh_key();
    struct share *s;
    bool creator;
    OK(share_open(&s, key, (size_t)1 << 46, NULL, &creator));
    assert_null(s);
    assert_false(is_there(key));
}

/* A segment of this name with other content is not trusted. */
static void test_foreign_content(void **state)
{
    (void)state;
    uint64_t key = fresh_key();
    char *p = path_of(key);
    FILE *f = fopen(p, "w");
    assert_non_null(f);
    for (int i = 0; i < BYTES + 4096; i++)
        fputc('x', f);
    fclose(f);
    struct share *s;
    bool creator;
    OK(share_open(&s, key, BYTES, NULL, &creator));
    assert_true(creator);
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(((char *)share_data(s))[i], 0);
    share_close(s);
    free(p);
}

/* Logits of a model whose weights another process packed are those of private weights, bit for bit. */
static void test_model(void **state)
{
    (void)state;
    static const char dir[] = "fixtures/model/gqa";
    int fd[2];
    struct rig r;
    struct expected e;
    struct seq s;
    expected_read(&e, dir);
    size_t bytes = (size_t)(e.n_prompt * e.n_vocab) * sizeof(float);
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    if (pid == 0) {
        rig_open(&r, dir, "auto", DT_BF16, true);
        if (write(fd[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char x;
    close(fd[1]); /* so that a child that dies does not keep us waiting */
    assert_int_equal(read(fd[0], &x, 1), 1);
    float *out[2];
    for (int k = 0; k < 2; k++) {
        rig_open(&r, dir, "auto", DT_BF16, k == 0);
        assert_int_equal(k == 0, r.m->load.share != NULL);
        OK(seq_open(&s, r.m, &r.shape, &r.full, e.n_prompt, e.n_prompt));
        out[k] = mem_dup(step(&r, &s, e.ids, e.n_prompt, LOGITS_ALL), bytes);
        seq_close(&s);
        if (k == 0) {
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
            assert_true(file_exists(share_path(r.m->load.share)));
            char *path = mem_strdup(share_path(r.m->load.share));
            rig_close(&r);
            assert_false(file_exists(path));
            free(path);
        } else {
            rig_close(&r);
        }
    }
    assert_memory_equal(out[0], out[1], bytes);
    free(out[0]);
    free(out[1]);
    free(e.raw);
    close(fd[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_processes),   cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_creator_killed),  cmocka_unit_test(test_stale),
        cmocka_unit_test(test_crowd),           cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_foreign_content), cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
