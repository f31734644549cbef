#include "hdf5io/build.h"

#include "hdf5io/keep.h"
#include "hdf5io/out.h"
#include "hdf5io/seal.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Logits of one model. */
struct group {
    const char *model, *model_hash;
    char *name;
    int64_t n_row[PART_N], width[PART_N];
    struct out out[PART_N];
};
struct build {
    struct store *s;
    hid_t file;
    bool logits;
    int deflate;
    struct out table[T_N], text, token;
    struct group *group;
    int n_group;
    int *group_of;  /* [n_setting] */
    char *block;    /* for rows of logits on their way */
    int64_t n_lost; /* units whose logits were gone */
};
#define BLOCK_BYTES (2 << 20)

static const char *nothing(const char *s)
{
    return s ? s : "";
}

static int put_root(struct build *b, int64_t n_unit)
{
    const struct book *k = &b->s->book;
    const struct sink_run *r = &k->run;
    const struct {
        const char *name, *value;
    } text[] = {{"kvsweep_version", r->kvsweep_version},
                {"git_commit", r->git_commit},
                {"config_yaml", r->config_yaml},
                {"created", k->created},
                {"host", r->host},
                {"device", r->device},
                {"isa", r->isa},
                {"driver", r->driver},
                {"libraries", r->libraries},
                {"mode", r->mode},
                {"plan", r->plan_text}};
    const struct {
        const char *name;
        int64_t value;
        hid_t type;
    } number[] = {{"schema_version", SCHEMA_VERSION, H5T_STD_I32LE},
                  {"n_ranks", r->n_ranks, H5T_STD_I32LE},
                  {"threads", r->threads, H5T_STD_I32LE},
                  {"n_units", n_unit, H5T_STD_I64LE},
                  {"logits_first", r->logits_first, H5T_STD_I32LE},
                  {"logits_topk", r->topk, H5T_STD_I32LE},
                  {"packed", b->logits, H5T_STD_I32LE}};
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        if (schema_put_int(b->file, number[i].name, number[i].value, number[i].type) < 0)
            return h5_error(ERR_IO, "cannot write attribute %s", number[i].name);
    for (size_t i = 0; i < sizeof text / sizeof *text; i++)
        if (schema_put_text(b->file, text[i].name, nothing(text[i].value)) < 0)
            return h5_error(ERR_IO, "cannot write attribute %s", text[i].name);
    return 0;
}

static int open_table(struct build *b, enum table_id id, int64_t n)
{
    const struct table *t = schema_table(id);
    int deflate =
        id <= T_EXAMPLES ? 0 : b->deflate; /* text lies elsewhere: filters would only see references */
    TRY(out_open(&b->table[id], b->file, t->name, schema_compound(id, SCHEMA_VERSION), t->row_bytes, 0, n,
                 deflate));
    b->table[id].sum = check_open(t, 0);
    return schema_describe(b->table[id].dset, id) < 0 ? h5_error(ERR_IO, "cannot describe /%s", t->name) : 0;
}

static int open_array(struct build *b, struct out *o, hid_t where, const char *name, hid_t type, size_t bytes,
                      int64_t width, int64_t n, const char *units, const char *long_name)
{
    TRY(out_open(o, where, name, type, bytes, width, n, b->deflate));
    if (schema_put_text(o->dset, "units", units) < 0 || schema_put_text(o->dset, "long_name", long_name) < 0)
        return h5_error(ERR_IO, "cannot describe %s", name);
    return 0;
}

