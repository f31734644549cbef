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

/* tok_json_model.c */
int tok_read_model(struct tok *t, const json_t *j);

#endif
