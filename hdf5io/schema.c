#include "hdf5io/schema.h"

#include "run/record.h"
#include "task/task.h"

#define N(a) (int)(sizeof(a) / sizeof *(a))

/* A column of struct ROW; with the first schema version that has it. */
#define S2(member, type, since, units, text)                                                                 \
    {                                                                                                        \
#member, type, offsetof(struct ROW, member), since, units, text                                      \
    }
#define S(member, type, units, text) S2(member, type, 1, units, text)

#define ROW sink_setting
static const struct column settings[] = {
#define SETTING(type, name, role, since, units, what) S2(name, COL_##type, since, units, what),
#include "hdf5io/columns.def"
};
#undef ROW
#define ROW sink_task
static const struct column tasks[] = {
#define TASK(type, name, role, since, units, what) S2(name, COL_##type, since, units, what),
#include "hdf5io/columns.def"
};
#undef ROW
#define ROW row_example
static const struct column examples[] = {
    S(task, COL_I32, "row of /tasks", "task"),
    S(example, COL_I32, "index", "number of the example in its task"),
    S(id, COL_TEXT, "text", "name of the example"),
    S(n_words, COL_I32, "words", "length that the dataset states"),
    S(length, COL_F64, "unit of the task", "asked length of the needle's prompt, NaN elsewhere"),
    S(depth, COL_F64, "1", "place of the needle, 0 first to 1 last, NaN elsewhere"),
    S(iteration, COL_I32, "index", "repetition of the needle, -1 elsewhere"),
    S(gold_at, COL_I64, "bytes", "start of the right answers (JSON list) in /text"),
    S(gold_len, COL_I64, "bytes", "their length"),
};
#undef ROW
#define ROW row_record
static const struct column records[] = {
#define RECORD(type, name, role, since, units, what) S2(name, COL_##type, since, units, what),
#define PLACE(name, units, what)              S(name, COL_I64, units, what),
#include "run/record.def"
};
#undef ROW
#define ROW row_value
static const struct column metrics[] = {
    S(record, COL_I64, "row of /records", "unit"),
    S(name, COL_METRIC, "name", "further score"),
    S(value, COL_F64, "1", "its value"),
};
static const struct column budgets[] = {
    S(record, COL_I64, "row of /records", "unit"),
    S(name, COL_BUDGET, "name", "what was kept"),
    S(value, COL_F64, "tokens (n_init, n_local, topk, kept_tokens), bits (kept_bits), 1 (true_ratio)",
      "how much"),
};
#undef ROW
#define ROW row_ledger
static const struct column ledger[] = {
    S(record, COL_I64, "row of /records", "unit"),
    S(kind, COL_KIND, "name", "what the bytes hold"),
    S(place, COL_PLACE, "name", "where they are"),
    S(bytes, COL_U64, "bytes", "how many"),
};
#undef ROW
#define ROW sink_timing
static const struct column timing[] = {
#define TIMING(type, name, since, units, what) S2(name, COL_##type, since, units, what),
#include "hdf5io/columns.def"
};
#undef ROW
#define ROW row_fidelity
static const struct column fidelity[] = {
    S(record, COL_I64, "row of /records", "unit"),
    S(step, COL_I32, "tokens", "place in the full cache's answer"),
    S(kl, COL_F32, "nats", "divergence from the full cache's distribution"),
    S(top1, COL_F32, "1", "1 if both put the same token first"),
    S(gold_logprob, COL_F32, "nats", "log-probability of the full cache's token"),
};
#undef ROW

static const struct table tables[T_N] = {
    {"settings", "model x method", sizeof(struct sink_setting), settings, N(settings)},
    {"tasks", "datasets with their metric", sizeof(struct sink_task), tasks, N(tasks)},
    {"examples", "items of the tasks", sizeof(struct row_example), examples, N(examples)},
    {"records", "finished units (setting x example), ordered by unit id", sizeof(struct row_record), records,
     N(records)},
    {"metrics", "further scores of units", sizeof(struct row_value), metrics, N(metrics)},
    {"budgets", "what the method kept", sizeof(struct row_value), budgets, N(budgets)},
    {"ledger", "bytes of the cache by kind and place", sizeof(struct row_ledger), ledger, N(ledger)},
    {"timing", "isolated runs, one sequence alone", sizeof(struct sink_timing), timing, N(timing)},
    {"fidelity", "distance from the full cache along its own answer", sizeof(struct row_fidelity), fidelity,
     N(fidelity)},
};

const struct table *schema_table(enum table_id id)
{
    return &tables[id];
}

static const char *metric_name(int i)
{
    return task_metric_names()[i];
}

