#include "sweep/app.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct parsing {
    struct app *app;
    void *input;
    char *name;
    FILE *nowhere;
};

/* Around the command's own parser: getopt's line about a wrong option stays, argp's "Try …" line goes. */
static error_t wrap_parser(int key, char *arg, struct argp_state *state)
{
    struct parsing *p = state->input;
    (void)arg;
    if (key != ARGP_KEY_INIT)
        return ARGP_ERR_UNKNOWN;
    state->name = p->name;
    if (p->nowhere)
        state->err_stream = p->nowhere;
    state->child_inputs[0] = p->input;
    return 0;
}

/* All ranks are told the same options, and rank 0 alone says what is wrong with them. mpirun ends all ranks
 * once one has left, so the others give it the time to do so. */
static int parsing_fd = -1; /* the standard error stream while it is closed */

static void leave_after_rank_0(void)
{
    if (parsing_fd >= 0)
        sleep(2);
}

static void close_stderr(void)
{
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    parsing_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (nowhere >= 0 && parsing_fd >= 0)
        dup2(nowhere, STDERR_FILENO);
    if (nowhere >= 0)
        close(nowhere);
    atexit(leave_after_rank_0);
}

static void open_stderr(void)
{
    if (parsing_fd < 0)
        return;
    dup2(parsing_fd, STDERR_FILENO);
    close(parsing_fd);
    parsing_fd = -1;
}

void app_parse(struct app *app, const struct argp *argp, int argc, char **argv, void *input)
{
    int n_read = argc; /* argp would say "Too many arguments" to a stream that shows nothing */
    struct argp_child child[] = {{argp, 0, NULL, 0}, {0}};
    struct argp wrap = {.parser = wrap_parser, .children = child};
    struct parsing p = {app, input, mem_printf("kvsweep %s", argv[0]), fopen("/dev/null", "w")};
    argp_err_exit_status = 1;
    argv[0] = p.name;
    if (app->rank > 0)
        close_stderr();
    error_t rc = argp_parse(&wrap, argc, argv, 0, &n_read, &p);
    if (!rc && n_read < argc) {
        fprintf(stderr, "%s: '%s' is one argument too many; see %s --help\n", p.name, argv[n_read], p.name);
        exit(1);
    }
    if (rc) {
        fprintf(stderr, "%s: %s\n", p.name, strerror(rc));
        exit(1);
    }
    open_stderr();
    if (p.nowhere)
        fclose(p.nowhere);
}

static error_t config_parser(int key, char *arg, struct argp_state *state)
{
    struct app_config *a = state->input;
    if (key != 's' && key != 'd' && key != ARGP_KEY_ARG)
        return ARGP_ERR_UNKNOWN;
    if (key == ARGP_KEY_ARG) {
        if (a->path)
            return ARGP_ERR_UNKNOWN;
        a->path = arg;
        return 0;
    }
    a->set = mem_grow(a->set, (size_t)a->n_set + 1, sizeof *a->set);
    a->set[a->n_set++] = key == 'd' ? mem_printf("device=%s", arg) : mem_strdup(arg);
    return 0;
}

static const struct argp_option config_options[] = {
    {"set", 's', "KEY=VALUE", 0,
     "change a value of the configuration: mode=paper, tasks.0.limit=5, passkey.digits=64", 0},
    {"device", 'd', "NAME", 0, "auto, cpu, ref or cuda", 0},
    {0},
};
const struct argp app_config_argp = {.options = config_options, .parser = config_parser};

struct config_source app_source(const struct app *app)
{
    return (struct config_source){.config_dir = app->config_dir, .vars = &app->vars};
}

int app_config_open(struct app *app, struct config *c, const struct app_config *a)
{
    struct config_source s = app_source(app);
    s.path = a->path;
    s.set = a->set;
    s.n_set = a->n_set;
    return config_open(c, &s);
}

void app_config_free(struct app_config *a)
{
    for (int i = 0; i < a->n_set; i++)
        free(a->set[i]);
    free(a->set);
    *a = (struct app_config){0};
}

int app_model(struct app *app, const char *name, struct config_model *m)
{
    struct config_source s = app_source(app);
    size_t n = strlen(name);
    bool yaml = n > 5 && !strcmp(name + n - 5, ".yaml");
    if (!yaml && (file_is_dir(name) || file_exists(name))) {
        const char *slash = strrchr(name, '/');
        *m = (struct config_model){.id = mem_strdup(slash && slash[1] ? slash + 1 : name),
                                   .path = mem_strdup(name),
                                   .template = mem_strdup("none"),
                                   .where = mem_strdup(name)};
        return 0;
    }
    if (!yaml && strchr(name, '/'))
        return err_set(ERR_INPUT, "%s: no such model file or folder", name);
    TRY(config_model_open(m, name, NULL, &s));
    if (file_exists(m->path) || file_is_dir(m->path))
        return 0;
    int rc = err_set(ERR_INPUT, "model '%s': %s is missing%s%s", m->id, m->path,
                     m->fetch.n_part ? "; get it with: kvsweep fetch " : "; put the model there",
                     m->fetch.n_part ? m->id : "");
    config_model_close(m);
    return rc;
}

enum { MAX_COLUMNS = 16 };

/* Display width: code points, which is right for what is printed here. */
static size_t width_of(const char *s, size_t n)
{
    size_t w = 0;
    for (size_t i = 0; i < n; i++)
        w += ((unsigned char)s[i] & 0xc0) != 0x80;
    return w;
}

/* Text of files goes to terminals, which obey control characters. */
static void put_cell(FILE *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        fputc((unsigned char)s[i] < 0x20 || s[i] == 0x7f ? '?' : s[i], out);
}

void app_table(FILE *out, const char *cells, const char *right)
{
    size_t width[MAX_COLUMNS] = {0};
    for (int pass = 0; pass < 2; pass++) {
        int col = 0;
        for (const char *p = cells; *p; p++) {
            size_t n = strcspn(p, "\t\n"), w = width_of(p, n);
            bool last = p[n] != '\t', flush = strchr(right, '0' + col) != NULL;
            if (col < MAX_COLUMNS && w > width[col])
                width[col] = w;
            size_t pad = col < MAX_COLUMNS ? width[col] - w : 0;
            if (pass == 1) {
                fprintf(out, "%*s", flush ? (int)pad : 0, "");
                put_cell(out, p, n);
                fprintf(out, "%*s%s", flush || last ? 0 : (int)pad, "", last ? "\n" : "  ");
            }
            col = last ? 0 : col + 1;
            p += n;
            if (!*p)
                break;
        }
    }
}

int app_write(const char *path, const struct str *text)
{
    if (path)
        return file_write_atomic(path, str_c(text), text->n);
    if (fwrite(str_c(text), 1, text->n, stdout) != text->n)
        return err_set(ERR_IO, "cannot write the output: %s", strerror(errno));
    return 0;
}

int app_no_prompt_method(const struct kv_spec *spec)
{
    return prompt_method_find(kv_method_name(spec->method))
               ? err_set(ERR_INPUT,
                         "method %s rewrites prompts and leaves the cache alone; here it is 'full'",
                         kv_method_name(spec->method))
               : 0;
}

void app_say_error(int rc)
{
    if (rc >= 0 || !*err_text())
        return;
    fprintf(stderr, "kvsweep: %s\n", err_text());
    err_set(rc, "%s", "");
}
