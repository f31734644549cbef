/* The flat form of a book, as the journal holds it. */
#include "hdf5io/book_int.h"

#include "base/err.h"
#include "base/mem.h"

#define N(a)            (int)(sizeof(a) / sizeof *(a))
#define M(type, member) offsetof(struct type, member)

static const size_t run_text[] = {M(sink_run, kvsweep_version),
                                  M(sink_run, git_commit),
                                  M(sink_run, config_yaml),
                                  M(sink_run, host),
                                  M(sink_run, device),
                                  M(sink_run, isa),
                                  M(sink_run, driver),
                                  M(sink_run, libraries),
                                  M(sink_run, mode),
                                  M(sink_run, plan_text)};
static const size_t example_text[] = {M(sink_example, id), M(sink_example, gold_json)};
const struct texts book_run_text = {run_text, N(run_text)};
const struct texts book_example_text = {example_text, N(example_text)};

#define FIELD(row, type, name, role) {M(row, name), sizeof(SINK_C_##type), FIELD_##type, FIELD_##role},
static const struct field setting_field[] = {
#define SETTING(type, name, role, since, units, what) FIELD(sink_setting, type, name, role)
#include "hdf5io/columns.def"
};
static const struct field task_field[] = {
#define TASK(type, name, role, since, units, what) FIELD(sink_task, type, name, role)
#include "hdf5io/columns.def"
};
const struct fields book_setting_fields = {setting_field, N(setting_field)};
const struct fields book_task_fields = {task_field, N(task_field)};

static void put_i64(struct str *s, int64_t v)
{
    str_addn(s, &v, sizeof v);
}

static void put_texts(struct str *s, const void *row, const size_t *offset, int n)
{
    for (int i = 0; i < n; i++) {
        const char *p = text_get(row, offset[i]);
        put_i64(s, (int64_t)strlen(p));
        str_add(s, p);
    }
}

static void put_fields(struct str *s, const void *row, const struct field *f, int n)
{
    for (int i = 0; i < n; i++) {
        if (f[i].type == FIELD_TEXT)
            put_texts(s, row, &f[i].offset, 1);
        else
            str_addn(s, (const char *)row + f[i].offset, f[i].bytes);
    }
}

void book_pack(const struct book *b, struct str *s)
{
    put_i64(s, SCHEMA_VERSION);
    put_i64(s, b->run.n_ranks);
    put_i64(s, b->run.threads);
    put_i64(s, b->run.logits_first);
    put_i64(s, b->run.topk);
    put_i64(s, b->n_unit);
    put_i64(s, b->n_setting);
    put_i64(s, b->n_task);
    put_i64(s, b->n_example);
    put_texts(s, &b->run, book_run_text.at, book_run_text.n);
    const size_t at_created = offsetof(struct book, created);
    put_texts(s, b, &at_created, 1);
    for (int i = 0; i < b->n_setting; i++)
        put_fields(s, &b->setting[i], book_setting_fields.f, book_setting_fields.n);
    for (int i = 0; i < b->n_task; i++)
        put_fields(s, &b->task[i], book_task_fields.f, book_task_fields.n);
    for (int64_t i = 0; i < b->n_example; i++) {
        const struct sink_example *e = &b->example[i];
        put_i64(s, e->task);
        put_i64(s, e->example);
        put_i64(s, e->n_words);
        put_i64(s, e->iteration);
        str_addn(s, &e->length, 8);
        str_addn(s, &e->depth, 8);
        put_texts(s, e, book_example_text.at, book_example_text.n);
    }
}

struct reader {
    const char *p;
    size_t left;
    bool bad;
};

static int64_t get_i64(struct reader *in)
{
    int64_t v = 0;
    if (in->left < sizeof v) {
        in->bad = true;
        return 0;
    }
    memcpy(&v, in->p, sizeof v);
    in->p += sizeof v;
    in->left -= sizeof v;
    return v;
}

