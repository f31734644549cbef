/* Results files: what goes in comes out, through the journal, the file and both; resume, extension, merge,
 * refusals. */
#include "results_check.h"

#include <math.h>

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
    struct sink_timing t[2] = {{1, 0, 2, 0, 0.5, 0.125, 0.25, 0.1, 0.2, 512, 7, 1 << 20},
                               {1, 0, 2, 1, 7, 0.5, 6, 0, 0, 9, 8, 5}};
    OK(sink_hdf5.put_timing(s, t, 2));
    OK(sink_hdf5.close(s));
    assert_false(file_exists(p.journal));
    check_results(p.path, &g, g.n);
    check_logits(p.path, &g);
    struct results r;
    OK(results_open(&r, p.path));
    assert_false(r.running);
    assert_int_equal(r.n_timing, 2);
    assert_memory_equal(r.timing, t, sizeof t); /* two repeats of one unit */
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
    REFUSED(sink_hdf5.open(&s, p.path, &plan), "(\"seed=42\" there, \"seed=43\" now)");
    finish(p.path, &g);
    REFUSED(sink_hdf5.open(&s, p.path, &plan), "(\"seed=42\" there, \"seed=43\" now)");
    assert_false(file_exists(p.journal));
    REFUSED(sink_pack(p.path, 10), "deflate is 10");
    hid_t f = H5Fopen(p.path, H5F_ACC_RDWR, H5P_DEFAULT); /* a table that others wrote anew has no checksum */
    assert_int_equal(H5Adelete_by_name(f, "/records", "xxh3", H5P_DEFAULT), 0);
    H5Fclose(f);
    REFUSED(results_open(&r, p.path), "/records of");
    REFUSED(sink_hdf5.open(&s, p.path, &g.plan), "has lost its checksum");
    f = H5Fopen(p.path, H5F_ACC_RDWR, H5P_DEFAULT);
    assert_int_equal(H5Adelete(f, "xxh3"), 0);
    H5Fclose(f);
    REFUSED(results_open(&r, p.path), "the root of");
    f = H5Fopen(p.path, H5F_ACC_RDWR, H5P_DEFAULT);
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

#define SCHEMA_1 "fixtures/results/schema1.h5"

/* An attempt of schema 1: only the program that wrote it can go on with it. */
static void make_old_journal(const struct place *p)
{
    const int64_t version = 1;
    struct journal_head head;
    uint64_t at;
    OK(file_mkdirs(p->journal));
    struct journal j = {.path = file_join(p->journal, "0123456789abcdef.1"), .fd_big = -1};
    j.fd = open(j.path, O_RDWR | O_CREAT | O_EXCL, 0666);
    OK(journal_add(&j, JOURNAL_PLAN, &version, sizeof version, NULL, 0, &head, &at));
    OK(journal_commit(&j));
    journal_close(&j);
}

