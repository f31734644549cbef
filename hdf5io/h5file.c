#include "hdf5io/h5file.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *part_name(enum part p)
{
    static const char *const name[PART_N] = {"topk_id", "logsumexp", "topk_logit", "first"};
    return name[p];
}

int64_t part_width(enum part p, const struct record *r)
{
    return p == PART_FIRST ? r->n_vocab : p == PART_LOGSUMEXP ? 1 : r->n_top;
}

size_t part_size(enum part p)
{
    return p == PART_TOPK_ID || p == PART_LOGSUMEXP ? 4 : 2;
}

int64_t part_rows(enum part p, const struct record *r)
{
    if (p == PART_FIRST)
        return r->n_vocab > 0 ? r->n_first : 0;
    return r->n_top > 0 ? r->n_new : 0;
}

/* ---- opening ---- */
static int read_root(struct h5file *f)
{
    struct sink_run *run = &f->book.run;
    struct {
        const char *name, **text;
    } text[] = {{"kvsweep_version", &run->kvsweep_version},
                {"git_commit", &run->git_commit},
                {"config_yaml", &run->config_yaml},
                {"host", &run->host},
                {"device", &run->device},
                {"isa", &run->isa},
                {"driver", &run->driver},
                {"libraries", &run->libraries},
                {"mode", &run->mode},
                {"plan", &run->plan_text},
                {"created", &f->book.created}};
    int64_t version, ranks, threads, first, topk, packed;
    TRY(h5_get_int(f->file, "schema_version", -1, &version, f->path));
    if (version < 0)
        return err_set(ERR_INPUT, "%s is not a results file of kvsweep (it has no schema_version)", f->path);
    if (version < 1 || version > SCHEMA_VERSION)
        return err_set(ERR_INPUT, "%s has schema version %lld, this program reads 1 to %d and writes %d", f->path,
                       (long long)version, SCHEMA_VERSION, SCHEMA_VERSION);
    f->book.version = (int32_t)version;
    for (size_t i = 0; i < sizeof text / sizeof *text; i++)
        TRY(h5_get_text(f->file, text[i].name, &f->book, text[i].text, f->path));
    TRY(h5_get_int(f->file, "n_ranks", 0, &ranks, f->path));
    TRY(h5_get_int(f->file, "threads", 0, &threads, f->path));
    TRY(h5_get_int(f->file, "logits_first", 0, &first, f->path));
    TRY(h5_get_int(f->file, "logits_topk", 0, &topk, f->path));
    TRY(h5_get_int(f->file, "packed", 0, &packed, f->path));
    TRY(h5_get_int(f->file, "n_units", 0, &f->book.n_unit, f->path));
    run->n_ranks = (int32_t)ranks;
    run->threads = (int32_t)threads;
    run->logits_first = (int)first;
    run->topk = (int)topk;
    f->packed = packed != 0;
    return 0;
}

static const char *keep(struct book *b, const char *p)
{
    return p ? book_keep(b, p, strlen(p)) : "";
}

static int read_table(const struct h5file *f, enum table_id id, void *rows, int64_t *n)
{
    void *got;
    TRY(h5_read_table(f->file, id, f->book.version, &got, n, f->path));
    memcpy(rows, &got, sizeof got);
    return 0;
}

static int read_settings(struct h5file *f)
{
    struct sink_setting *row;
    int64_t n;
    TRY(read_table(f, T_SETTINGS, &row, &n));
    for (int64_t i = 0; i < n; i++)
        book_add_setting(&f->book, &row[i]);
    h5_free_table(T_SETTINGS, row, n);
    return 0;
}

static int read_tasks(struct h5file *f)
{
    struct sink_task *row;
    int64_t n;
    TRY(read_table(f, T_TASKS, &row, &n));
    for (int64_t i = 0; i < n; i++)
        book_add_task(&f->book, &row[i]);
    h5_free_table(T_TASKS, row, n);
    return 0;
}

static bool inside(int64_t at, int64_t len, int64_t total)
{
    return at >= 0 && len >= 0 && at <= total && len <= total - at;
}

