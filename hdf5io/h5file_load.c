/* Reading an open results file: records with what belongs to them, logits by row. */
#include "hdf5io/h5file_int.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

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
    TRY(h5file_table(f, id, &g->row, &g->n));
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
    if ((w->text_at >= 0 && !h5file_inside(w->text_at, w->text_len, t->n_text)) ||
        (w->error_at >= 0 && !h5file_inside(w->error_at, w->error_len, t->n_text)) ||
        (w->token_at >= 0 && !h5file_inside(w->token_at, w->n_new, t->n_token)))
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
            (w->logit_at >= 0 && (!g || !h5file_inside(w->logit_at, w->n_new, g->n_row[PART_TOPK_ID]) ||
                                  !h5file_inside(w->logit_at, w->n_new, g->n_row[PART_TOPK_LOGIT]) ||
                                  !h5file_inside(w->logit_at, w->n_new, g->n_row[PART_LOGSUMEXP]) ||
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

/* One dataset, a chunk of rows at a time. */
static int check_part(const struct h5file *f, const struct h5_logits *g, enum part p)
{
    hsize_t chunk[2] = {1, 1};
    hid_t prop = H5Dget_create_plist(g->dset[p]), space = H5Dget_space(g->dset[p]),
          type = H5Dget_type(g->dset[p]);
    bool ok = prop >= 0 && (H5Pget_layout(prop) != H5D_CHUNKED || H5Pget_chunk(prop, 2, chunk) > 0);
    char *buf = ok ? mem_grow(NULL, chunk[0] * (size_t)(g->width[p] + 1), part_size(p)) : NULL;
    hsize_t at[2] = {0, 0}, n[2] = {chunk[0], (hsize_t)g->width[p]}, rows = (hsize_t)g->n_row[p];
    for (; ok && at[0] < rows; at[0] += n[0]) {
        n[0] = rows - at[0] < chunk[0] ? rows - at[0] : chunk[0];
        hid_t mem = H5Screate_simple(p == PART_LOGSUMEXP ? 1 : 2, n, NULL);
        ok = H5Tget_size(type) == part_size(p) &&
             H5Sselect_hyperslab(space, H5S_SELECT_SET, at, NULL, n, NULL) >= 0 &&
             H5Dread(g->dset[p], type, mem, space, H5P_DEFAULT, buf) >= 0;
        H5Sclose(mem);
    }
    free(buf);
    H5Tclose(type);
    H5Sclose(space);
    H5Pclose(prop);
    return ok ? 0
              : h5_error(ERR_DAMAGED,
                         "/logits/…/%s of %s is damaged: restore the file from a copy, or move it "
                         "away and compute it again",
                         part_name(p), f->path);
}

int h5file_check_logits(const struct h5file *f)
{
    for (int i = 0; i < f->n_logits; i++)
        for (int p = 0; p < PART_N; p++)
            if (f->logits[i].dset[p] >= 0)
                TRY(check_part(f, &f->logits[i], (enum part)p));
    return 0;
}
