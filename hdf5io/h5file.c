/* Opening a results file: attributes, tables, the rows of /records. */
#include "hdf5io/h5file_int.h"

#include "hdf5io/check.h"
#include "hdf5io/seal.h"

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
        return err_set(ERR_INPUT, "%s has schema version %lld, this program reads 1 to %d and writes %d",
                       f->path, (long long)version, SCHEMA_VERSION, SCHEMA_VERSION);
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

int h5file_table(const struct h5file *f, enum table_id id, void *rows, int64_t *n)
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
    TRY(h5file_table(f, T_SETTINGS, &row, &n));
    for (int64_t i = 0; i < n; i++)
        book_add_setting(&f->book, &row[i]);
    h5_free_table(T_SETTINGS, row, n);
    return 0;
}

static int read_tasks(struct h5file *f)
{
    struct sink_task *row;
    int64_t n;
    TRY(h5file_table(f, T_TASKS, &row, &n));
    for (int64_t i = 0; i < n; i++)
        book_add_task(&f->book, &row[i]);
    h5_free_table(T_TASKS, row, n);
    return 0;
}

static int read_examples(struct h5file *f)
{
    struct row_example *row;
    int64_t n, n_text;
    char *text;
    struct book *b = &f->book;
    int rc = 0;
    TRY(h5_read_array(f->file, "text", H5T_NATIVE_UINT8, 1, (void **)&text, &n_text, f->path));
    TRY_GOTO(h5file_table(f, T_EXAMPLES, &row, &n), done);
    for (int64_t i = 0; i < n && rc == 0; i++) {
        const struct row_example *e = &row[i];
        if (e->task < 0 || e->task >= b->n_task ||
            (e->gold_at >= 0 && !h5file_inside(e->gold_at, e->gold_len, n_text))) {
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
    TRY(h5file_table(f, T_TIMING, &f->timing, &n));
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

/* What the numbers of a file of schema 1 are by later columns: its questions are h5file_inside the prompts.
 */
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
    TRY_GOTO(seal_check(path), done);
    TRY_GOTO(read_root(f), done);
    TRY_GOTO(check_root(f->file, path), done);
    TRY_GOTO(read_settings(f), done);
    TRY_GOTO(read_tasks(f), done);
    TRY_GOTO(read_examples(f), done);
    TRY_GOTO(read_timing(f), done);
    TRY_GOTO(h5file_table(f, T_RECORDS, &f->row, &f->n_row), done);
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
