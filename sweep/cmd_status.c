#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "hdf5io/lock.h"
#include "hdf5io/read.h"
#include "hdf5io/stats.h"
#include "sweep/app.h"
#include "sweep/progress.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct status_args {
    const char *path;
    bool json;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct status_args *a = state->input;
    if (key == 'j')
        a->json = true;
    else if (key == ARGP_KEY_ARG && !a->path)
        a->path = arg;
    else if (key == ARGP_KEY_END && !a->path) {
        fprintf(stderr, "%s: which results file?\n", state->name);
        exit(1);
    } else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

/* Mean of a setting's scores with its interval; tasks weigh the same. */
static struct interval setting_score(const struct results *r, int setting, int64_t *n_done)
{
    double *v = mem_alloc((size_t)r->n_record + 1, sizeof *v);
    int64_t *at = mem_alloc((size_t)r->n_task + 1, sizeof *at), n = 0;
    int groups = 0;
    *n_done = 0;
    for (int t = 0; t < r->n_task; t++) {
        int64_t before = n;
        for (int64_t i = 0; i < r->n_record; i++) {
            if (r->record[i].setting != setting || r->record[i].task != t)
                continue;
            ++*n_done;
            if (isfinite(r->record[i].score))
                v[n++] = r->record[i].score;
        }
        if (n > before)
            at[++groups] = n;
    }
    struct interval in = stats_mean(v, at, groups);
    free(v);
    free(at);
    return in;
}

/* The journal lies beside what a link leads to (hdf5io/journal.h). */
static char *journal_file(const struct results *r, const char *name)
{
    char *real = file_resolve(r->path), *path = mem_printf("%s.journal%s", real, name);
    free(real);
    return path;
}

/* Whether a process writes the journal. */
static bool is_written(const struct results *r)
{
    char *dir = journal_file(r, "");
    bool held = lock_is_held(dir);
    free(dir);
    return held;
}

/* Seconds to go, from what the newest attempt has done since it opened its journal; -1: cannot be told. */
static double seconds_left(const struct results *r)
{
    if (r->n_record >= r->n_unit)
        return 0;
    char *dir = journal_file(r, "");
    struct stat st;
    int there = stat(dir, &st);
    free(dir);
    int last = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_record; i++)
        last = r->record[i].attempt > last ? r->record[i].attempt : last;
    for (int64_t i = 0; i < r->n_record; i++)
        n += r->record[i].attempt == last;
    if (there != 0 || n == 0 || !is_written(r))
        return -1;
    /* the folder's time of change: when the attempt's files were made */
    double elapsed = difftime(time(NULL), st.st_mtime);
    return elapsed * (double)(r->n_unit - r->n_record) / (double)n;
}

static int64_t count_bad(const struct results *r)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_record; i++)
        n += r->record[i].status != ST_OK;
    return n;
}

static void print_text(const struct results *r)
{
    char left[32];
    double s = seconds_left(r);
    progress_duration(left, s);
    printf("%s: %lld of %lld units, %lld not ok, %s", r->path, (long long)r->n_record, (long long)r->n_unit,
           (long long)count_bad(r),
           r->n_record >= r->n_unit ? "complete"
           : is_written(r)          ? "running"
                                    : "stopped: the same command resumes");
    printf(s > 0 ? ", about %s left\n\n" : "\n\n", left);
    struct str t = {0};
    str_add(&t, "setting\tdone\tscore\t95 % interval\n");
    for (int i = 0; i < r->n_setting; i++) {
        int64_t done;
        struct interval in = setting_score(r, i, &done);
        str_printf(&t, "%s\t%lld\t", r->setting[i].id, (long long)done);
        if (in.n)
            str_printf(&t, "%.3f\t%.3f to %.3f\n", in.mean, in.lo, in.hi);
        else
            str_add(&t, "–\t\n");
    }
    app_table(stdout, str_c(&t), "12");
    str_free(&t);
}

static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static int print_json(const struct results *r)
{
    json_t *root = json_object(), *settings = json_array();
    for (int i = 0; i < r->n_setting; i++) {
        int64_t done;
        struct interval in = setting_score(r, i, &done);
        json_array_append_new(settings,
                              json_pack("{s:s, s:I, s:I, s:o, s:o, s:o}", "id", r->setting[i].id, "done",
                                        (json_int_t)done, "scored", (json_int_t)in.n, "score", real(in.mean),
                                        "low", real(in.lo), "high", real(in.hi)));
    }
    double left = seconds_left(r);
    json_object_set_new(root, "file", json_string(r->path));
    json_object_set_new(root, "done", json_integer((json_int_t)r->n_record));
    json_object_set_new(root, "total", json_integer((json_int_t)r->n_unit));
    json_object_set_new(root, "not_ok", json_integer((json_int_t)count_bad(r)));
    json_object_set_new(root, "running", json_boolean(is_written(r)));
    json_object_set_new(root, "seconds_left", left < 0 ? json_null() : json_real(left));
    json_object_set_new(root, "settings", settings);
    char *text = json_dumps(root, JSON_INDENT(2));
    int rc = text ? 0 : err_set(ERR_INTERNAL, "%s holds text that is not UTF-8", r->path);
    if (text)
        puts(text);
    free(text);
    json_decref(root);
    return rc;
}

int cmd_status(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {{"json", 'j', 0, 0, "one JSON object", 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "FILE.h5",
        .doc = "Shows how far a results file is, with the scores so far; works while a job writes it."};
    struct status_args a = {0};
    struct results r;
    app_parse(app, &argp, argc, argv, &a);
    TRY(results_open(&r, a.path));
    int rc = 0;
    if (a.json)
        rc = print_json(&r);
    else
        print_text(&r);
    results_close(&r);
    return rc;
}
