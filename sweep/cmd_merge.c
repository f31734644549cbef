#include "base/err.h"
#include "base/mem.h"
#include "hdf5io/sink.h"
#include "sweep/app.h"

#include <stdlib.h>

struct merge_args {
    const char **paths, *out;
    int n, cap;
    bool keep_first;
};

enum { KEY_FIRST = 1 };

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct merge_args *a = state->input;
    if (key == 'o') {
        a->out = arg;
    } else if (key == KEY_FIRST) {
        a->keep_first = true;
    } else if (key == ARGP_KEY_ARG) {
        *MEM_PUSH(a->paths, a->n, a->cap) = arg;
    } else if (key == ARGP_KEY_END && (!a->n || !a->out)) {
        fprintf(stderr, "%s: write kvsweep merge A.h5 B.h5 -o OUT.h5\n", state->name);
        exit(1);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int cmd_merge(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"output", 'o', "OUT.h5", 0, "the joined file", 0},
        {"keep-first", KEY_FIRST, 0, 0,
         "where files disagree on a unit, take the one of the file named first", 0},
        {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "A.h5 B.h5 …",
        .doc = "Joins results files: settings, tasks and examples by content, units by id, each once, with "
               "the most logits that one of the files has."};
    struct merge_args a = {0};
    app_parse(app, &argp, argc, argv, &a);
    int rc = sink_merge(a.paths, a.n, a.out, a.keep_first);
    free(a.paths);
    return rc;
}