static int open_tables(struct build *b)
{
    struct store *s = b->s;
    int64_t gold = 0;
    for (int64_t i = 0; i < s->book.n_example; i++)
        gold += (int64_t)strlen(nothing(s->book.example[i].gold_json));
    TRY(open_table(b, T_SETTINGS, s->book.n_setting));
    TRY(open_table(b, T_TASKS, s->book.n_task));
    TRY(open_table(b, T_EXAMPLES, s->book.n_example));
    TRY(open_table(b, T_RECORDS, s->n));
    TRY(open_table(b, T_METRICS, s->n_metric));
    TRY(open_table(b, T_BUDGETS, s->n_budget));
    TRY(open_table(b, T_LEDGER, s->n_ledger));
    TRY(open_table(b, T_TIMING, s->n_timing));
    TRY(open_table(b, T_FIDELITY, s->n_fidelity));
    TRY(open_array(b, &b->text, b->file, "text", H5Tcopy(H5T_STD_U8LE), 1, 0, gold + s->n_text, "UTF-8 bytes",
                   "right answers, answers, error messages; places are in /examples and /records"));
    TRY(open_array(b, &b->token, b->file, "tokens", H5Tcopy(H5T_STD_I32LE), 4, 0, s->n_token, "token id",
                   "generated tokens; places are in /records"));
    b->text.sum = check_open(NULL, 1);
    b->token.sum = check_open(NULL, 4);
    return 0;
}

