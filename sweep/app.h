/* What the sub-commands share: the surroundings of the process, options, printing. A command is one line in
 * commands.def and one function in a file cmd_NAME.c. */
#ifndef KVS_SWEEP_APP_H
#define KVS_SWEEP_APP_H

#include "base/str.h"
#include "sweep/config.h"

#include <argp.h>
#include <stdio.h>

struct app {
    struct vars vars;       /* of configurations */
    const char *config_dir; /* the program's own configs/ */
    bool mpi;               /* started by mpirun or srun */
    int rank;               /* as the environment has it, before MPI starts; 0 alone */
    const char *version, *git_commit;
};

/* Returns 0, or an error whose text main prints. argv[0] is the command's name. */
#define COMMAND(name, summary) int cmd_##name(struct app *app, int argc, char **argv);
#include "sweep/commands.def"
#undef COMMAND

/* argp_parse for a sub-command: errors are one line (of rank 0 alone) and end the process with status 1,
 * --help works. */
void app_parse(struct app *app, const struct argp *argp, int argc, char **argv, void *input);

/* Arguments of the commands that read a configuration: CONFIG, --set, --device. As a child in
 * `struct argp`, with a struct app_config as its input. */
struct app_config {
    const char *path;
    char **set;
    int n_set;
};
extern const struct argp app_config_argp;
int app_config_open(struct app *app, struct config *c, const struct app_config *a);
void app_config_free(struct app_config *a);
/* Where configurations come from; fill in path or text. */
struct config_source app_source(const struct app *app);

/* What --strict is said to do. */
#define APP_STRICT "refuse the sweep if any setting cannot run on its model (else such settings are left out)"

/* A model by id of configs/models, or a path to a GGUF file or model folder (template "none"). */
int app_model(struct app *app, const char *name, struct config_model *m);

/* Refuses methods that rewrite prompts, for commands that feed token ids to a cache. */
int app_no_prompt_method(const struct kv_spec *spec);

/* Rows of equal columns for people: cells separated by tabs, lines by newlines; every column padded. Columns
 * in `right` (0-based, a string of digits) are set flush right. */
void app_table(FILE *out, const char *cells, const char *right);
/* Writes text to `path`, or to stdout when path is NULL. */
int app_write(const char *path, const struct str *text);

/* The error of this thread on stderr, once: "kvsweep: …". Nothing if rc is 0 or there is no text. */
void app_say_error(int rc);

#endif