static int read_examples(struct h5file *f)
{
    struct row_example *row;
    int64_t n, n_text;
    char *text;
    struct book *b = &f->book;
    int rc = 0;
    TRY(h5_read_array(f->file, "text", H5T_NATIVE_UINT8, 1, (void **)&text, &n_text, f->path));
    TRY_GOTO(read_table(f, T_EXAMPLES, &row, &n), done);
    for (int64_t i = 0; i < n && rc == 0; i++) {
        const struct row_example *e = &row[i];
        if (e->task < 0 || e->task >= b->n_task ||
            (e->gold_at >= 0 && !inside(e->gold_at, e->gold_len, n_text))) {
            rc = err_set(ERR_INPUT, "row %lld of /examples of %s points outside the file", (long long)i,
                         f->path);
            break;
        }
        *MEM_PUSH(b->example, b->n_example, b->cap_example) = (struct sink_example){
            .task = e->task,
            .example = e->example,
            .id = keep(b, e->id),
            .n_words = e->n_words,
            .iteration = e->iteration,
            .length = e->length,
            .depth = e->depth,
            .gold_json = e->gold_at < 0 ? "" : book_keep(b, text + e->gold_at, (size_t)e->gold_len),
        };
    }
    h5_free_table(T_EXAMPLES, row, n);
    book_sort(b);
done:
    free(text);
    return rc;
}

static int read_timing(struct h5file *f)
{
    int64_t n;
    TRY(read_table(f, T_TIMING, &f->timing, &n));
    for (int64_t i = 0; i < n; i++) {
        struct sink_timing t = f->timing[i];
        if (t.setting < 0 || t.setting >= f->book.n_setting || t.task < 0 || t.task >= f->book.n_task)
            continue;
        if (f->book.version < 2)
            t.s_compress = NAN;
        f->timing[f->n_timing++] = t;
    }
    return 0;
}

static int open_part(struct h5file *f, struct h5_logits *g, hid_t group, enum part p)
{
    g->dset[p] = -1;
    if (H5Lexists(group, part_name(p), H5P_DEFAULT) <= 0)
        return 0;
    hsize_t dim[2] = {0, 1};
    g->dset[p] = H5Dopen2(group, part_name(p), H5P_DEFAULT);
    hid_t space = H5Dget_space(g->dset[p]);
    bool ok = space >= 0 && H5Sget_simple_extent_ndims(space) == (p == PART_LOGSUMEXP ? 1 : 2) &&
              H5Sget_simple_extent_dims(space, dim, NULL) >= 0 && dim[0] < INT64_MAX && dim[1] <= INT32_MAX;
    H5Sclose(space);
    g->n_row[p] = (int64_t)dim[0];
    g->width[p] = (int64_t)dim[1];
    return ok ? 0 : h5_error(ERR_INPUT, "/logits/…/%s of %s has another shape", part_name(p), f->path);
}

static int open_logits(struct h5file *f)
{
    if (H5Lexists(f->file, "logits", H5P_DEFAULT) <= 0)
        return 0;
    hid_t all = H5Gopen2(f->file, "logits", H5P_DEFAULT);
    H5G_info_t info = {0};
    int rc = all < 0 || H5Gget_info(all, &info) < 0
                 ? h5_error(ERR_INPUT, "cannot read /logits of %s", f->path)
                 : 0;
    f->logits = mem_alloc((size_t)info.nlinks, sizeof *f->logits);
    for (hsize_t i = 0; i < info.nlinks && rc == 0; i++) {
        hid_t group = H5Oopen_by_idx(all, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT);
        struct h5_logits *g = &f->logits[f->n_logits++];
        for (int p = 0; p < PART_N; p++)
            g->dset[p] = -1;
        if (group < 0 || H5Iget_type(group) != H5I_GROUP)
            rc = h5_error(ERR_INPUT, "/logits of %s holds something that is not a group", f->path);
        if (rc == 0)
            rc = h5_get_text(group, "model", &f->book, &g->model, f->path);
        if (rc == 0)
            rc = h5_get_text(group, "model_hash", &f->book, &g->model_hash, f->path);
        for (int p = 0; p < PART_N && rc == 0; p++)
            rc = open_part(f, g, group, (enum part)p);
        H5Oclose(group);
    }
    H5Gclose(all);
    return rc;
}

