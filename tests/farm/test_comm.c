/* Groups of ranks on CPUs, under mpirun: exchange and broadcast, a model read once, a rank that cannot
 * take part, and with the argument "silent" a rank that never comes. Every rank runs the same tests in the
 * same order. */
#include "../model_common.h"
#include "kernels/comm.h"
#include "model/model_int.h"

#include <mpi.h>
#include <unistd.h>

#define TINY "fixtures/tiny"

static int me, n_rank;

static struct comm *group(struct ops *o, int colour, double s_wait)
{
    struct comm *c;
    OK(comm_open(&c, o, colour, true, s_wait, (struct poll){0}));
    return c;
}

static struct ops *table(void)
{
    struct ops *o;
    OK(ops_open(&o, "ref", NULL));
    return o;
}

static void test_exchange(void **state)
{
    (void)state;
    struct ops *o = table();
    struct comm *c = group(o, 0, 30);
    int mine = 100 + me, all[64];
    assert_int_equal(c->n_rank, n_rank);
    assert_int_equal(c->rank, me);
    assert_string_equal(c->way, "host");
    for (int round = 0; round < 3; round++) {
        OK(c->exchange(c, &mine, all, sizeof mine));
        for (int i = 0; i < n_rank; i++)
            assert_int_equal(all[i], 100 + i);
    }
    comm_close(c);
    ops_close(o);
}

/* More than one piece, an odd number of bytes, from every root. */
static void test_broadcast(void **state)
{
    (void)state;
    struct ops *o = table();
    struct comm *c = group(o, 0, 30);
    size_t n = ((size_t)33 << 20) + 7;
    unsigned char *p = malloc(n);
    for (int root = 0; root < n_rank; root++) {
        for (size_t i = 0; i < n; i++)
            p[i] = me == root ? (unsigned char)(i * 31 + (size_t)root) : 0;
        OK(c->broadcast(c, p, n, root));
        for (size_t i = 0; i < n; i += 4099)
            assert_int_equal(p[i], (unsigned char)(i * 31 + (size_t)root));
        assert_int_equal(p[n - 1], (unsigned char)((n - 1) * 31 + (size_t)root));
    }
    free(p);
    comm_close(c);
    ops_close(o);
}

/* Colours make groups; one rank alone makes none. */
static void test_colours(void **state)
{
    (void)state;
    struct ops *o = table();
    struct comm *c = group(o, me < 2 ? 0 : -1, 30);
    assert_int_equal(c ? c->n_rank : 0, me < 2 ? 2 : 0);
    comm_close(c);
    c = group(o, me, 30);
    assert_null(c);
    ops_close(o);
}

static int open_tiny(struct model **m, struct ops *o, struct comm *c)
{
    struct model_file *f;
    struct model_options opt = {.dtype = DT_F32, .threads = 1, .comm = c};
    OK(model_file_open(&f, TINY));
    int rc = model_open(m, o, f, &opt);
    model_file_close(f);
    return rc;
}

/* What the bytes are does not depend on how they came. */
static void same_weights(struct model *a, struct model *b)
{
    assert_int_equal(a->load.bytes, b->load.bytes);
    for (int i = 0; i < a->load.n; i++)
        assert_memory_equal((char *)a->load.block + a->load.item[i].at,
                            (char *)b->load.block + b->load.item[i].at, a->load.item[i].bytes);
}

static void test_model(void **state)
{
    (void)state;
    struct ops *o = table();
    struct comm *c = group(o, 0, 30);
    struct model *own, *got;
    OK(open_tiny(&own, o, NULL));
    OK(open_tiny(&got, o, c));
    assert_true(c->met);
    assert_false(c->lost);
    same_weights(own, got);
    model_close(own);
    model_close(got);
    comm_close(c);
    ops_close(o);
}

/* One rank has no memory, or does not even find the file: the others read for themselves. */
static void test_decline(void **state)
{
    (void)state;
    struct ops *o = table();
    struct comm *c = group(o, 0, 30);
    struct model *own, *got = NULL;
    OK(open_tiny(&own, o, NULL));
    if (me == 1)
        ops_fail_alloc(o, 1);
    int rc = open_tiny(&got, o, c);
    assert_int_equal(rc, me == 1 ? ERR_NOMEM : 0);
    if (got)
        same_weights(own, got);
    model_close(got);
    if (me == 1)
        model_decline(c);
    else
        OK(open_tiny(&got, o, c));
    if (me != 1)
        same_weights(own, got);
    model_close(me == 1 ? NULL : got);
    model_close(own);
    comm_close(c);
    ops_close(o);
}

/* Rank 1 never comes: everyone else says so in time and marks the group. Ends the job. */
static int silent(void)
{
    struct ops *o;
    struct comm *c;
    int all[64], rc = ops_open(&o, "ref", NULL);
    rc = rc < 0 ? rc : comm_open(&c, o, 0, false, 2, (struct poll){0});
    if (rc == 0 && me == 1)
        sleep(60);
    double begin = MPI_Wtime();
    rc = rc < 0 ? rc : c->exchange(c, &me, all, sizeof me);
    printf("%s lost=%d in_time=%d\n", rc < 0 ? err_text() : "no error", rc == 0 ? -1 : c->lost,
           MPI_Wtime() - begin < 20);
    fflush(stdout);
    MPI_Abort(MPI_COMM_WORLD, 3);
    return 1;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exchange), cmocka_unit_test(test_broadcast), cmocka_unit_test(test_colours),
        cmocka_unit_test(test_model),    cmocka_unit_test(test_decline),
    };
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &n_rank);
    int bad = argc > 1 && !strcmp(argv[1], "silent") ? silent() : cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return bad;
}
