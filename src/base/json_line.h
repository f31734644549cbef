/* One line of JSON from anywhere. Python's json module writes more than the standard allows, and so do the
 * data sets made with it: lone surrogates (a text cut inside an emoji) are read as U+FFFD; NaN, Infinity and
 * numbers that no machine word or double holds are read as an empty object, which no field of ours takes, so
 * that they trouble only those who use them. */
#ifndef KVS_BASE_JSON_LINE_H
#define KVS_BASE_JSON_LINE_H

#include <jansson.h>
#include <stddef.h>

/* Any value; strings may hold U+0000. ERR_INPUT "not a JSON line: …" says what is wrong with the line. */
int json_line(const char *text, size_t n, json_t **value);

/* A whole document as Python writes configurations: Infinity is read as 1.7e+308, NaN as an empty object; two
 * equal keys are an error. NULL with *e filled where it is no JSON. */
json_t *json_config(const char *text, size_t n, json_error_t *e);

/* Bytes of the byte order mark at the start of a file, which some editors write: 3 or 0. */
size_t json_bom(const void *text, size_t n);

#endif
