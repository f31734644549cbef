/* Results files that others touch: what a user adds survives every rebuild, a file that is open for writing
 * is said to be, a changed bit is never a result. */
#include "results_check.h"

#include "base/str.h"
#include "hdf5io/seal.h"

static hid_t open_rw(const char *path)
{
    hid_t f = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_true(f >= 0);
    return f;
}

static void put_numbers(hid_t where, const char *name, int first)
{
    hsize_t n = 3;
    int v[3] = {first, first + 1, first + 2};
    hid_t space = H5Screate_simple(1, &n, NULL);
    hid_t d = H5Dcreate2(where, name, H5T_NATIVE_INT, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Dwrite(d, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, v) >= 0);
    H5Dclose(d);
    H5Sclose(space);
}

static void put_note(hid_t file, const char *object, const char *name, const char *value)
{
    hid_t o = H5Oopen(file, object, H5P_DEFAULT);
    assert_int_equal(schema_put_text(o, name, value), 0);
    H5Oclose(o);
}

/* An attribute that refers to another object: it would lead nowhere in the next file. */
static void put_reference(hid_t file, const char *object, const char *name)
{
    hobj_ref_t ref;
    assert_true(H5Rcreate(&ref, file, "tokens", H5R_OBJECT, -1) >= 0);
    hid_t o = H5Oopen(file, object, H5P_DEFAULT), space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(o, name, H5T_STD_REF_OBJ, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Awrite(a, H5T_STD_REF_OBJ, &ref) >= 0);
    H5Aclose(a);
    H5Sclose(space);
    H5Oclose(o);
}

static void see_numbers(hid_t file, const char *name, int first)
{
    int v[3] = {0};
    hid_t d = H5Dopen2(file, name, H5P_DEFAULT);
    if (d < 0)
        fail_msg("%s is gone", name);
    assert_true(H5Dread(d, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, v) >= 0);
    assert_int_equal(v[0] * 100 + v[2], first * 100 + first + 2);
    H5Dclose(d);
}

static void see_note(hid_t file, const char *object, const char *name, const char *value)
{
    struct book b = {0};
    const char *text;
    hid_t o = H5Oopen(file, object, H5P_DEFAULT);
    OK(h5_get_text(o, name, &b, &text, object));
    assert_string_equal(text, value);
    H5Oclose(o);
    book_free(&b);
}

/* The first model's group below /logits. */
static char *logits_group(hid_t file)
{
    char name[100] = "";
    hid_t all = H5Gopen2(file, "logits", H5P_DEFAULT);
    assert_true(H5Lget_name_by_idx(all, ".", H5_INDEX_NAME, H5_ITER_INC, 0, name, sizeof name, H5P_DEFAULT) >
                0);
    H5Gclose(all);
    return mem_printf("logits/%s", name);
}

