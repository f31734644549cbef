#include "base/str.h"

#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void str_free(struct str *s)
{
    free(s->data);
    *s = (struct str){0};
}

void str_clear(struct str *s)
{
    s->n = 0;
    if (s->data)
        s->data[0] = 0;
}

static void reserve(struct str *s, size_t more)
{
    size_t need = s->n + more + 1;
    if (need <= s->cap)
        return;
    size_t cap = s->cap ? s->cap : 64;
    while (cap < need)
        cap *= 2;
    s->data = mem_grow(s->data, cap, 1);
    s->cap = cap;
}

void str_addn(struct str *s, const void *bytes, size_t n)
{
    reserve(s, n);
    if (n)
        memcpy(s->data + s->n, bytes, n);
    s->n += n;
    s->data[s->n] = 0;
}

void str_add(struct str *s, const char *text)
{
    str_addn(s, text, strlen(text));
}

void str_addc(struct str *s, char c)
{
    str_addn(s, &c, 1);
}

void str_printf(struct str *s, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n > 0) {
        reserve(s, (size_t)n);
        vsnprintf(s->data + s->n, (size_t)n + 1, fmt, again);
        s->n += (size_t)n;
    }
    va_end(again);
}

const char *str_c(const struct str *s)
{
    return s->data ? s->data : "";
}

void str_add_json(struct str *s, const char *text, size_t n)
{
    str_addc(s, '"');
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)text[i];
        uint32_t cp;
        int len = utf8_get(text + i, n - i, &cp);
        if (len == 0) {
            str_add(s, "\xef\xbf\xbd");
            i++;
            continue;
        }
        if (c == '"' || c == '\\')
            str_printf(s, "\\%c", c);
        else if (c == '\n')
            str_add(s, "\\n");
        else if (c == '\t')
            str_add(s, "\\t");
        else if (c == '\r')
            str_add(s, "\\r");
        else if (c < 0x20 || c == 0x7f)
            str_printf(s, "\\u%04x", c);
        else
            str_addn(s, text + i, (size_t)len);
        i += (size_t)len;
    }
    str_addc(s, '"');
}

/* What a spreadsheet would compute; a lone sign is none. */
static bool is_formula(const char *text, size_t n)
{
    char number[64];
    double v;
    if (n < 2 || !text[0] || !strchr("=+-@\t\r\n", text[0]))
        return false;
    if (n >= sizeof number)
        return true;
    memcpy(number, text, n);
    number[n] = 0;
    return strlen(number) != n || !str_to_double(number, &v);
}

void str_add_csv(struct str *s, const char *text, size_t n)
{
    bool plain = true, defuse = is_formula(text, n);
    for (size_t i = 0; i < n && plain; i++)
        plain = text[i] && !strchr(",\"\r\n", text[i]);
    if (plain) {
        str_add(s, defuse ? "'" : "");
        str_addn(s, text, n);
        return;
    }
    str_add(s, defuse ? "\"'" : "\"");
    for (size_t i = 0; i < n; i++)
        str_addn(s, text[i] == '"' ? "\"\"" : text + i, text[i] == '"' ? 2 : 1);
    str_addc(s, '"');
}

void str_add_html(struct str *s, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&':
            str_add(s, "&amp;");
            break;
        case '<':
            str_add(s, "&lt;");
            break;
        case '>':
            str_add(s, "&gt;");
            break;
        case '"':
            str_add(s, "&quot;");
            break;
        default:
            str_addc(s, *text);
        }
    }
}

static bool glob(const char *p, const char *t)
{
    const char *star = NULL, *mark = NULL;
    while (*t) {
        if (*p == '*') {
            star = p++;
            mark = t;
        } else if (*p == '?' || *p == *t) {
            p++;
            t++;
        } else if (star) { /* let the last star take one more byte */
            p = star + 1;
            t = ++mark;
        } else {
            return false;
        }
    }
    while (*p == '*')
        p++;
    return *p == 0;
}

bool str_match(const char *pattern, const char *text)
{
    return *pattern == '!' ? !glob(pattern + 1, text) : glob(pattern, text);
}

static size_t distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    size_t row[64];
    if (n >= 64 || m >= 64)
        return 1000;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diag = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t up = row[j];
            size_t best = diag + (a[i - 1] != b[j - 1]);
            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            diag = up;
        }
    }
    return row[m];
}

const char *str_nearest(const char *word, const char *const *list)
{
    const char *best = NULL;
    size_t best_d = 2 + strlen(word) / 3;
    for (; *list; list++) {
        size_t d = distance(word, *list);
        if (d < best_d) {
            best_d = d;
            best = *list;
        }
    }
    return best;
}

void str_double(char out[32], double v)
{
    if (fabs(v) < 1e15 && v == trunc(v)) { /* "40", where %.1g would say "4e+01" */
        snprintf(out, 32, "%.0f", v);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, v);
        if (strtod(out, NULL) == v || isnan(v))
            return;
    }
}

void str_bytes(char out[32], double bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (bytes >= 1024 && u < 4) {
        bytes /= 1024;
        u++;
    }
    snprintf(out, 32, u == 0 ? "%.0f %s" : bytes < 10 ? "%.2f %s" : "%.1f %s", bytes, unit[u]);
}

bool str_to_double(const char *text, double *v)
{
    char *end;
    if (!*text || isspace((unsigned char)*text))
        return false;
    errno = 0;
    *v = strtod(text, &end);
    return *end == 0 && isfinite(*v);
}

bool str_to_int(const char *text, int64_t *v)
{
    char *end;
    if (!*text || isspace((unsigned char)*text))
        return false;
    errno = 0;
    long long r = strtoll(text, &end, 10);
    *v = r;
    return *end == 0 && errno == 0;
}

bool str_to_bytes(const char *text, uint64_t *v)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    double x = strtod(text, &end);
    static const char *const suffix[] = {"", "K", "M", "G", "T"};
    for (int i = 0; i < 5; i++) {
        char a[8], b[8];
        snprintf(a, sizeof a, "%siB", suffix[i]);
        snprintf(b, sizeof b, "%sB", suffix[i]);
        const bool decimal = i && !strcmp(end, b); /* MB is a million bytes, MiB and M are 2^20 */
        if (!strcmp(end, suffix[i]) || (i && !strcmp(end, a)) || !strcmp(end, b)) {
            x = decimal ? x * pow(1000, i) : ldexp(x, 10 * i);
            if (!(x < 0x1p63) || (i == 0 && x != floor(x)))
                return false;
            *v = (uint64_t)x;
            return true;
        }
    }
    return false;
}

int utf8_get(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n == 0)
        return 0;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    int len = u[0] >= 0xf0 && u[0] < 0xf5   ? 4
              : u[0] >= 0xe0 && u[0] < 0xf0 ? 3
              : u[0] >= 0xc2 && u[0] < 0xe0 ? 2
                                            : 0;
    if (len == 0 || n < (size_t)len)
        return 0;
    uint32_t c = u[0] & (0x7fu >> len);
    for (int i = 1; i < len; i++) {
        if ((u[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (u[i] & 0x3fu);
    }
    bool overlong = (len == 3 && c < 0x800) || (len == 4 && c < 0x10000);
    if (overlong || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    *cp = c;
    return len;
}

int utf8_put(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)((0xf00 >> len) | cp);
    return len;
}

bool utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_get(s + i, n - i, &cp);
        if (len == 0)
            return false;
        i += (size_t)len;
    }
    return true;
}
