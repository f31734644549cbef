#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "hdf5io/lock.h"
#include "hdf5io/summary.h"
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

static void add_score(struct str *t, struct interval in)
{
    if (isnan(in.mean))
        str_add(t, "\t–\t");
    else if (in.kind == INTERVAL_NONE)
        str_printf(t, "\t%.2f\t–", 100 * in.mean);
    else
        str_printf(t, "\t%.2f\t%.1f to %.1f%s", 100 * in.mean, 100 * in.lo, 100 * in.hi,
                   interval_conservative(&in) ? "*" : "");
}

static void print_text(const struct summary *m)
{
    const struct results *r = m->r;
    const int n_whole = m->means.n_whole;
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
    str_add(&t, "setting\tdone");
    for (int w = 0; w < n_whole; w++)
        str_printf(&t, "\t%s\t95 %% interval", n_whole > 1 ? m->means.whole[w].name : "score");
    str_addc(&t, '\n');
    for (int i = 0; i < r->n_setting; i++) {
        if (summary_refused(m, i))
            continue;
        str_printf(&t, "%s\t%lld", r->setting[i].id, (long long)m->setting[i].n_done);
        for (int w = 0; w < n_whole; w++)
            add_score(&t, m->whole[i * n_whole + w].score);
        str_addc(&t, '\n');
    }
    app_table(stdout, str_c(&t), "12");
    str_free(&t);
    if (summary_say_refused(m, &t))
        app_table(stdout, str_c(&t), "");
    str_free(&t);
}

static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* score, low and high are of the first whole (LongBench where there is LongBench); all are in `wholes`. */
static json_t *json_setting(const struct summary *m, int setting)
{
    const int n_whole = m->means.n_whole;
    json_t *all = json_array();
    struct interval first = {NAN, NAN, NAN, 0, INTERVAL_NONE};
    for (int w = 0; w < n_whole; w++) {
        const struct interval in = m->whole[setting * n_whole + w].score;
        first = w ? first : in;
        json_array_append_new(all, json_pack("{s:s, s:I, s:o, s:o, s:o, s:s}", "name", m->means.whole[w].name,
                                             "scored", (json_int_t)in.n, "score", real(in.mean), "low",
                                             real(in.lo), "high", real(in.hi), "interval",
                                             interval_name(in.kind)));
    }
    json_t *o = json_pack("{s:s, s:I, s:I, s:o, s:o, s:o, s:o}", "id", m->r->setting[setting].id, "done",
                          (json_int_t)m->setting[setting].n_done, "scored", (json_int_t)first.n, "score",
                          real(first.mean), "low", real(first.lo), "high", real(first.hi), "wholes", all);
    if (summary_refused(m, setting))
        json_object_set_new(o, "refused", json_string(summary_refused(m, setting)));
    return o;
}

static int print_json(const struct summary *m)
{
    const struct results *r = m->r;
    json_t *root = json_object(), *settings = json_array();
    for (int i = 0; i < r->n_setting; i++)
        json_array_append_new(settings, json_setting(m, i));
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
    struct summary m;
    summary_make(&m, &r, SUMMARY_SCORES);
    int rc = 0;
    if (a.json)
        rc = print_json(&m);
    else
        print_text(&m);
    summary_free(&m);
    results_close(&r);
    return rc;
}