static void add_all(const char *path)
{
    hid_t f = open_rw(path);
    char *group = logits_group(f), *inside = mem_printf("%s/mine", group),
         *first = mem_printf("%s/first", group);
    put_numbers(f, "my_notes", 1);
    hid_t g = H5Gcreate2(f, "analysis", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    put_numbers(g, "deep", 4);
    H5Gclose(g);
    put_numbers(f, inside, 7);
    put_note(f, "/", "note", "mine");
    put_note(f, "records", "remark", "seen");
    put_note(f, "analysis", "by", "me");
    put_reference(f, "records", "leads");
    put_note(f, group, "colour", "blue");
    put_note(f, first, "remark", "large");
    assert_true(H5Lcreate_soft("/records", f, "soft", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_hard(f, "records", f, "hard", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_hard(f, "my_notes", f, "same_notes", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_external("other.h5", "/x", f, "outside", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Fclose(f) >= 0);
    free(group);
    free(inside);
    free(first);
}

static void see_all(const char *path, int64_t n_record)
{
    hid_t f;
    hsize_t n = 0;
    OK(h5_open(&f, path));
    char *group = logits_group(f), *inside = mem_printf("%s/mine", group),
         *first = mem_printf("%s/first", group);
    see_numbers(f, "my_notes", 1);
    see_numbers(f, "same_notes", 1);
    see_numbers(f, "analysis/deep", 4);
    see_numbers(f, inside, 7);
    see_note(f, "/", "note", "mine");
    see_note(f, "records", "remark", "seen");
    see_note(f, "analysis", "by", "me");
    assert_int_equal(H5Aexists_by_name(f, "records", "leads", H5P_DEFAULT), 0);
    see_note(f, group, "colour", "blue");
    if (H5Lexists(f, first, H5P_DEFAULT) > 0) /* not while a run goes on */
        see_note(f, first, "remark", "large");
    const char *const name[] = {"soft", "hard"};
    for (int i = 0; i < 2; i++) { /* names of our table, not copies of the old one */
        hid_t d = H5Dopen2(f, name[i], H5P_DEFAULT), space = H5Dget_space(d);
        assert_int_equal(H5Sget_simple_extent_dims(space, &n, NULL), 1);
        assert_int_equal((int64_t)n, n_record);
        H5Sclose(space);
        H5Dclose(d);
    }
    assert_true(H5Lexists(f, "outside", H5P_DEFAULT) > 0);
    H5Fclose(f);
    free(group);
    free(inside);
    free(first);
}

/* Through an extension of the file with its rebuilds on the way and at the end, a pack and a merge. */
static void users_objects(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid one, two;
    struct sink *s;
    grid_init(&one, 1, 21);
    finish(p.path, &one);
    add_all(p.path);
    grid_init(&two, 2, 21);
    OK(sink_hdf5.open(&s, p.path, &two.plan));
    OK(grid_put(&two, &sink_hdf5, s, 0, 6));
    OK(sink_hdf5.refresh(s, true, false));
    struct results r;
    OK(results_open(&r, p.path));
    int64_t n = r.n_record;
    results_close(&r);
    see_all(p.path, n);
    OK(sink_hdf5.close(s));
    finish(p.path, &two);
    check_results(p.path, &two, two.n);
    check_logits(p.path, &two);
    see_all(p.path, two.n);
    OK(sink_pack(p.path, 1));
    see_all(p.path, two.n);
    char *merged = file_join(p.dir, "merged.h5");
    const char *const from[] = {p.path};
    OK(sink_merge(from, 1, merged, false));
    see_all(merged, two.n);
    assert_equal_files(p.path, merged);
    free(merged);
    grid_free(&one);
    grid_free(&two);
    place_remove(&p);
}

/* A program that died while it had the file open, or has it open, is named with the remedy. */
static void left_open(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g, two;
    struct results r;
    struct sink *s;
    int status;
    grid_init(&g, 1, 22);
    grid_init(&two, 2, 22);
    finish(p.path, &g);
    pid_t pid = fork();
    if (pid == 0) {
        hid_t f = H5Fopen(p.path, H5F_ACC_RDWR, H5P_DEFAULT);
        put_numbers(f, "half", 1);
        H5Fflush(f, H5F_SCOPE_GLOBAL);
        _exit(f < 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    char *want =
        mem_printf("%s: another program has it open for writing, or died while it had (then: h5clear -s %s)",
                   p.path, p.path);
    assert_int_equal(results_open(&r, p.path), ERR_INPUT);
    assert_string_equal(err_text(), want);
    assert_int_equal(sink_hdf5.open(&s, p.path, &two.plan), ERR_INPUT);
    assert_string_equal(err_text(), want);
    assert_true(results_at(p.path));
    free(want);
    char *command = mem_printf("h5clear -s '%s' > /dev/null 2>&1", p.path);
    int rc = system(command);
    free(command);
    if (rc == 0) { /* hdf5-tools are here */
        check_results(p.path, &g, g.n);
        finish(p.path, &two);
        check_results(p.path, &two, two.n);
    }
    grid_free(&g);
    grid_free(&two);
    place_remove(&p);
}

/* Opened for writing in the middle of a run: rebuilds wait, nothing is lost, the end says what to do. */
static void open_under_way(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s;
    grid_init(&g, 2, 23);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, 6));
    OK(sink_hdf5.refresh(s, true, false));
    int ready[2], go[2], status;
    char c = 0;
    assert_int_equal(pipe(ready) | pipe(go), 0);
    pid_t pid = fork();
    if (pid == 0) { /* a notebook */
        hid_t f = open_rw(p.path);
        put_numbers(f, "my_notes", 5);
        H5Fflush(f, H5F_SCOPE_GLOBAL);
        bool ok = write(ready[1], &c, 1) == 1 && read(go[0], &c, 1) == 1 && H5Fclose(f) >= 0;
        _exit(!ok);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    OK(grid_put(&g, &sink_hdf5, s, 6, g.n));
    OK(sink_hdf5.refresh(s, true, false));
    assert_int_equal(sink_hdf5.close(s), ERR_AGAIN);
    assert_non_null(strstr(err_text(), "another program has it open for writing"));
    assert_int_equal(write(go[1], &c, 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    for (int i = 0; i < 2; i++) {
        close(ready[i]);
        close(go[i]);
    }
    finish(p.path, &g);
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    hid_t f;
    OK(h5_open(&f, p.path));
    see_numbers(f, "my_notes", 5);
    H5Fclose(f);
    grid_free(&g);
    place_remove(&p);
}

/* A damaged file beside a journal that holds all of it is set aside; alone it is refused. */
static void damaged_file(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct sink *s;
    struct results r;
    char *bytes, *aside = mem_printf("%s.damaged", p.path);
    size_t n;
    grid_init(&g, 2, 24);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(grid_put(&g, &sink_hdf5, s, 0, 9));
    OK(sink_hdf5.close(s));
    OK(file_read(p.path, &bytes, &n));
    bytes[n / 2] ^= 4;
    OK(file_write_atomic(p.path, bytes, n));
    OK(results_open(&r, p.path));
    assert_int_equal(r.n_record, 9);
    results_close(&r);
    finish(p.path, &g);
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    assert_true(file_exists(aside));
    free(bytes);
    OK(file_read(p.path, &bytes, &n));
    bytes[n / 2] ^= 4;
    OK(file_write_atomic(p.path, bytes, n));
    assert_int_equal(results_open(&r, p.path), ERR_DAMAGED);
    assert_int_equal(sink_hdf5.open(&s, p.path, &g.plan), ERR_DAMAGED);
    assert_non_null(strstr(err_text(), p.path));
    free(bytes);
    free(aside);
    grid_free(&g);
    place_remove(&p);
}

enum seen { SEEN_ERROR, SEEN_EQUAL, SEEN_OTHER };

/* What a reader makes of a file beside the one it is a copy of. */
static enum seen compare(const char *want, const char *got)
{
    struct str difference = {0};
    struct results a, b;
    if (equal_files(want, got, &difference) < 0 || results_open(&b, got) < 0)
        return SEEN_ERROR;
    if (difference.n || results_open(&a, want) < 0 || strcmp(a.config_yaml, b.config_yaml) ||
        strcmp(a.created, b.created) || strcmp(a.host, b.host) || strcmp(a.libraries, b.libraries) ||
        a.n_ranks != b.n_ranks || a.threads != b.threads || a.n_unit != b.n_unit || a.n_timing != b.n_timing)
        return SEEN_OTHER;
    return SEEN_EQUAL;
}

/* One bit changed anywhere: an error, or the same content. In a process of its own, as HDF5 may crash where
 * the seal is gone. */
static void changed_bits(void **state)
{
    (void)state;
    struct place p = place_make();
    struct grid g;
    struct rng rng = {25};
    char *bytes, *copy = file_join(p.dir, "copy.h5");
    size_t n;
    grid_init(&g, 4, 25);
    finish(p.path, &g);
    for (int sealed = 1; sealed >= 0; sealed--) {
        if (!sealed)
            H5Fclose(open_rw(p.path));
        OK(file_read(p.path, &bytes, &n));
        int error = 0, status;
        for (int round = 0; round < 150; round++) {
            size_t at = rng_below(&rng, n);
            char bit = (char)(1 << rng_below(&rng, 8));
            bytes[at] = (char)(bytes[at] ^ bit);
            OK(file_write_atomic(copy, bytes, n));
            bytes[at] = (char)(bytes[at] ^ bit);
            pid_t pid = fork();
            if (pid == 0)
                _exit((int)compare(p.path, copy));
            assert_int_equal(waitpid(pid, &status, 0), pid);
            if (WIFEXITED(status) ? WEXITSTATUS(status) == SEEN_OTHER : sealed)
                fail_msg("bit %d of byte %zu of %zu, seal %d: status %d", bit, at, n, sealed, status);
            error += !WIFEXITED(status) || WEXITSTATUS(status) == SEEN_ERROR;
        }
        assert_true(error > (sealed ? 100 : 20));
        free(bytes);
    }
    free(copy);
    grid_free(&g);
    place_remove(&p);
}

int main(void)
{
    log_set_level(LOG_QUIET);
    const struct CMUnitTest tests[] = {cmocka_unit_test(users_objects), cmocka_unit_test(left_open),
                                       cmocka_unit_test(open_under_way), cmocka_unit_test(damaged_file),
                                       cmocka_unit_test(changed_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
