#include "base/err.h"
#include "hdf5io/sink.h"
#include "sweep/app.h"

#include <stdlib.h>

struct pack_args {
    const char *path;
    int deflate;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct pack_args *a = state->input;
    int64_t level;
    if (key == 'z') {
        if (!str_to_int(arg, &level) || level < 0 || level > 9) {
            fprintf(stderr, "%s: --deflate=%s is not allowed; use 0 to 9\n", state->name, arg);
            exit(1);
        }
        a->deflate = (int)level;
    } else if (key == ARGP_KEY_ARG && !a->path) {
        a->path = arg;
    } else if (key == ARGP_KEY_END && !a->path) {
        fprintf(stderr, "%s: which results file?\n", state->name);
        exit(1);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int cmd_pack(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"deflate", 'z', "0-9", 0, "compress the logits and tables (default 0: off)", 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "FILE.h5",
        .doc = "Builds the complete results file, logits included, from its journal; at any time."};
    struct pack_args a = {0};
    app_parse(app, &argp, argc, argv, &a);
    return sink_pack(a.path, a.deflate);
}
