/* kvsweep COMMAND …: finds the command and hands it what the process knows about its surroundings. This is
 * the only file that reads the environment. */
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "sweep/app.h"

#include <signal.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const struct command {
    const char *name, *summary;
    int (*run)(struct app *app, int argc, char **argv);
} commands[] = {
#define COMMAND(name, summary) {#name, summary, cmd_##name},
#include "sweep/commands.def"
#undef COMMAND
    {0},
};

static void print_help(FILE *out)
{
    fputs("Usage: kvsweep COMMAND [OPTION…]\n"
          "What does a KV-cache compressor cost in answers, and what does it give in memory and time?\n"
          "Runs a grid of models, methods and long-context tasks and leaves one HDF5 file.\n\n",
          out);
    for (const struct command *c = commands; c->name; c++)
        fprintf(out, "  %-10s %s\n", c->name, c->summary);
    fputs("\n`kvsweep COMMAND --help` says more; start with `kvsweep run quickstart`.\n", out);
}

static int unknown_command(const char *name)
{
    const char *names[64];
    int n = 0;
    for (const struct command *c = commands; c->name && n < 63; c++)
        names[n++] = c->name;
    names[n] = NULL;
    const char *near = str_nearest(name, names);
    fprintf(stderr, "kvsweep: unknown command '%s'%s%s%s; see kvsweep --help\n", name,
            near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return 1;
}

static const char *env_or(const char *name, const char *fallback)
{
    const char *v = getenv(name);
    return v && *v ? v : fallback;
}

/* configs/ of an installed program lies beside it, that of a build in the source tree. */
static const char *find_configs(void)
{
    static char beside[4096];
    ssize_t n = readlink("/proc/self/exe", beside, sizeof beside - 64);
    while (n > 0 && beside[n - 1] != '/')
        n--;
    if (n > 0) {
        strcpy(beside + n, "../share/kvsweep/configs");
        if (file_is_dir(beside))
            return beside;
    }
    return KVS_CONFIG_DIR;
}

/* Owned. */
static char *cache_dir(void)
{
    const char *own = env_or("KVSWEEP_CACHE", NULL), *xdg = env_or("XDG_CACHE_HOME", NULL);
    if (own)
        return mem_strdup(own);
    return xdg ? mem_printf("%s/kvsweep", xdg) : mem_printf("%s/.cache/kvsweep", env_or("HOME", "."));
}

static struct app surroundings(const char *cache)
{
    struct app app = {
        .vars = {.cache = cache,
                 .data = env_or("KVSWEEP_DATA", "data"),
                 .models = env_or("KVSWEEP_MODELS", "models"),
                 .env = environ},
        .config_dir = find_configs(),
        .mpi = getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK"),
        .rank = atoi(env_or("OMPI_COMM_WORLD_RANK", env_or("PMIX_RANK", "0"))),
        .version = KVS_VERSION,
        .git_commit = KVS_GIT_COMMIT,
    };
    if (getenv("KVSWEEP_DEBUG"))
        log_set_level(LOG_DEBUG);
    return app;
}

/* OpenMP's threads spin at every barrier; on a machine that has other work to do they then wait for a
 * neighbour that does not run, a thousand times over. The runtime reads how long to spin when it is loaded,
 * so the process starts itself anew once. */
static void spin_less(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"))
        return;
    char self[4096]; /* its path, so that process lists show the program's name */
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return;
    self[n] = 0;
    setenv("GOMP_SPINCOUNT", "5000", 1);
    execv(self, argv); /* on failure the process goes on as it is */
}

/* At exit, so that argp's --help is checked too. */
static void check_output(void)
{
    if (!ferror(stdout) && fflush(stdout) == 0)
        return;
    fputs("kvsweep: cannot write the output\n", stderr);
    _exit(1);
}

/* A command that failed has said why: one line is enough. */
static void give_up_output(void)
{
    fflush(stdout);
    __fpurge(stdout);
    clearerr(stdout);
}

int main(int argc, char **argv)
{
    spin_less(argv);
    signal(SIGXFSZ, SIG_IGN); /* write() then fails at the limit of `ulimit -f`, like on a full disk */
    atexit(check_output);
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("kvsweep %s %s\n", KVS_VERSION, KVS_GIT_COMMIT);
        return 0;
    }
    const struct command *c = commands;
    while (c->name && strcmp(c->name, argv[1]))
        c++;
    if (!c->name)
        return unknown_command(argv[1]);
    char *cache = cache_dir();
    struct app app = surroundings(cache);
    int rc = c->run(&app, argc - 1, argv + 1);
    app_say_error(rc);
    if (rc < 0)
        give_up_output();
    free(cache);
    return err_status(rc);
}
