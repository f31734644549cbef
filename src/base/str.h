/* Growing byte strings and small text helpers. Out of host memory for text ends the process (see mem.h). */
#ifndef KVS_BASE_STR_H
#define KVS_BASE_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Owned bytes; `data` is always NUL-terminated once something was added (NULL while empty). Zero-initialise.
 */
struct str {
    char *data;
    size_t n, cap;
};

void str_free(struct str *s);
void str_clear(struct str *s); /* keeps the memory */
void str_add(struct str *s, const char *text);
void str_addn(struct str *s, const void *bytes, size_t n);
void str_addc(struct str *s, char c);
void str_printf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *str_c(const struct str *s); /* never NULL */
/* `text` as a JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
void str_add_json(struct str *s, const char *text, size_t n);
/* n bytes as a field of comma-separated values (RFC 4180): in quotes, with its own doubled, if it needs them.
 * What a spreadsheet would compute (it begins with = + - @, a tab or a line end and is no number) gets a ' in
 * front. */
void str_add_csv(struct str *s, const char *text, size_t n);
/* `text` with & < > " escaped for HTML and SVG. */
void str_add_html(struct str *s, const char *text);

/* Glob with * and ? over the whole text; a leading '!' negates. */
bool str_match(const char *pattern, const char *text);
/* The entry of the NULL-terminated list nearest to `word` by edit distance, or NULL when none is near
 * (distance > 1 + len/3). */
const char *str_nearest(const char *word, const char *const *list);
/* Shortest decimal text that reads back as the same double ("0.1", "17", "1e+300"). At least 32 bytes. */
void str_double(char out[32], double v);
/* Bytes with a binary unit for people: "1.5 GiB". At least 32 bytes. */
void str_bytes(char out[32], double bytes);
/* Whole text as a number; false on trailing characters, overflow, NaN or infinity. */
bool str_to_double(const char *text, double *v);
bool str_to_int(const char *text, int64_t *v);
/* "256MiB", "2GiB", "1.5G", "500MB" (decimal), "4096": bytes. */
bool str_to_bytes(const char *text, uint64_t *v);

/* UTF-8: decodes one code point from s[0..n); returns its length 1..4, or 0 if the bytes are not valid there.
 */
int utf8_get(const char *s, size_t n, uint32_t *cp);
/* Encodes one code point; returns its length. */
int utf8_put(char out[4], uint32_t cp);
bool utf8_valid(const char *s, size_t n);

#endif
