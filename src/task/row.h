/* Rows of a JSON lines file and fields of one of them, with errors that name file and line (what is read, and
 * how: json_line.h). Strings are copied; one that holds U+0000 is refused where it is used, for it is no C
 * string. */
#ifndef KVS_TASK_ROW_H
#define KVS_TASK_ROW_H

#include "base/file.h"
#include "task/task_impl.h"

#include <jansson.h>

/* Lines of a mapped jsonl file. Lines of white space alone are skipped. */
struct rows {
    const char *path; /* borrowed */
    struct file_map map;
    size_t at;
    int line; /* number of the last line read, from 1 */
};

/* A byte order mark is skipped; UTF-16 is refused. */
int rows_open(struct rows *r, const char *path);
void rows_close(struct rows *r);
/* The next line's object (json_decref it); 0 at the end, 1 if there is one, or ERR_INPUT. */
int rows_next(struct rows *r, json_t **object);

/* Says that member `key`, found as `v` (NULL: not at all), must be `wanted`. */
int row_wrong(const struct rows *r, const json_t *v, const char *key, const char *wanted);
/* A member that must be a string, or a list of strings (and not empty where `need_one`). The texts belong to
 * `t`. */
int row_text(const struct rows *r, struct task *t, const json_t *object, const char *key, const char **text);
int row_texts(const struct rows *r, struct task *t, const json_t *object, const char *key, bool need_one,
              const char *const **texts, int *n);
/* A member that must be a whole number from 0 to 2^31-1. */
int row_int(const struct rows *r, const json_t *object, const char *key, int32_t *v);

#endif