static const char *kind_name(int i)
{
    return mem_kind_name((enum mem_kind)i);
}

static const char *place_name(int i)
{
    return mem_place_name((enum mem_place)i);
}

static const char *budget_name(int i)
{
    return kv_budget_name((enum kv_budget)i);
}

static hid_t enum_of(const char *(*name)(int), int n)
{
    hid_t t = H5Tenum_create(H5T_STD_I32LE);
    for (int32_t i = 0; t >= 0 && i < n; i++)
        if (H5Tenum_insert(t, name(i), &i) < 0) {
            H5Tclose(t);
            t = -1;
        }
    return t;
}

hid_t schema_text(void)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t >= 0 && (H5Tset_size(t, H5T_VARIABLE) < 0 || H5Tset_cset(t, H5T_CSET_UTF8) < 0)) {
        H5Tclose(t);
        t = -1;
    }
    return t;
}

hid_t schema_f16(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    if (t >= 0 &&
        (H5Tset_fields(t, 15, 10, 5, 0, 10) < 0 || H5Tset_size(t, 2) < 0 || H5Tset_ebias(t, 15) < 0)) {
        H5Tclose(t);
        t = -1;
    }
    return t;
}

static hid_t column_type(enum column_type type)
{
    int n = 0;
    switch (type) {
    case COL_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case COL_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case COL_U64:
        return H5Tcopy(H5T_STD_U64LE);
    case COL_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case COL_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case COL_TEXT:
        return schema_text();
    case COL_STATUS:
        return enum_of(record_status_name, ST_N);
    case COL_STOP:
        return enum_of(record_stop_name, STOP_N);
    case COL_METRIC:
        while (task_metric_names()[n])
            n++;
        return enum_of(metric_name, n);
    case COL_BUDGET:
        return enum_of(budget_name, KV_BUDGET_N);
    case COL_KIND:
        return enum_of(kind_name, MEM_KIND_N);
    case COL_PLACE:
        return enum_of(place_name, PLACE_N);
    case COL_N:
        break;
    }
    return -1;
}

hid_t schema_compound(enum table_id id, int version)
{
    const struct table *t = &tables[id];
    hid_t c = H5Tcreate(H5T_COMPOUND, t->row_bytes);
    for (int i = 0; c >= 0 && i < t->n_column; i++) {
        if (t->column[i].since > version)
            continue;
        hid_t m = column_type(t->column[i].type);
        herr_t rc = m < 0 ? -1 : H5Tinsert(c, t->column[i].name, t->column[i].offset, m);
        if (m >= 0)
            H5Tclose(m);
        if (rc < 0) {
            H5Tclose(c);
            return -1;
        }
    }
    return c;
}

static int put_attribute(hid_t object, const char *name, hid_t file_type, hid_t mem_type, hid_t space,
                         const void *v)
{
    hid_t a = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t rc = a < 0 ? -1 : H5Awrite(a, mem_type, v);
    if (a >= 0 && H5Aclose(a) < 0)
        rc = -1;
    return rc < 0 ? -1 : 0;
}

int schema_put_text(hid_t object, const char *name, const char *value)
{
    hid_t t = schema_text(), space = H5Screate(H5S_SCALAR);
    int rc = t < 0 || space < 0 ? -1 : put_attribute(object, name, t, t, space, &value);
    H5Sclose(space);
    H5Tclose(t);
    return rc;
}

int schema_put_int(hid_t object, const char *name, int64_t value, hid_t file_type)
{
    hid_t space = H5Screate(H5S_SCALAR);
    int rc = space < 0 ? -1 : put_attribute(object, name, file_type, H5T_NATIVE_INT64, space, &value);
    H5Sclose(space);
    return rc;
}

int schema_describe(hid_t dataset, enum table_id id)
{
    const struct table *t = &tables[id];
    const char *units[N(records)], *long_name[N(records)];
    _Static_assert(N(records) >= N(settings) && N(records) >= N(timing), "room for the widest table");
    for (int i = 0; i < t->n_column; i++) {
        units[i] = t->column[i].units;
        long_name[i] = t->column[i].long_name;
    }
    hsize_t n = (hsize_t)t->n_column;
    hid_t text = schema_text(), space = H5Screate_simple(1, &n, NULL);
    int rc = text < 0 || space < 0 || put_attribute(dataset, "units", text, text, space, units) < 0 ||
                     put_attribute(dataset, "long_name", text, text, space, long_name) < 0 ||
                     schema_put_text(dataset, "title", t->long_name) < 0
                 ? -1
                 : 0;
    H5Sclose(space);
    H5Tclose(text);
    return rc;
}
