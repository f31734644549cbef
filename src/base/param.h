/* Typed option tables: one table gives parsing, help, canonical text and range checks for a method, task or
 * back end. Spec syntax: "name" or "name:key=value,key=value". */
#ifndef KVS_BASE_PARAM_H
#define KVS_BASE_PARAM_H

#include "base/str.h"

enum param_type {
    PARAM_INT,    /* int64_t member */
    PARAM_REAL,   /* double member */
    PARAM_CHOICE, /* int64_t member: index into `choices` */
    PARAM_TEXT,   /* char * member, owned by the struct (param_free) */
};

struct param {
    const char *name;
    enum param_type type;
    size_t offset;        /* of the member in the parameter struct */
    double def, min, max; /* numbers: inclusive range */
    const char *choices;  /* PARAM_CHOICE: "prefill|after|decode"; PARAM_INT: optional allowed values "2|4" */
    const char *def_text; /* PARAM_TEXT default */
    const char *help;     /* one line, with unit */
};                        /* a table ends with name == NULL */

/* Fills every member with its default. */
void param_defaults(const struct param *table, void *dst);
/* Sets one key. `where` begins the error ("method kivi"): unknown keys name the nearest, bad values the
 * allowed range. */
int param_set(const struct param *table, void *dst, const char *key, const char *value, const char *where);
/* Refuses a key that stands twice in "k=v,k=v", with both values. */
int param_once(const char *text, const char *where);
/* Parses "k=v,k=v" (may be empty or NULL) over the present values; a key may stand there once. */
int param_parse(const struct param *table, void *dst, const char *text, const char *where);
/* Canonical text: every key in table order, "bits=2,group=32"; equal structs give equal text. */
void param_text(const struct param *table, const void *src, struct str *out);
/* The same with only the keys that differ from their defaults, of paths the last part, for people. */
void param_text_short(const struct param *table, const void *src, struct str *out);
/* A copy of `src` in dst, which holds nothing yet: `bytes` of both structs, texts of its own. */
void param_copy(const struct param *table, void *dst, const void *src, size_t bytes);
void param_free(const struct param *table, void *dst);

#endif
