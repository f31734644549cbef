#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/share.h"
#include "sweep/app.h"
#include "sweep/farm.h"
#include "sweep/stop.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run_args {
    struct app_config config;
    const char *output;
    bool quiet, share_gpu, strict;
    double s_wait;
};

enum { KEY_SHARE_GPU = 0x100, KEY_WAIT, KEY_STRICT };

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct run_args *a = state->input;
    char *end;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->config;
        return 0;
    case 'o':
        a->output = arg;
        if (*arg)
            return 0;
        fprintf(stderr, "%s: --output: the name of the results file is empty\n", state->name);
        exit(1);
    case 'q':
        a->quiet = true;
        return 0;
    case KEY_SHARE_GPU:
        a->share_gpu = true;
        return 0;
    case KEY_STRICT:
        a->strict = true;
        return 0;
    case KEY_WAIT:
        a->s_wait = strtod(arg, &end);
        if (end != arg && !*end && a->s_wait >= 1 && a->s_wait <= 86400)
            return 0;
        fprintf(stderr, "%s: --wait: '%s' (allowed: 1 to 86400 seconds)\n", state->name, arg);
        exit(1);
    case ARGP_KEY_END:
        if (a->config.path)
            return 0;
        fprintf(stderr, "%s: which configuration? e.g. kvsweep run quickstart\n", state->name);
        exit(1);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    {"output", 'o', "FILE.h5", 0, "results file (default: output of the configuration)", 0},
    {"quiet", 'q', 0, 0, "no progress", 0},
    {"share-gpu", KEY_SHARE_GPU, 0, 0, "several ranks may use the same GPU", 0},
    {"strict", KEY_STRICT, 0, 0, APP_STRICT, 0},
    {"wait", KEY_WAIT, "SECONDS", 0,
     "until a rank that makes no progress, or a lock whose holder gives no sign of life, counts as lost "
     "(300)",
     0},
    {0},
};

/* One argument as a shell takes it. */
static void add_argument(struct str *s, const char *arg)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%";
    if (*arg && strspn(arg, plain) == strlen(arg)) {
        str_printf(s, " %s", arg);
        return;
    }
    str_add(s, " '");
    for (const char *c = arg; *c; c++) {
        if (*c == '\'')
            str_add(s, "'\\''");
        else
            str_addn(s, c, 1);
    }
    str_add(s, "'");
}

/* The command as typed, for the line that says how to go on. */
static char *command_text(int argc, char **argv)
{
    struct str s = {0};
    str_add(&s, "kvsweep run");
    for (int i = 1; i < argc; i++)
        add_argument(&s, argv[i]);
    char *text = mem_strdup(str_c(&s));
    str_free(&s);
    return text;
}

static int step(void *watch)
{
    watch_step(watch);
    return 0;
}

/* All ranks plan; the lowest that could not tells why, and nobody starts. */
static int plan_together(struct link *l, struct app *app, const struct run_args *a, struct config *c,
                         struct plan *p)
{
    const enum log_level level = log_get_level();
    if (l->rank > 0) /* warnings about the files are the same on all */
        log_set_level(LOG_QUIET);
    int rc = app_config_open(app, c, &a->config);
    c->poll = (struct poll){step, l->watch};
    c->strict = a->strict;
    if (rc == 0)
        rc = plan_open(p, c);
    log_set_level(level);
    bool same = true;
    int first = link_agree(l, rc < 0, p->hash, &same);
    if (first >= 0)
        return first == l->rank ? rc : err_set(ERR_INPUT, "%s", "");
    if (same)
        return 0;
    if (l->rank > 0)
        return err_set(ERR_INPUT, "%s", "");
    return err_set(ERR_INPUT, "%s: the ranks see different files: their plans differ", c->path);
}

static int run(struct link *l, struct app *app, const struct run_args *a, const char *resume)
{
    struct config c = {0};
    struct plan p = {0};
    char name[32];
    if (l->n_rank > 1) {
        snprintf(name, sizeof name, "rank %d", l->rank);
        log_set_prefix(name);
    }
    int rc = plan_together(l, app, a, &c, &p);
    watch_task(l->watch, "begins", 0, 0);
    if (rc == 0) {
        struct farm_options opt = {.output = a->output ? a->output : c.output,
                                   .resume = resume,
                                   .version = app->version,
                                   .git_commit = app->git_commit,
                                   .quiet = a->quiet,
                                   .share_gpu = a->share_gpu,
                                   .s_wait = a->s_wait};
        if (l->rank == 0 && l->n_rank > 1)
            log_set_prefix("");
        rc = farm_run(l, &p, &opt);
        if (rc < 0 && l->rank > 0 && !l->lost)
            err_set(rc, "%s", "");
        if (rc == 0 && l->rank == 0 && !a->quiet)
            log_info("%lld units in %s; look at them with: kvsweep report %s -o DIR", (long long)p.n_unit,
                     opt.output, opt.output);
    }
    plan_close(&p);
    config_close(&c);
    return rc;
}

int cmd_run(struct app *app, int argc, char **argv)
{
    static const struct argp_child children[] = {{&app_config_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "CONFIG",
        .doc =
            "Runs a configuration: a YAML file, or the name of one in configs/sweeps.\v"
            "Under mpirun or srun every rank computes. The same command again goes on where the last one "
            "stopped, with "
            "any number of ranks. SIGINT and SIGTERM give up the bundle in flight, SIGUSR1 finishes it; "
            "results so far "
            "are kept in either case. Exit status 75: what is finished is kept, and the same command goes on "
            "(stopped by a signal, a lost or silent rank, another run at work, a full disk).",
        .children = children,
    };
    struct run_args a = {.s_wait = 300};
    char *resume = command_text(argc, argv);
    app_parse(app, &argp, argc, argv, &a);
    struct link l;
    struct watch *watch = NULL;
    char *build = mem_printf("%s %s", app->version, app->git_commit);
    stop_install();
    int rc = watch_open(&watch, a.s_wait, app->rank);
    if (rc == 0)
        rc = link_open(&l, app->mpi, build, watch);
    watch_task(watch, "makes its plan", 0, 0);
    if (rc == 0) {
        if (l.local == 0)
            share_clean(); /* weights of a job that was killed */
        rc = run(&l, app, &a, resume);
        app_say_error(rc); /* mpirun ends the job once one rank has left with an error */
        link_close(&l);
    }
    watch_close(watch);
    free(build);
    app_config_free(&a.config);
    free(resume);
    return rc;
}