/* ---- logits ---- */
static char *group_name(const struct build *b, const char *model)
{
    char *clean = mem_strdup(model[0] ? model : "_");
    for (char *p = clean; *p; p++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", *p))
            *p = '_';
    if (strspn(clean, ".") == strlen(clean)) /* HDF5 gives "." a meaning of its own */
        clean[0] = '_';
    char *name = mem_strdup(clean);
    for (int k = 2;; k++) {
        bool taken = false;
        for (int i = 0; i < b->n_group; i++)
            taken = taken || strcmp(b->group[i].name, name) == 0;
        if (!taken)
            break;
        free(name);
        name = mem_printf("%s_%d", clean, k);
    }
    free(clean);
    return name;
}

static int count_group(struct group *g, const struct entry *e)
{
    struct record r = {.n_new = e->n_new, .n_first = e->n_first, .n_vocab = e->n_vocab, .n_top = e->n_top};
    for (int p = 0; p < PART_N; p++) {
        int64_t rows = part_rows((enum part)p, &r), width = part_width((enum part)p, &r);
        if (rows == 0)
            continue;
        if (g->n_row[p] && g->width[p] != width)
            return err_set(ERR_INPUT, "records of model %s have rows of %lld and of %lld values in %s",
                           g->model, (long long)g->width[p], (long long)width, part_name((enum part)p));
        g->n_row[p] += rows;
        g->width[p] = width;
    }
    return 0;
}

static int find_groups(struct build *b)
{
    const struct book *k = &b->s->book;
    b->group_of = mem_alloc((size_t)k->n_setting, sizeof *b->group_of);
    b->group = mem_alloc((size_t)k->n_setting, sizeof *b->group);
    for (int i = 0; i < k->n_setting; i++) {
        const char *model = nothing(k->setting[i].model), *hash = nothing(k->setting[i].model_hash);
        int g = 0;
        while (g < b->n_group && (strcmp(b->group[g].model, model) || strcmp(b->group[g].model_hash, hash)))
            g++;
        if (g == b->n_group) {
            b->group[g] = (struct group){.model = model, .model_hash = hash, .name = group_name(b, model)};
            b->n_group++;
        }
        b->group_of[i] = g;
    }
    for (int64_t i = 0; i < b->s->n; i++)
        TRY(count_group(&b->group[b->group_of[b->s->entry[i].setting]], &b->s->entry[i]));
    return 0;
}

static int open_group(struct build *b, struct group *g, hid_t all)
{
    static const char *const long_name[PART_N] = {
        "ids of the most likely tokens at each generated token, most likely first",
        "log of the sum of exp of all logits", "their raw logits",
        "raw logits of the first answer token, or of all"};
    static const char *const units[PART_N] = {"token id", "logit", "logit", "logit"};
    hid_t group = H5Gcreate2(all, g->name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    int rc = group < 0 || schema_put_text(group, "model", g->model) < 0 ||
                     schema_put_text(group, "model_hash", g->model_hash) < 0
                 ? h5_error(ERR_IO, "cannot make /logits/%s", g->name)
                 : 0;
    for (int p = 0; p < PART_N && rc == 0; p++) {
        if (g->n_row[p] == 0)
            continue;
        hid_t type = part_size((enum part)p) == 2 ? schema_f16()
                     : p == PART_TOPK_ID          ? H5Tcopy(H5T_STD_I32LE)
                                                  : H5Tcopy(H5T_IEEE_F32LE);
        rc = open_array(b, &g->out[p], group, part_name((enum part)p), type, part_size((enum part)p),
                        p == PART_LOGSUMEXP ? 0 : g->width[p], g->n_row[p], units[p], long_name[p]);
    }
    H5Gclose(group);
    return rc;
}

static int open_groups(struct build *b)
{
    if (!b->logits)
        return 0;
    TRY(find_groups(b));
    hid_t all = H5Gcreate2(b->file, "logits", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    int rc = all < 0 ? h5_error(ERR_IO, "cannot make /logits") : 0;
    for (int i = 0; i < b->n_group && rc == 0; i++) {
        const struct group *g = &b->group[i];
        if (g->n_row[PART_FIRST] || g->n_row[PART_TOPK_ID])
            rc = open_group(b, &b->group[i], all);
    }
    H5Gclose(all);
    b->block = mem_grow(NULL, BLOCK_BYTES, 1);
    return rc;
}

/* Copies one part of a record; *at becomes its first row. A row never is larger than the block's room: the
 * block grows for it. */
static int add_part(struct build *b, struct group *g, int64_t k, const struct record *r, enum part p,
                    int64_t *at)
{
    int64_t rows = part_rows(p, r);
    size_t row = (size_t)part_width(p, r) * part_size(p);
    if (rows == 0)
        return 0;
    int64_t step = row > BLOCK_BYTES ? 1 : (int64_t)(BLOCK_BYTES / row);
    if (row > BLOCK_BYTES)
        b->block = mem_grow(b->block, row, 1);
    *at = g->out[p].n;
    for (int64_t i = 0; i < rows; i += step) {
        int64_t n = rows - i < step ? rows - i : step;
        TRY(store_part(b->s, k, r, p, i, n, b->block));
        TRY(out_add(&g->out[p], b->block, n));
    }
    return 0;
}

static int add_logits(struct build *b, int64_t k, const struct record *r, struct row_record *w)
{
    int64_t same;
    if (!b->logits || (part_rows(PART_FIRST, r) == 0 && part_rows(PART_TOPK_ID, r) == 0))
        return 0;
    if (!store_check(b->s, k)) {
        b->n_lost++;
        return 0;
    }
    struct group *g = &b->group[b->group_of[r->setting]];
    int64_t first = -1, logit = -1;
    TRY(add_part(b, g, k, r, PART_TOPK_ID, &logit));
    TRY(add_part(b, g, k, r, PART_LOGSUMEXP, &same));
    TRY(add_part(b, g, k, r, PART_TOPK_LOGIT, &same));
    TRY(add_part(b, g, k, r, PART_FIRST, &first));
    w->logit_at = logit;
    w->first_at = first;
    return 0;
}

/* ---- rows ---- */
static char *owned_elsewhere(const char *s)
{
    return (char *)(uintptr_t)nothing(s); /* HDF5 wants char *, and only reads */
}

/* The rows of the book are those of the file: all their texts are there. */
static int add_settings(struct build *b)
{
    const struct book *k = &b->s->book;
    TRY(out_add(&b->table[T_SETTINGS], k->setting, k->n_setting));
    return out_add(&b->table[T_TASKS], k->task, k->n_task);
}

static int add_examples(struct build *b)
{
    for (int64_t i = 0; i < b->s->book.n_example; i++) {
        const struct sink_example *e = &b->s->book.example[i];
        struct row_example row = {
            .task = e->task,
            .example = e->example,
            .id = owned_elsewhere(e->id),
            .n_words = e->n_words,
            .length = e->length,
            .depth = e->depth,
            .iteration = e->iteration,
            .gold_at = b->text.n,
            .gold_len = (int64_t)strlen(nothing(e->gold_json)),
        };
        TRY(out_add(&b->text, nothing(e->gold_json), row.gold_len));
        TRY(out_add(&b->table[T_EXAMPLES], &row, 1));
    }
    return 0;
}

static int add_text(struct build *b, const char *text, size_t n, int64_t *at, int64_t *len)
{
    *at = -1;
    *len = 0;
    if (!text)
        return 0;
    *at = b->text.n;
    *len = (int64_t)n;
    return out_add(&b->text, text, *len);
}

static int add_values(struct build *b, int64_t k, const struct record *r)
{
    for (int i = 0; i < r->n_metric; i++) {
        struct row_value v = {k, r->metric[i].name, r->metric[i].value};
        TRY(out_add(&b->table[T_METRICS], &v, 1));
    }
    for (int i = 0; i < r->n_budget; i++) {
        struct row_value v = {k, r->budget[i].name, r->budget[i].value};
        TRY(out_add(&b->table[T_BUDGETS], &v, 1));
    }
    for (int i = 0; i < r->n_ledger; i++) {
        struct row_ledger v = {k, r->ledger[i].kind, r->ledger[i].place, r->ledger[i].bytes};
        TRY(out_add(&b->table[T_LEDGER], &v, 1));
    }
    for (int i = 0; i < r->n_fidelity; i++) {
        const struct record_fidelity *f = &r->fidelity[i];
        struct row_fidelity v = {k, f->step, f->kl, f->top1, f->gold_logprob};
        TRY(out_add(&b->table[T_FIDELITY], &v, 1));
    }
    return 0;
}

static int add_record(struct build *b, int64_t k, const struct record *r)
{
    struct row_record w = {
#define RECORD(type, name, role, since, units, what) .name = r->name,
#define PLACE(name, units, what)                     .name = -1,
#include "run/record.def"
    };
    int64_t at, len;
    TRY(add_text(b, r->text, r->n_text, &at, &len));
    w.text_at = at;
    w.text_len = len;
    TRY(add_text(b, r->error, strlen(nothing(r->error)), &at, &len));
    w.error_at = at;
    w.error_len = len;
    if (r->token && r->n_new > 0) {
        w.token_at = b->token.n;
        TRY(out_add(&b->token, r->token, r->n_new));
    }
    TRY(add_values(b, k, r));
    TRY(add_logits(b, k, r, &w));
    return out_add(&b->table[T_RECORDS], &w, 1);
}

static int add_all(struct build *b)
{
    TRY(add_settings(b));
    TRY(add_examples(b));
    TRY(out_add(&b->table[T_TIMING], b->s->timing, b->s->n_timing));
    store_sort(b->s);
    for (int64_t k = 0; k < b->s->n; k++) {
        struct record r;
        TRY(store_read(b->s, k, &r));
        int rc = add_record(b, k, &r);
        record_free(&r);
        TRY(rc);
        TRY(poll_call(&b->s->poll));
    }
    return 0;
}

/* ---- the file ---- */
/* The attributes are complete. A file in which logits are missing that were asked for is not packed. */
static int finish_root(struct build *b)
{
    if (b->n_lost &&
        (H5Adelete(b->file, "packed") < 0 || schema_put_int(b->file, "packed", 0, H5T_STD_I32LE) < 0))
        return h5_error(ERR_IO, "cannot write attribute packed");
    return check_put_root(b->file) < 0 ? h5_error(ERR_IO, "cannot write the checksum of the attributes") : 0;
}

/* What users added to the file that is replaced and to those that it is made from. */
static int keep_all(struct build *b, const char *old)
{
    TRY(keep_users(b->file, old));
    for (int i = 0; i < b->s->n_source; i++)
        if (b->s->source[i].h5 && strcmp(b->s->source[i].path, old) != 0)
            TRY(keep_users(b->file, b->s->source[i].path));
    return 0;
}

/* Writes what waits, or drops it after an error. */
static int close_outs(struct build *b, int rc)
{
    struct out *o[T_N + 2];
    for (int i = 0; i < T_N; i++)
        o[i] = &b->table[i];
    o[T_N] = &b->text;
    o[T_N + 1] = &b->token;
    for (int i = 0; i < T_N + 2; i++) {
        if (rc == 0)
            rc = out_close(o[i]);
        out_drop(o[i]);
    }
    for (int i = 0; i < b->n_group; i++) {
        for (int p = 0; p < PART_N; p++) {
            if (rc == 0)
                rc = out_close(&b->group[i].out[p]);
            out_drop(&b->group[i].out[p]);
        }
    }
    return rc;
}

static int close_all(struct build *b, int rc)
{
    rc = close_outs(b, rc);
    for (int i = 0; i < b->n_group; i++)
        free(b->group[i].name);
    free(b->group);
    free(b->group_of);
    free(b->block);
    if (rc == 0 && H5Fflush(b->file, H5F_SCOPE_GLOBAL) < 0)
        rc = h5_error(ERR_IO, "cannot write the file");
    if (b->file >= 0 && H5Fclose(b->file) < 0 && rc == 0)
        rc = h5_error(ERR_IO, "cannot close the file");
    return rc;
}

/* The format of HDF5 1.10 has checksums on its metadata: damage is refused where older formats crash readers.
 */
static int write_file(struct build *b, const char *path, const char *old, int64_t n_unit)
{
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (fapl < 0 || H5Pset_file_locking(fapl, false, true) < 0 ||
        H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0)
        return h5_error(ERR_INTERNAL, "cannot set up HDF5");
    b->file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, fapl);
    int rc =
        b->file < 0 ? h5_error(ERR_IO, "cannot make the file") : 0; /* the next call forgets the reason */
    H5Pclose(fapl);
    TRY(rc);
    TRY_GOTO(put_root(b, n_unit), done);
    TRY_GOTO(open_tables(b), done);
    TRY_GOTO(open_groups(b), done);
    TRY_GOTO(add_all(b), done);
    TRY_GOTO(finish_root(b), done);
    TRY_GOTO(close_outs(b, 0), done);
    TRY_GOTO(keep_all(b, old), done);
done:
    return close_all(b, rc);
}

int build_file(struct store *s, const char *path, bool logits, int deflate, int64_t n_unit,
               const struct lock *lock, int64_t *n_lost)
{
    struct build b = {.s = s, .file = -1, .logits = logits, .deflate = deflate};
    if (s->book.version != SCHEMA_VERSION)
        return err_set(
            ERR_INPUT,
            "cannot write %s: results of schema version %d stay as they are, their unit ids mean something "
            "else in version %d",
            path, s->book.version, SCHEMA_VERSION);
    char *real = file_resolve(path), *tmp = NULL;
    int rc = file_is_special(real) ? err_set(ERR_INPUT, "%s is not a regular file", path) : 0, fd = -1;
    h5_quiet();
    if (rc == 0 && !(tmp = file_temp(real, &fd)))
        rc = err_of_errno(errno);
    if (rc == 0) {
        close(fd);
        rc = write_file(&b, tmp, real, n_unit);
        rc = rc < 0 ? err_prefix(rc, "cannot write %s", path) : 0;
    }
    if (rc == 0)
        rc = seal_put(tmp);
    if (rc == 0) /* H5Fclose may write after any flush: the sync comes after it */
        rc = file_sync(tmp, &s->poll);
    if (rc == 0 && lock)
        rc = lock_check(lock);
    if (rc == 0)
        rc = file_take_place(tmp, real);
    if (rc < 0 && tmp)
        unlink(tmp);
    free(tmp);
    free(real);
    if (n_lost)
        *n_lost = b.n_lost;
    return rc;
}