/* A file of schema 1 is read, and neither extended nor merged nor written again. */
static void schema_1(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make();
    struct grid g;
    struct sink *s;
    struct results r;
    grid_init(&g, 2, 5);
    OK(results_open(&r, SCHEMA_1));
    assert_int_equal(r.schema_version, 1);
    assert_int_equal(r.n_record, 8);
    assert_int_equal(r.n_timing, 2);
    assert_string_equal(r.setting[0].model, "tiny");
    assert_string_equal(r.setting[0].template, "");
    assert_string_equal(r.setting[0].protocol, "");
    assert_int_equal(r.setting[0].max_len, 0);
    assert_true(isnan(r.timing[0].s_compress));
    for (int64_t i = 0; i < r.n_record; i++) {
        assert_int_equal(r.record[i].n_context, r.record[i].n_prompt);
        assert_int_equal(r.record[i].kept_min, -1);
        assert_true(r.record[i].kv_bytes_full > 0);
    }
    results_close(&r);
    size_t n;
    char *bytes;
    OK(file_read(SCHEMA_1, &bytes, &n));
    OK(file_write_atomic(p.path, bytes, n));
    free(bytes);
    REFUSED(sink_hdf5.open(&s, p.path, &g.plan), "earlier schema version than 2");
    assert_false(file_exists(p.journal));
    REFUSED(sink_pack(p.path, 0), "schema version 1");
    finish(q.path, &g);
    char *out = file_join(q.dir, "m.h5");
    const char *paths[] = {p.path, q.path}, *back[] = {q.path, p.path};
    REFUSED(sink_merge(paths, 2, out, false), "schema version 1");
    REFUSED(sink_merge(back, 2, out, false), "schema version 1");
    REFUSED(sink_merge(paths, 1, out, false), "schema version 1");
    free(out);
    make_old_journal(&p); /* beside it, a job of that time: what is in the file is read */
    OK(results_open(&r, p.path));
    assert_int_equal(r.n_record, 8);
    results_close(&r);
    OK(unlink(p.path));
    REFUSED(results_open(&r, p.path), "no results");
    REFUSED(sink_hdf5.open(&s, p.path, &g.plan),
            "r.h5.journal was written with an earlier schema version than 2");
    assert_true(file_exists(p.journal));
    grid_free(&g);
    place_remove(&p);
    place_remove(&q);
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
    OK(sink_merge(paths, 2, c.path, false));
    check_logits(c.path, &g);
    struct results r;
    OK(results_open(&r, c.path));
    assert_int_equal(r.n_record, g.n);
    results_close(&r);
    REFUSED(sink_merge(paths, 2, c.path, false), "exists already");
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

/* What computed units is listed, in one order, and nothing that computed none. */
static void origins(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make(), m = place_make();
    struct grid g;
    struct sink *s;
    struct results r;
    grid_init(&g, 2, 6);
    static const char *const isa[] = {"avx2", "amx", "avx512", "avx2"};
    for (int i = 0; i < 4; i++) {
        g.plan.run.isa = isa[i];
        OK(sink_hdf5.open(&s, p.path, &g.plan));
        if (i != 2) /* opened and stopped before anything was done */
            OK(grid_put(&g, &sink_hdf5, s, 0, i == 3 ? g.n : 6 * (i + 1)));
        OK(sink_hdf5.close(s));
        OK(results_open(&r, p.path));
        assert_string_equal(r.isa, i ? "amx; avx2" : "avx2");
        assert_string_equal(r.device, "cpu");
        results_close(&r);
    }
    assert_false(file_exists(p.journal));
    g.plan.run.isa = "ref";
    finish(p.path, &g); /* nothing was left to do */
    g.plan.run.host = "there";
    finish(q.path, &g);
    const char *paths[] = {q.path, p.path};
    for (int k = 0; k < 2; k++) {
        OK(unlink(q.path)); /* other units, so that both files give some */
        for (int i = 0; i < g.n; i++)
            g.record[i].unit_hi += (uint64_t)k + 1;
        finish(q.path, &g);
        OK(sink_merge(k ? paths : (const char *[]){p.path, q.path}, 2, m.path, false));
        OK(results_open(&r, m.path));
        assert_string_equal(r.isa, "amx; avx2; ref");
        assert_string_equal(r.host, "here; there");
        results_close(&r);
        OK(unlink(m.path));
    }
    grid_free(&g);
    place_remove(&p);
    place_remove(&q);
    place_remove(&m);
}

/* Two files of the same units, one with fewer logits: nothing is lost in either order. Different answers are
 * not mixed silently. */
static void merge_order(void **state)
{
    (void)state;
    struct place a = place_make(), b = place_make(), ab = place_make(), ba = place_make();
    struct grid g, less;
    grid_init(&g, 3, 6);
    grid_init(&less, 3, 6);
    for (int i = 0; i < less.n; i++) {
        less.record[i].n_top = less.record[i].n_first = 0;
        less.record[i].bundle += 100;
        free(less.record[i].first);
        free(less.record[i].topk_id);
        free(less.record[i].topk_logit);
        free(less.record[i].logsumexp);
        less.record[i].first = less.record[i].topk_logit = NULL;
        less.record[i].topk_id = NULL;
        less.record[i].logsumexp = NULL;
    }
    less.plan.run.topk = less.plan.run.logits_first = 0;
    finish(a.path, &less);
    finish(b.path, &g);
    const char *paths[] = {a.path, b.path}, *back[] = {b.path, a.path};
    OK(sink_merge(paths, 2, ab.path, false));
    OK(sink_merge(back, 2, ba.path, false));
    check_logits(ab.path, &g);
    assert_equal_files(ab.path, b.path);
    assert_equal_files(ab.path, ba.path);
    OK(unlink(a.path));
    OK(unlink(ab.path));
    int k = 0;
    while (less.record[k].status != ST_OK || less.record[k].n_new == 0)
        k++;
    less.record[k].token[0] ^= 1;
    finish(a.path, &less);
    REFUSED(sink_merge(paths, 2, ab.path, false), "disagree on 1 unit (the first: setting full, task ");
    assert_false(file_exists(ab.path));
    OK(sink_merge(paths, 2, ab.path, true));
    struct results r;
    OK(results_open(&r, ab.path));
    for (int64_t i = 0; i < r.n_record; i++)
        if (r.record[i].unit_hi == less.record[k].unit_hi)
            assert_int_equal(r.record[i].token[0], less.record[k].token[0]);
    results_close(&r);
    grid_free(&g);
    grid_free(&less);
    place_remove(&a);
    place_remove(&b);
    place_remove(&ab);
    place_remove(&ba);
}

static void join_rows(struct book *b, const struct sink_setting *row, int n)
{
    const struct book src = {.created = "", .setting = (struct sink_setting *)(uintptr_t)row, .n_setting = n};
    int32_t *setting, *task;
    OK(book_join(b, &src, &setting, &task));
    free(setting);
    free(task);
}

/* Rows of one id get names of their own, the same in any order, and keep them when files are joined again. */
static void setting_names(void **state)
{
    (void)state;
    struct grid g;
    grid_init(&g, 1, 1);
    struct sink_setting row[4];
    for (int i = 0; i < 4; i++)
        row[i] = g.setting[0];
    row[0].id = row[1].id = row[2].id = "tiny/full";
    row[1].dtype = "bf16";
    row[2].model_hash = "12345678ff";
    row[3].id = "tiny/other";
    static const char *const want[4] = {"tiny/full@f32@abcd", "tiny/full@bf16@abcd", "tiny/full@f32@12345678",
                                        "tiny/other"};
    struct book there = {0}, back = {0};
    join_rows(&there, &row[0], 1);
    assert_string_equal(there.setting[0].id, "tiny/full");
    join_rows(&there, &row[1], 3);
    for (int i = 0; i < 4; i++)
        assert_string_equal(there.setting[i].id, want[i]);
    for (int i = 3; i >= 0; i--)
        join_rows(&back, &there.setting[i], 1); /* as a file of these rows would give them */
    join_rows(&back, row, 4);
    assert_int_equal(back.n_setting, 4);
    for (int i = 0; i < 4; i++)
        assert_string_equal(back.setting[3 - i].id, want[i]);
    book_free(&there);
    book_free(&back);
    grid_free(&g);
}

/* Every column of a setting that unit ids cover makes a row of its own; what only notes something does not.
 */
static void setting_identity(void **state)
{
    (void)state;
    struct grid g;
    grid_init(&g, 1, 1);
    struct sink_setting row[12];
    for (int i = 0; i < 12; i++) {
        row[i] = g.setting[0];
        row[i].id = "tiny/full";
        row[i].weights_xxh3 = "";
    }
    row[1].template = "chatml {\"before\": \"x\"}";
    row[2].max_len = 512;
    row[3].dtype = "bf16";
    row[4].cache_dtype = "bf16";
    row[5].protocol = "after";
    row[6].model_hash = "1234567890";
    row[7].stop_ids = "2";
    row[8].prompt_method = "llmlingua2";
    row[9].template = "other {\"before\": \"\"}"; /* the texts of row 0 under another name */
    row[10].model_path = "/elsewhere";
    row[11].weight_type = "F32";
    static const char *const want[9] = {
        "@none@max_len=200@f32@cache-f16@abcd",     "@chatml@max_len=200@f32@cache-f16@abcd",
        "@none@max_len=512@f32@cache-f16@abcd",     "@none@max_len=200@bf16@cache-f16@abcd",
        "@none@max_len=200@f32@cache-bf16@abcd",    "@none@max_len=200@f32@cache-f16@after@abcd",
        "@none@max_len=200@f32@cache-f16@12345678", "@none@max_len=200@f32@cache-f16@abcd",
        "@none@max_len=200@f32@cache-f16@abcd"};
    struct book b = {0};
    join_rows(&b, row, 12);
    assert_int_equal(b.n_setting, 9);
    for (int i = 0; i < 9; i++) {
        const size_t n = strlen("tiny/full"), m = strlen(want[i]);
        assert_int_equal(book_plain_id(&b.setting[i]), n);
        assert_memory_equal(b.setting[i].id + n, want[i], m);
        assert_int_equal(strlen(b.setting[i].id), n + m + 9); /* and eight digits for all the rest */
        for (int k = 0; k < i; k++)
            assert_string_not_equal(b.setting[i].id, b.setting[k].id);
    }
    /* two rows that differ in one thing have its suffix alone */
    static const char *const pair[8] = {
        "", "@chatml", "@max_len=512", "@bf16", "@cache-bf16", "@after", "@12345678", NULL};
    for (int i = 1; pair[i]; i++) {
        struct book two = {0};
        join_rows(&two, &row[0], 1);
        join_rows(&two, &row[i], 1);
        char *id = mem_printf("tiny/full%s", pair[i]);
        assert_string_equal(two.setting[1].id, id);
        assert_true((i == 5) == !strcmp(two.setting[0].id, "tiny/full"));
        free(id);
        book_free(&two);
    }
    /* other stop ids make another model hash: one suffix tells these rows apart, not two */
    row[6].stop_ids = "2,3";
    book_free(&b);
    b = (struct book){0};
    join_rows(&b, &row[0], 1);
    join_rows(&b, &row[6], 1);
    assert_string_equal(b.setting[1].id, "tiny/full@12345678");
    book_free(&b);
    grid_free(&g);
}

/* One model hash stands for one set of weights: a run that has read others is refused, in the run and by
 * merge. */
static void weights(void **state)
{
    (void)state;
    struct place p = place_make(), q = place_make(), m = place_make();
    struct grid g;
    struct sink *s;
    struct results r;
    grid_init(&g, 2, 6);
    for (int i = 0; i < 2; i++)
        g.setting[i].weights_xxh3 = "";
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    OK(sink_hdf5.put_weights(s, "abcd", "11"));
    OK(grid_put(&g, &sink_hdf5, s, 0, 6));
    OK(sink_hdf5.close(s)); /* the journal alone says it */
    OK(unlink(p.path));
    OK(results_open(&r, p.path));
    assert_string_equal(r.setting[1].weights_xxh3, "11");
    results_close(&r);
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    REFUSED(sink_hdf5.put_weights(s, "abcd", "12"), "model tiny_one has other weights");
    OK(sink_hdf5.put_weights(s, "abcd", "11"));
    OK(grid_put(&g, &sink_hdf5, s, 0, g.n));
    OK(sink_hdf5.close(s));
    OK(sink_hdf5.open(&s, p.path, &g.plan));
    REFUSED(sink_hdf5.put_weights(s, "abcd", "12"), "recorded 11");
    OK(sink_hdf5.close(s));
    OK(sink_hdf5.open(&s, q.path, &g.plan));
    OK(sink_hdf5.put_weights(s, "abcd", "12"));
    OK(grid_put(&g, &sink_hdf5, s, 0, g.n));
    OK(sink_hdf5.close(s));
    const char *paths[] = {p.path, q.path};
    REFUSED(sink_merge(paths, 2, m.path, false), "model tiny_one has other weights");
    assert_false(file_exists(m.path));
    grid_free(&g);
    place_remove(&p);
    place_remove(&q);
    place_remove(&m);
}

int main(void)
{
    log_set_level(LOG_QUIET);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),       cmocka_unit_test(resume),      cmocka_unit_test(extend),
        cmocka_unit_test(differences),      cmocka_unit_test(refusals),    cmocka_unit_test(merge_and_pack),
        cmocka_unit_test(origins),          cmocka_unit_test(merge_order), cmocka_unit_test(setting_names),
        cmocka_unit_test(setting_identity), cmocka_unit_test(weights),     cmocka_unit_test(schema_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