/* What the numbers of a file of schema 1 are by later columns: its questions are inside the prompts. */
static void complete_row(struct row_record *r)
{
    r->n_context = r->n_prompt;
    r->kept_min = r->kept_max = -1;
}

static int check_rows(const struct h5file *f)
{
    for (int64_t i = 0; i < f->n_row; i++) {
        struct row_record *r = &f->row[i];
        if (f->book.version < 2)
            complete_row(r);
        if (r->setting < 0 || r->setting >= f->book.n_setting || r->task < 0 || r->task >= f->book.n_task ||
            r->status < 0 || r->status >= ST_N || r->stop < 0 || r->stop >= STOP_N || r->n_new < 0)
            return err_set(ERR_INPUT, "row %lld of /records of %s is damaged", (long long)i, f->path);
    }
    return 0;
}

int h5file_open(struct h5file *f, const char *path)
{
    h5_quiet();
    *f = (struct h5file){.path = mem_strdup(path), .file = -1};
    int rc;
    TRY_GOTO(h5_open(&f->file, path), done);
    TRY_GOTO(read_root(f), done);
    TRY_GOTO(read_settings(f), done);
    TRY_GOTO(read_tasks(f), done);
    TRY_GOTO(read_examples(f), done);
    TRY_GOTO(read_timing(f), done);
    TRY_GOTO(read_table(f, T_RECORDS, &f->row, &f->n_row), done);
    TRY_GOTO(check_rows(f), done);
    TRY_GOTO(open_logits(f), done);
done:
    if (rc < 0)
        h5file_close(f);
    return rc;
}

void h5file_close(struct h5file *f)
{
    for (int i = 0; i < f->n_logits; i++)
        for (int p = 0; p < PART_N; p++)
            if (f->logits[i].dset[p] >= 0)
                H5Dclose(f->logits[i].dset[p]);
    if (f->path && f->file >= 0)
        H5Fclose(f->file);
    free(f->path);
    free(f->row);
    free(f->timing);
    free(f->logits);
    free(f->small_at);
    free(f->count);
    str_free(&f->small);
    book_free(&f->book);
    *f = (struct h5file){.file = -1};
}

/* ---- records ---- */
/* Rows of a side table grouped by the record they belong to: those of record i are order[from[i]] …
 * order[from[i + 1] - 1], in their own order. */
struct grouped {
    void *row;
    int64_t n, *from, *order;
};

static void free_grouped(struct grouped *g)
{
    free(g->row);
    free(g->from);
    free(g->order);
}

static int read_grouped(const struct h5file *f, enum table_id id, struct grouped *g)
{
    *g = (struct grouped){0};
    TRY(read_table(f, id, &g->row, &g->n));
    size_t bytes = schema_table(id)->row_bytes; /* the first column is `record`, i64 */
    g->from = mem_alloc((size_t)f->n_row + 2, sizeof *g->from);
    g->order = mem_alloc((size_t)g->n, sizeof *g->order);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < g->n; i++) {
            int64_t record;
            memcpy(&record, (char *)g->row + (size_t)i * bytes, sizeof record);
            if (record < 0 || record >= f->n_row)
                return err_set(ERR_INPUT, "row %lld of /%s of %s belongs to no record", (long long)i,
                               schema_table(id)->name, f->path);
            if (pass == 0)
                g->from[record + 2]++;
            else
                g->order[g->from[record + 1]++] = i;
        }
        for (int64_t i = 0; pass == 0 && i < f->n_row; i++)
            g->from[i + 2] += g->from[i + 1];
    }
    return 0;
}

struct tables {
    char *text;
    int32_t *token;
    int64_t n_text, n_token;
    struct grouped metric, budget, ledger, fidelity;
};

static int read_tables(const struct h5file *f, struct tables *t)
{
    TRY(h5_read_array(f->file, "text", H5T_NATIVE_UINT8, 1, (void **)&t->text, &t->n_text, f->path));
    TRY(h5_read_array(f->file, "tokens", H5T_NATIVE_INT32, 4, (void **)&t->token, &t->n_token, f->path));
    TRY(read_grouped(f, T_METRICS, &t->metric));
    TRY(read_grouped(f, T_BUDGETS, &t->budget));
    TRY(read_grouped(f, T_LEDGER, &t->ledger));
    return read_grouped(f, T_FIDELITY, &t->fidelity);
}

