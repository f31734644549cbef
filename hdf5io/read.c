#include "hdf5io/read.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "hdf5io/store.h"

#include <stdlib.h>
#include <string.h>

/* The results' pointers go into this; they are not const in struct results only for the reader's comfort. */
struct owned {
    struct book book;
};

static char *plain(const char *text)
{
    return (char *)(uintptr_t)(text ? text : "");
}

static void take_book(struct results *r, struct owned *o)
{
    const struct book *b = &o->book;
    r->kvsweep_version = plain(b->run.kvsweep_version);
    r->git_commit = plain(b->run.git_commit);
    r->config_yaml = plain(b->run.config_yaml);
    r->created = plain(b->created);
    r->host = plain(b->run.host);
    r->device = plain(b->run.device);
    r->isa = plain(b->run.isa);
    r->driver = plain(b->run.driver);
    r->libraries = plain(b->run.libraries);
    r->mode = plain(b->run.mode);
    r->schema_version = b->version;
    r->n_ranks = b->run.n_ranks;
    r->threads = b->run.threads;
    r->setting = b->setting;
    r->n_setting = b->n_setting;
    r->task = b->task;
    r->n_task = b->n_task;
    r->example = b->example;
    r->n_example = b->n_example;
    r->own = o;
}

static int read_records(struct results *r, struct store *s)
{
    r->record = mem_alloc((size_t)s->n, sizeof *r->record);
    store_sort(s);
    for (int64_t k = 0; k < s->n; k++) {
        TRY(store_read(s, k, &r->record[k]));
        r->n_record++;
    }
    return 0;
}

int results_open(struct results *r, const char *path)
{
    struct store s;
    struct store_found found;
    *r = (struct results){.path = mem_strdup(path)};
    store_init(&s, NULL);
    int rc;
    TRY_GOTO(store_load(&s, path, NULL, &found), done);
    if (!s.book.created) {
        rc = err_set(ERR_INPUT, "there are no results at %s (neither the file nor a readable %s.journal)",
                     path, path);
        goto done;
    }
    r->running = found.journal;
    r->n_unit = store_units(&s);
    TRY_GOTO(read_records(r, &s), done);
    r->timing = s.timing;
    r->n_timing = s.n_timing;
    s.timing = NULL;
    struct owned *o = mem_alloc(1, sizeof *o);
    o->book = s.book;
    s.book = (struct book){0};
    take_book(r, o);
done:
    store_close(&s);
    if (rc < 0)
        results_close(r);
    return rc;
}

bool results_at(const char *path)
{
    char *dir = journal_dir(path);
    bool yes = file_is_dir(dir);
    hid_t file;
    free(dir);
    h5_quiet();
    if (yes || !file_exists(path) || file_is_special(path) || h5_open(&file, path) < 0)
        return yes;
    yes = H5Aexists(file, "schema_version") > 0 && H5Aexists(file, "kvsweep_version") > 0;
    H5Fclose(file);
    return yes;
}

void results_close(struct results *r)
{
    struct owned *o = r->own;
    for (int64_t i = 0; i < r->n_record; i++)
        record_free(&r->record[i]);
    free(r->record);
    free(r->timing);
    free(r->path);
    if (o)
        book_free(&o->book);
    free(o);
    *r = (struct results){0};
}

const struct sink_example *results_example(const struct results *r, int32_t task, int32_t example)
{
    const struct owned *o = r->own;
    return o ? book_example(&o->book, task, example) : NULL;
}
