/* Text, parameters, files: the small things everything stands on. */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/param.h"
#include "scratch.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct demo {
    int64_t bits, when;
    double share;
    char *name;
};

static const struct param demo_params[] = {
    {.name = "bits",
     .type = PARAM_INT,
     .offset = offsetof(struct demo, bits),
     .def = 2,
     .min = 1,
     .max = 8,
     .choices = "2|4"},
    {.name = "when", .type = PARAM_CHOICE, .offset = offsetof(struct demo, when), .choices = "prefill|after"},
    {.name = "share",
     .type = PARAM_REAL,
     .offset = offsetof(struct demo, share),
     .def = 0.1,
     .min = 0,
     .max = 1},
    {.name = "name", .type = PARAM_TEXT, .offset = offsetof(struct demo, name), .def_text = "x"},
    {0},
};

static void params(void **state)
{
    (void)state;
    struct demo d;
    param_defaults(demo_params, &d);
    assert_int_equal(param_parse(demo_params, &d, "bits=4,when=after,share=0.25,name=hello", "m"), 0);
    struct str s = {0};
    param_text(demo_params, &d, &s);
    assert_string_equal(s.data, "bits=4,when=after,share=0.25,name=hello");
    assert_int_equal(param_parse(demo_params, &d, "bits=3", "method kivi"), ERR_INPUT);
    assert_string_equal(err_text(), "method kivi: bits=3 is not allowed; use one of 2|4");
    assert_int_equal(param_parse(demo_params, &d, "bit=2", "method kivi"), ERR_INPUT);
    assert_non_null(strstr(err_text(), "did you mean 'bits'"));
    assert_int_equal(param_parse(demo_params, &d, "share=nan", "m"), ERR_INPUT);
    assert_int_equal(param_parse(demo_params, &d, "share=1.5", "m"), ERR_INPUT);
    assert_int_equal(param_parse(demo_params, &d, "share", "m"), ERR_INPUT);
    assert_int_equal(param_parse(demo_params, &d, "bits=4,share=0,bits=2", "m"), ERR_INPUT);
    assert_string_equal(err_text(), "m: bits is given twice, 4 and 2; leave one of them out");
    str_clear(&s);
    param_text(demo_params, &d, &s); /* refused values changed nothing */
    assert_string_equal(s.data, "bits=4,when=after,share=0.25,name=hello");
    str_free(&s);
    param_free(demo_params, &d);
}

static void numbers(void **state)
{
    (void)state;
    char buf[32];
    str_double(buf, 1.0 / 9);
    assert_string_equal(buf, "0.1111111111111111");
    str_double(buf, 0.1);
    assert_string_equal(buf, "0.1");
    uint64_t b;
    assert_true(str_to_bytes("256MiB", &b) && b == 256u << 20);
    assert_true(str_to_bytes("4096", &b) && b == 4096);
    assert_false(str_to_bytes("-1", &b));
    assert_false(str_to_bytes("1XB", &b));
    double d;
    assert_false(str_to_double("inf", &d));
    assert_false(str_to_double("1x", &d));
    assert_true(str_match("llama-3*", "llama-3-8b"));
    assert_true(str_match("!llmlingua2", "kivi"));
    assert_false(str_match("!kivi", "kivi"));
}

static void unicode(void **state)
{
    (void)state;
    for (uint32_t cp = 1; cp < 0x110000; cp += 97) {
        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        char out[4];
        uint32_t back;
        int n = utf8_put(out, cp);
        assert_int_equal(utf8_get(out, (size_t)n, &back), n);
        assert_int_equal(back, cp);
    }
    assert_false(utf8_valid("\xc0\x80", 2));
    assert_false(utf8_valid("\xed\xa0\x80", 3));
    assert_false(utf8_valid("\xf4\x90\x80\x80", 4));
    struct str s = {0};
    str_add_json(&s, "a\"\n\xff\x01", 5);
    assert_string_equal(s.data, "\"a\\\"\\n\xef\xbf\xbd\\u0001\"");
    str_clear(&s);
    str_add_csv(&s, "plain 'x'", 9);
    str_addc(&s, ',');
    str_add_csv(&s, "a \"b\", c\r", 9);
    assert_string_equal(s.data, "plain 'x',\"a \"\"b\"\", c\r\"");
    str_clear(&s);
    str_add_csv(&s, "x\0y", 3);
    assert_memory_equal(s.data, "\"x\0y\"", 5);
    /* formulas of spreadsheets are text, numbers stay numbers */
    static const char *const formula[][2] = {
        {"=1+1", "'=1+1"},  {"+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"},
        {"-2+3", "'-2+3"},  {"@SUM(A1,B1)", "\"'@SUM(A1,B1)\""},
        {"\t=1", "'\t=1"},  {"\r=1", "\"'\r=1\""},
        {"-1.5", "-1.5"},   {"+3", "+3"},
        {"-1e-7", "-1e-7"}, {"-", "-"},
        {"", ""},           {"a=b", "a=b"},
    };
    for (size_t i = 0; i < sizeof formula / sizeof *formula; i++) {
        str_clear(&s);
        str_add_csv(&s, formula[i][0], strlen(formula[i][0]));
        assert_string_equal(str_c(&s), formula[i][1]);
    }
    err_set(ERR_INPUT, "a\x1b[31mb\nc");
    assert_string_equal(err_text(), "a?[31mb c");
    assert_int_equal(err_status(0), 0);
    assert_int_equal(err_status(ERR_AGAIN), 75);
    assert_int_equal(err_status(ERR_INTERNAL), 1);
    str_free(&s);
}