static void free_tables(struct tables *t)
{
    free(t->text);
    free(t->token);
    free_grouped(&t->metric);
    free_grouped(&t->budget);
    free_grouped(&t->ledger);
    free_grouped(&t->fidelity);
}

static int32_t group_count(const struct grouped *g, int64_t i)
{
    int64_t n = g->from[i + 1] - g->from[i];
    return n > INT32_MAX ? INT32_MAX : (int32_t)n;
}

static void values_of(struct record *r, const struct tables *t, int64_t i)
{
    const struct row_value *m = t->metric.row, *b = t->budget.row;
    const struct row_ledger *l = t->ledger.row;
    const struct row_fidelity *y = t->fidelity.row;
    r->n_metric = group_count(&t->metric, i);
    r->n_budget = group_count(&t->budget, i);
    r->n_ledger = group_count(&t->ledger, i);
    r->n_fidelity = group_count(&t->fidelity, i);
    r->metric = mem_alloc((size_t)r->n_metric, sizeof *r->metric);
    r->budget = mem_alloc((size_t)r->n_budget, sizeof *r->budget);
    r->ledger = mem_alloc((size_t)r->n_ledger, sizeof *r->ledger);
    r->fidelity = mem_alloc((size_t)r->n_fidelity, sizeof *r->fidelity);
    for (int k = 0; k < r->n_metric; k++) {
        const struct row_value *v = &m[t->metric.order[t->metric.from[i] + k]];
        r->metric[k] = (struct record_metric){v->name, v->value};
    }
    for (int k = 0; k < r->n_budget; k++) {
        const struct row_value *v = &b[t->budget.order[t->budget.from[i] + k]];
        r->budget[k] = (struct record_budget){v->name, v->value};
    }
    for (int k = 0; k < r->n_ledger; k++) {
        const struct row_ledger *v = &l[t->ledger.order[t->ledger.from[i] + k]];
        r->ledger[k] = (struct record_ledger){v->kind, v->place, v->bytes};
    }
    for (int k = 0; k < r->n_fidelity; k++) {
        const struct row_fidelity *v = &y[t->fidelity.order[t->fidelity.from[i] + k]];
        r->fidelity[k] = (struct record_fidelity){v->step, v->kl, v->top1, v->gold_logprob};
    }
}

static int record_of(const struct h5file *f, const struct tables *t, int64_t i, struct record *r)
{
    const struct row_record *w = &f->row[i];
    if ((w->text_at >= 0 && !inside(w->text_at, w->text_len, t->n_text)) ||
        (w->error_at >= 0 && !inside(w->error_at, w->error_len, t->n_text)) ||
        (w->token_at >= 0 && !inside(w->token_at, w->n_new, t->n_token)))
        return err_set(ERR_INPUT, "row %lld of /records of %s points outside the file", (long long)i,
                       f->path);
    *r = (struct record){
#define RECORD(type, name, role, since, units, what) .name = w->name,
#include "run/record.def"
    };
    if (w->text_at >= 0) {
        r->text = mem_strndup(t->text + w->text_at, (size_t)w->text_len);
        r->n_text = (size_t)w->text_len;
    }
    if (w->error_at >= 0)
        r->error = mem_strndup(t->text + w->error_at, (size_t)w->error_len);
    if (w->token_at >= 0 && w->n_new)
        r->token = mem_dup(t->token + w->token_at, (size_t)w->n_new * 4);
    values_of(r, t, i);
    return 0;
}

static const struct h5_logits *logits_of(const struct h5file *f, int32_t setting)
{
    const struct sink_setting *s = &f->book.setting[setting];
    for (int i = 0; i < f->n_logits; i++)
        if (strcmp(f->logits[i].model, s->model) == 0 && strcmp(f->logits[i].model_hash, s->model_hash) == 0)
            return &f->logits[i];
    return NULL;
}

