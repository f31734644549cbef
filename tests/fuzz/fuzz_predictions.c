/* A file of predictions to be scored; the length of the input says by which task's metric. */
#include "fuzz.h"

#include "task/score_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct file_scores s = {0};
    const char *path;
    size_t n_type = 0;
    while (task_type_at((int)n_type))
        n_type++;
    const struct task_type *type = task_type_at((int)(n % n_type));
    fuzz_file("predictions.jsonl", data, n, &path);
    if (score_file(&s, type, path) == 0) {
        struct str out = {0};
        file_scores_json(&s, type, &out);
        file_scores_text(&s, type, &out);
        str_free(&out);
        file_scores_free(&s);
    }
    return 0;
}
