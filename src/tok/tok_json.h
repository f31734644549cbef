/* What the two readers of tokenizer.json share. `where` is how errors (ERR_INPUT) call the object j. */
#ifndef KVS_TOK_TOK_JSON_H
#define KVS_TOK_TOK_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct tok;

/* There and not null. */
bool tok_json_given(const json_t *j);
/* The member "type", "" where there is none. */
const char *tok_json_type(const json_t *j);
/* Sets the error: a type that is not in `allowed`, or none at all. */
int tok_json_unsupported(const char *where, const json_t *j, const char *allowed);
int tok_json_bool(const json_t *j, const char *key, bool def, const char *where, bool *out);
/* A text member; NULL when it is absent or null and `need` is false. */
int tok_json_text(const json_t *j, const char *key, bool need, const char *where, const char **out,
                  size_t *n);

/* A file's JSON, owned (json_decref); `flags` of jansson beside JSON_ALLOW_NUL. ERR_INPUT names it. */
int tok_json_file(const char *path, size_t flags, json_t **j);
/* tok_config.c: the object in a file of the folder; *j = NULL where the file does not exist. Whole numbers
 * come as real ones, but for generation_config.json: files hold some beyond 64 bits (model_max_length: 10^30
 * is how the field writes "no limit"). */
int tok_config_load(const char *dir, const char *name, json_t **j);

/* tok_json_model.c */
int tok_read_model(struct tok *t, const json_t *j);

#endif
