#include "base/err.h"
#include "hdf5io/report.h"
#include "sweep/app.h"

#include <stdlib.h>

struct report_args {
    const char *path, *dir;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct report_args *a = state->input;
    if (key == 'o') {
        a->dir = arg;
    } else if (key == ARGP_KEY_ARG && !a->path) {
        a->path = arg;
    } else if (key == ARGP_KEY_END && (!a->path || !a->dir)) {
        fprintf(stderr, "%s: write kvsweep report FILE.h5 -o DIR\n", state->name);
        exit(1);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int cmd_report(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"output", 'o', "DIR", 0, "folder to write (made if needed)", 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "FILE.h5",
        .doc = "Writes index.html (one self-contained page), settings and tasks as Markdown and CSV, and the "
               "figures as SVG. Works while a job still writes the file."};
    struct report_args a = {0};
    app_parse(app, &argp, argc, argv, &a);
    struct str refused = {0};
    int rc = report_write(a.path, a.dir, &refused);
    if (rc == 0)
        app_table(stdout, str_c(&refused), "");
    if (rc == 0)
        printf("%s/index.html\n", a.dir);
    str_free(&refused);
    return rc;
}