static int32_t get_i32(struct reader *in)
{
    int64_t v = get_i64(in);
    if (v != (int32_t)v)
        in->bad = true;
    return (int32_t)v;
}

static double get_f64(struct reader *in)
{
    int64_t u = get_i64(in);
    double v;
    memcpy(&v, &u, sizeof v);
    return v;
}

static void get_texts(struct book *b, struct reader *in, void *row, const size_t *offset, int n)
{
    for (int i = 0; i < n; i++) {
        int64_t len = get_i64(in);
        if (len < 0 || (uint64_t)len > in->left)
            in->bad = true;
        if (in->bad) {
            text_set(row, offset[i], "");
            continue;
        }
        text_set(row, offset[i], book_keep(b, in->p, (size_t)len));
        in->p += len;
        in->left -= (size_t)len;
    }
}

static void get_fields(struct book *b, struct reader *in, void *row, const struct field *f, int n)
{
    for (int i = 0; i < n; i++) {
        if (f[i].type == FIELD_TEXT) {
            get_texts(b, in, row, &f[i].offset, 1);
        } else if (in->bad || in->left < f[i].bytes) {
            in->bad = true;
            memset((char *)row + f[i].offset, 0, f[i].bytes);
        } else {
            memcpy((char *)row + f[i].offset, in->p, f[i].bytes);
            in->p += f[i].bytes;
            in->left -= f[i].bytes;
        }
    }
}

static void get_rows(struct book *b, struct reader *in, int64_t n_setting, int64_t n_task, int64_t n_example)
{
    for (int64_t i = 0; i < n_setting && !in->bad; i++) {
        struct sink_setting *s = MEM_PUSH(b->setting, b->n_setting, b->cap_setting);
        get_fields(b, in, s, book_setting_fields.f, book_setting_fields.n);
    }
    for (int64_t i = 0; i < n_task && !in->bad; i++) {
        struct sink_task *t = MEM_PUSH(b->task, b->n_task, b->cap_task);
        get_fields(b, in, t, book_task_fields.f, book_task_fields.n);
    }
    for (int64_t i = 0; i < n_example && !in->bad; i++) {
        struct sink_example *e = MEM_PUSH(b->example, b->n_example, b->cap_example);
        e->task = get_i32(in);
        e->example = get_i32(in);
        e->n_words = get_i32(in);
        e->iteration = get_i32(in);
        e->length = get_f64(in);
        e->depth = get_f64(in);
        get_texts(b, in, e, book_example_text.at, book_example_text.n);
        in->bad = in->bad || e->task < 0 || e->task >= n_task;
    }
}

bool book_is_older(const void *bytes, size_t n)
{
    struct reader in = {bytes, n, false};
    int64_t version = get_i64(&in);
    return !in.bad && version > 0 && version < SCHEMA_VERSION;
}

int book_unpack(struct book *b, const void *bytes, size_t n)
{
    struct reader in = {bytes, n, false};
    *b = (struct book){.version = SCHEMA_VERSION};
    int64_t version = get_i64(&in);
    if (!in.bad && version != SCHEMA_VERSION)
        return err_set(ERR_INPUT, "schema version is %lld, this program reads %d", (long long)version,
                       SCHEMA_VERSION);
    b->run.n_ranks = get_i32(&in);
    b->run.threads = get_i32(&in);
    b->run.logits_first = get_i32(&in);
    b->run.topk = get_i32(&in);
    b->n_unit = get_i64(&in);
    int64_t n_setting = get_i64(&in), n_task = get_i64(&in), n_example = get_i64(&in);
    get_texts(b, &in, &b->run, book_run_text.at, book_run_text.n);
    const size_t at_created = offsetof(struct book, created);
    get_texts(b, &in, b, &at_created, 1);
    get_rows(b, &in, n_setting, n_task, n_example);
    if (in.bad || in.left) {
        book_free(b);
        return err_set(ERR_INPUT, "the plan entry is damaged");
    }
    book_sort(b);
    return 0;
}
