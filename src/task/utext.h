/* Text as code points, with the character rules of Python 3's str: the reference scores Unicode strings, not
 * bytes. Source of the rules: Python documentation of str.isspace, str.split, str.lower and re (\w, \d, \b).
 */
#ifndef KVS_TASK_UTEXT_H
#define KVS_TASK_UTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct utext {
    uint32_t *cp; /* owned; NULL when empty */
    size_t n;
};

/* Part of a utext; borrowed. */
struct uspan {
    const uint32_t *cp;
    size_t n;
};

/* Decodes UTF-8; every byte that is not part of a valid sequence becomes U+FFFD. */
void utext_init(struct utext *u, const char *bytes, size_t n_bytes);
void utext_free(struct utext *u);
struct uspan utext_span(const struct utext *u);

bool ucp_is_space(uint32_t c);   /* str.isspace */
bool ucp_is_word(uint32_t c);    /* re \w */
bool ucp_is_decimal(uint32_t c); /* re \d */

/* str.lower in full: special casing of U+0130 and the final form of capital sigma. New text, owned by `out`.
 */
void utext_lower(struct utext *out, struct uspan s);

bool uspan_equal(struct uspan a, struct uspan b);
int uspan_compare(struct uspan a, struct uspan b); /* by code points, as Python compares str */
bool uspan_contains(struct uspan hay, struct uspan needle);
/* s.lstrip("\n") */
struct uspan uspan_skip_newlines(struct uspan s);
/* Cuts the text before the first `sep` off *s; false when *s was already used up (its cp is NULL then). "a,b"
 * gives a, b; "" gives "". */
bool uspan_next(struct uspan *s, uint32_t sep, struct uspan *part);
/* Next word between white space, as str.split() yields them; false at the end. */
bool uspan_next_word(struct uspan *s, struct uspan *word);

#endif