/* How many rows of `first` a record has is not stored: they end where those of the next record of the model
 * begin. Records with rows, ordered by model, then place. */
struct place {
    const struct h5_logits *group;
    int64_t at, record;
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static int count_logits(struct h5file *f)
{
    struct place *p = mem_alloc((size_t)f->n_row, sizeof *p);
    int64_t n = 0;
    int rc = 0;
    for (int64_t i = 0; i < f->n_row && rc == 0; i++) {
        const struct row_record *w = &f->row[i];
        const struct h5_logits *g = logits_of(f, w->setting);
        f->count[i].n_new = w->n_new;
        if ((w->first_at >= 0 && (!g || w->first_at >= g->n_row[PART_FIRST])) ||
            (w->logit_at >= 0 && (!g || !inside(w->logit_at, w->n_new, g->n_row[PART_TOPK_ID]) ||
                                  !inside(w->logit_at, w->n_new, g->n_row[PART_TOPK_LOGIT]) ||
                                  !inside(w->logit_at, w->n_new, g->n_row[PART_LOGSUMEXP]) ||
                                  g->width[PART_TOPK_ID] != g->width[PART_TOPK_LOGIT])))
            rc = err_set(ERR_INPUT, "row %lld of /records of %s points outside /logits", (long long)i,
                         f->path);
        else if (w->first_at >= 0)
            p[n++] = (struct place){g, w->first_at, i};
        if (rc == 0 && w->logit_at >= 0)
            f->count[i].n_top = (int32_t)g->width[PART_TOPK_ID];
    }
    qsort(p, (size_t)n, sizeof *p, by_place);
    for (int64_t k = 0; k < n && rc == 0; k++) {
        int64_t end = k + 1 < n && p[k + 1].group == p[k].group ? p[k + 1].at : p[k].group->n_row[PART_FIRST];
        struct record *c = &f->count[p[k].record];
        if (end - p[k].at > INT32_MAX)
            rc = err_set(ERR_INPUT, "/logits/…/first of %s is damaged", f->path);
        c->n_first = (int32_t)(end - p[k].at);
        c->n_vocab = (int32_t)p[k].group->width[PART_FIRST];
    }
    free(p);
    return rc;
}

int h5file_load(struct h5file *f)
{
    struct tables t = {0};
    int rc;
    f->small_at = mem_alloc((size_t)f->n_row + 1, sizeof *f->small_at);
    f->count = mem_alloc((size_t)f->n_row, sizeof *f->count);
    TRY_GOTO(count_logits(f), done);
    TRY_GOTO(read_tables(f, &t), done);
    for (int64_t i = 0; i < f->n_row; i++) {
        struct record r;
        struct str none = {0};
        TRY_GOTO(record_of(f, &t, i, &r), done);
        record_pack(&r, 1, &f->small, &none);
        record_free(&r);
        f->small_at[i + 1] = f->small.n;
    }
done:
    free_tables(&t);
    return rc;
}

int h5file_part(const struct h5file *f, int64_t i, enum part p, int64_t at, int64_t n, void *dst)
{
    const struct row_record *w = &f->row[i];
    const struct h5_logits *g = logits_of(f, w->setting);
    hsize_t start[2] = {(hsize_t)((p == PART_FIRST ? w->first_at : w->logit_at) + at), 0};
    hsize_t count[2] = {(hsize_t)n, (hsize_t)g->width[p]};
    int rank = p == PART_LOGSUMEXP ? 1 : 2;
    hid_t file_space = H5Dget_space(g->dset[p]), mem_space = H5Screate_simple(rank, count, NULL);
    hid_t type =
        part_size(p) == 2 ? schema_f16() : H5Tcopy(p == PART_TOPK_ID ? H5T_STD_I32LE : H5T_IEEE_F32LE);
    bool ok = H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
              H5Dread(g->dset[p], type, mem_space, file_space, H5P_DEFAULT, dst) >= 0;
    H5Tclose(type);
    H5Sclose(mem_space);
    H5Sclose(file_space);
    return ok ? 0 : h5_error(ERR_INPUT, "cannot read /logits/…/%s of %s", part_name(p), f->path);
}