static void files(void **state)
{
    (void)state;
    char *dir = scratch_make(), *deep = file_join(dir, "a/b"), *path = file_join(dir, "a/b/f");
    assert_int_equal(file_mkdirs(deep), 0);
    assert_int_equal(file_write_atomic(path, "hello", 5), 0);
    char *data;
    size_t n;
    assert_int_equal(file_read(path, &data, &n), 0);
    assert_int_equal(n, 5);
    assert_string_equal(data, "hello");
    struct file_map m;
    assert_int_equal(file_map(&m, path), 0);
    assert_memory_equal(m.data, "hello", 5);
    file_unmap(&m);
    assert_int_equal(file_map(&m, deep), ERR_INPUT);
    assert_int_equal(file_map(&m, "/nonexistent/x"), ERR_IO);
    char hex[65];
    file_sha256("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    char text[120];
    memset(text, 'a', sizeof text);
    file_sha256(text, 119, hex); /* the length no longer fits the first padded block */
    assert_string_equal(hex, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb");
    scratch_remove(dir);
    free(data);
    free(deep);
    free(path);
}

static void assert_holds(const char *path, const char *want)
{
    char *data;
    assert_int_equal(file_read(path, &data, NULL), 0);
    assert_string_equal(data, want);
    free(data);
}

/* What is written to is what the path leads to: links stay, and so does what is no file. */
static void special_files(void **state)
{
    (void)state;
    char *dir = scratch_make(), *deep = file_join(dir, "a"), *target = file_join(dir, "a/target"),
         *link = file_join(dir, "link"), *fifo = file_join(dir, "fifo"), *name = file_join(dir, "plain");
    assert_int_equal(file_mkdirs(deep), 0);
    assert_int_equal(symlink("a/target", link), 0);
    for (int round = 0; round < 2; round++) { /* a link to nothing, then to a file */
        assert_int_equal(file_write_atomic(link, round ? "two" : "one", 3), 0);
        assert_holds(target, round ? "two" : "one");
        struct stat st;
        assert_int_equal(lstat(link, &st), 0);
        assert_true(S_ISLNK(st.st_mode));
    }
    char *real = file_resolve(link), *same = file_resolve(name);
    assert_string_equal(real, target);
    assert_string_equal(same, name);
    assert_true(file_is_same(link, target));
    assert_false(file_is_same(link, name));
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_true(file_is_special(fifo));
    int fd = open(fifo, O_RDONLY | O_NONBLOCK);
    char got[8] = "";
    assert_int_equal(file_write_atomic(fifo, "hello", 5), 0);
    assert_int_equal(read(fd, got, sizeof got), 5);
    assert_string_equal(got, "hello");
    assert_true(file_is_special(fifo));
    close(fd);
    scratch_remove(dir);
    free(deep);
    free(target);
    free(link);
    free(fifo);
    free(name);
    free(real);
    free(same);
}

/* FILE.tmp.… under another owner or process. */
static char *temp_of(const char *made, const char *owner, int pid, double age_s)
{
    const char *tail = strstr(made, ".tmp.") + 5, *random = strrchr(made, '.');
    const char *of_pid = random;
    while (*--of_pid != '.')
        ;
    char *name = owner ? mem_printf("%.*s%s.%d%s", (int)(tail - made), made, owner, pid, random)
                       : mem_printf("%.*s.%d%s", (int)(of_pid - made), made, pid, random);
    assert_int_equal(file_write_atomic(name, "x", 1), 0);
    const struct timespec then[2] = {{.tv_sec = time(NULL) - (time_t)age_s},
                                     {.tv_sec = time(NULL) - (time_t)age_s}};
    assert_int_equal(utimensat(AT_FDCWD, name, then, 0), 0);
    return name;
}

/* Whose temporary files go: those of dead processes here, and what nobody has touched for a day elsewhere. */
static void temporary_files(void **state)
{
    (void)state;
    char *dir = scratch_make(), *path = file_join(dir, "r.h5");
    int fd;
    char *mine = file_temp(path, &fd);
    assert_non_null(mine);
    close(fd);
    const pid_t gone = fork();
    if (gone == 0)
        _exit(0);
    assert_int_equal(waitpid(gone, NULL, 0), gone);
    const struct {
        const char *owner;
        int pid;
        double age_s;
        bool stays;
    } row[] = {{NULL, getpid(), 1e6, true},
               {NULL, gone, 0, false},
               {"far.away-0123", gone, 0, true},
               {"far.away-0123", 1, 1e6, false},
               {"far.away-0124", 1, 3600, true}};
    char *name[5];
    for (int i = 0; i < 5; i++)
        name[i] = temp_of(mine, row[i].owner, row[i].pid, row[i].age_s);
    file_temp_clean(path);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(file_exists(name[i]), row[i].stays);
        free(name[i]);
    }
    free(mine);
    free(path);
    scratch_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(params),        cmocka_unit_test(numbers),
                                       cmocka_unit_test(unicode),       cmocka_unit_test(files),
                                       cmocka_unit_test(special_files), cmocka_unit_test(temporary_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
