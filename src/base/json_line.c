#include "base/json_line.h"

#include "base/err.h"
#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What is replaced keeps its length, so that columns in messages are those of the line. */

/* The four hexadecimal digits of an escape at s, or -1. */
static long escape_at(const char *s, const char *end)
{
    char digits[5] = {0};
    if (end - s < 6 || s[0] != '\\' || s[1] != 'u')
        return -1;
    for (int i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)s[2 + i]))
            return -1;
        digits[i] = s[2 + i];
    }
    return strtol(digits, NULL, 16);
}

static bool is_high(long code)
{
    return code >= 0xd800 && code < 0xdc00;
}

static bool is_low(long code)
{
    return code >= 0xdc00 && code < 0xe000;
}

/* Whether a colon comes next: the string before it was a key. */
static bool colon_follows(const char *s, const char *end)
{
    while (s < end && (*s == ' ' || *s == '\t' || *s == '\r' || *s == '\n'))
        s++;
    return s < end && *s == ':';
}

/* A string from its opening quote on; returns what comes behind it. U+0000 in a key becomes U+FFFD as well:
 * the library has no such keys, and neither have we. */
static char *mend_string(char *s, char *end, bool key)
{
    char *start = s++;
    bool nul = false;
    while (s < end && *s != '"') {
        long code = escape_at(s, end);
        bool pair = is_high(code) && is_low(escape_at(s + 6, end));
        if (!pair && (is_high(code) || is_low(code) || (key && code == 0)))
            memcpy(s + 2, "fffd", 4);
        nul = nul || code == 0;
        s += pair ? 12 : code >= 0 ? 6 : *s == '\\' ? 2 : 1;
    }
    s = s < end ? s + 1 : end;
    return nul && !key && colon_follows(s, end) ? mend_string(start, end, true) : s;
}

static const char *digits(const char *s)
{
    while (*s >= '0' && *s <= '9')
        s++;
    return s;
}

/* Whether a text is a number as the standard writes it; *whole: without fraction and exponent. */
static bool is_number(const char *s, bool *whole)
{
    s += *s == '-';
    const char *end = *s == '0' ? s + 1 : digits(s);
    if (end == s)
        return false;
    *whole = !*end;
    if (*end == '.') {
        s = end + 1;
        if ((end = digits(s)) == s)
            return false;
    }
    if (*end == 'e' || *end == 'E') {
        s = end + 1 + (end[1] == '+' || end[1] == '-');
        if ((end = digits(s)) == s)
            return false;
    }
    return !*end;
}

static bool too_large(const char *token)
{
    bool whole;
    if (!is_number(token, &whole))
        return false;
    if (!whole)
        return isinf(strtod(token, NULL));
    errno = 0;
    (void)strtoll(token, NULL, 10);
    return errno == ERANGE;
}

/* A word or number from its first character on; returns what comes behind it. `endless`: Infinity is a number
 * near the largest double. */
static char *mend_token(char *s, const char *end, bool endless)
{
    char *stop = s;
    while (stop < end && (isalnum((unsigned char)*stop) || strchr("+-.", *stop)) && *stop)
        stop++;
    char *token = mem_strndup(s, (size_t)(stop - s));
    if (endless && (!strcmp(token, "Infinity") || !strcmp(token, "-Infinity"))) {
        memcpy(stop - 8, "1.7e+308", 8);
    } else if (!strcmp(token, "NaN") || !strcmp(token, "Infinity") || !strcmp(token, "-Infinity") ||
               too_large(token)) {
        memset(s, ' ', (size_t)(stop - s));
        s[0] = '{';
        stop[-1] = '}';
    }
    free(token);
    return stop;
}

static void mend(char *s, char *end, bool endless)
{
    while (s < end) {
        if (*s == '"')
            s = mend_string(s, end, false);
        else if (isalnum((unsigned char)*s) || *s == '-')
            s = mend_token(s, end, endless);
        else
            s++;
    }
}

static const char *reason(const json_error_t *e)
{
    switch (json_error_code(e)) {
    case json_error_premature_end_of_input:
        return "it ends in the middle of a value";
    case json_error_end_of_input_expected:
        return "something follows behind its value";
    case json_error_invalid_utf8:
        return "it is not UTF-8 text";
    case json_error_stack_overflow:
        return "its values lie too deep in each other";
    default:
        return "this is no JSON";
    }
}

int json_line(const char *text, size_t n, json_t **value)
{
    json_error_t e;
    char *copy = mem_dup(text, n);
    mend(copy, copy + n, false);
    *value = json_loadb(copy, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    free(copy);
    return *value ? 0 : err_set(ERR_INPUT, "not a JSON line: %s (column %d)", reason(&e), e.column);
}

json_t *json_config(const char *text, size_t n, json_error_t *e)
{
    char *copy = mem_dup(text, n);
    mend(copy, copy + n, true);
    json_t *root = json_loadb(copy, n, JSON_REJECT_DUPLICATES, e);
    free(copy);
    return root;
}

size_t json_bom(const void *text, size_t n)
{
    return n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
}
