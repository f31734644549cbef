#include "base/err.h"
#include "sweep/app.h"
#include "task/score_file.h"

#include <stdlib.h>

struct score_args {
    const char *task, *path;
    bool json;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct score_args *a = state->input;
    if (key == 'j') {
        a->json = true;
    } else if (key == ARGP_KEY_ARG && !a->path) {
        *(a->task ? &a->path : &a->task) = arg;
    } else if (key == ARGP_KEY_END && !a->path) {
        fprintf(stderr,
                "%s: write kvsweep score TASK FILE.jsonl, e.g. kvsweep score longbench/qasper pred.jsonl\n",
                state->name);
        exit(1);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

int cmd_score(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {{"json", 'j', 0, 0, "one JSON object", 0}, {0}};
    static const struct argp argp = {.options = options,
                                     .parser = parser,
                                     .args_doc = "TASK FILE.jsonl",
                                     .doc = "Scores lines {\"pred\", \"answers\", \"all_classes\"} as "
                                            "LongBench writes them, with the reference's metrics."};
    struct score_args a = {0};
    const struct task_type *type;
    struct file_scores s;
    struct str out = {0};
    app_parse(app, &argp, argc, argv, &a);
    TRY(config_task_type(&type, a.task));
    TRY(score_file(&s, type, a.path));
    if (a.json)
        file_scores_json(&s, type, &out);
    else
        file_scores_text(&s, type, &out);
    int rc = app_write(NULL, &out);
    str_free(&out);
    file_scores_free(&s);
    return rc;
}
