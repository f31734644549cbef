#include "task/utext.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void utext_init(struct utext *u, const char *bytes, size_t n_bytes)
{
    u->cp = mem_alloc(n_bytes + 1, sizeof *u->cp);
    u->n = 0;
    for (size_t at = 0; at < n_bytes;) {
        uint32_t c = 0;
        int len = utf8_get(bytes + at, n_bytes - at, &c);
        u->cp[u->n++] = len > 0 ? c : 0xFFFD;
        at += len > 0 ? (size_t)len : 1;
    }
}

void utext_free(struct utext *u)
{
    free(u->cp);
    *u = (struct utext){0};
}

struct uspan utext_span(const struct utext *u)
{
    return (struct uspan){u->cp, u->n};
}

bool ucp_is_space(uint32_t c)
{
    if (c < 0x80)
        return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

bool ucp_is_word(uint32_t c)
{
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return c == '_';
    }
}

bool ucp_is_decimal(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_ND;
}

struct range {
    uint32_t from, to;
};

static bool in_ranges(const struct range *r, size_t n, uint32_t c)
{
    for (size_t i = 0; i < n; i++)
        if (c >= r[i].from && c <= r[i].to)
            return true;
    return false;
}

/* Unicode property Cased: categories Lu, Ll, Lt and the letters that PropList.txt adds (Other_Lowercase,
 * Other_Uppercase). */
static bool is_cased(uint32_t c)
{
    static const struct range other[] = {
        {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},     {0x2E0, 0x2E4},
        {0x345, 0x345},     {0x37A, 0x37A},     {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},   {0x1D9B, 0x1DBF},
        {0x2071, 0x2071},   {0x207F, 0x207F},   {0x2090, 0x209C},   {0x2160, 0x217F},   {0x24B6, 0x24E9},
        {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},
        {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x1F130, 0x1F149},
        {0x1F150, 0x1F169}, {0x1F170, 0x1F189},
    };
    utf8proc_category_t cat = category(c);
    return cat == UTF8PROC_CATEGORY_LU || cat == UTF8PROC_CATEGORY_LL || cat == UTF8PROC_CATEGORY_LT ||
           in_ranges(other, sizeof other / sizeof *other, c);
}

/* Unicode property Case_Ignorable: categories Mn, Me, Cf, Lm, Sk and the word-break classes MidLetter,
 * MidNumLet and Single_Quote. */
static bool is_case_ignorable(uint32_t c)
{
    static const uint32_t mid[] = {0x27,   0x2E,   0x3A,   0xB7,   0x387,  0x55F,  0x5F4,  0x2018, 0x2019,
                                   0x2024, 0x2027, 0xFE13, 0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
    for (size_t i = 0; i < sizeof mid / sizeof *mid; i++)
        if (c == mid[i])
            return true;
    utf8proc_category_t cat = category(c);
    return cat == UTF8PROC_CATEGORY_MN || cat == UTF8PROC_CATEGORY_ME || cat == UTF8PROC_CATEGORY_CF ||
           cat == UTF8PROC_CATEGORY_LM || cat == UTF8PROC_CATEGORY_SK;
}

/* Capital sigma ends a word (U+03C2) when a cased letter stands before it and none after it, case-ignorable
 * characters aside. */
static uint32_t lower_sigma(struct uspan s, size_t at)
{
    size_t i = at;
    while (i > 0 && is_case_ignorable(s.cp[i - 1]))
        i--;
    if (i == 0 || !is_cased(s.cp[i - 1]))
        return 0x3C3;
    for (i = at + 1; i < s.n && is_case_ignorable(s.cp[i]);)
        i++;
    return i == s.n || !is_cased(s.cp[i]) ? 0x3C2 : 0x3C3;
}

void utext_lower(struct utext *out, struct uspan s)
{
    out->cp = mem_alloc(2 * s.n + 1, sizeof *out->cp);
    out->n = 0;
    for (size_t i = 0; i < s.n; i++) {
        uint32_t c = s.cp[i];
        if (c < 0x80)
            c = c >= 'A' && c <= 'Z' ? c + 32 : c;
        else if (c == 0x3A3)
            c = lower_sigma(s, i);
        else if (c == 0x130)
            c = 'i';
        else
            c = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
        out->cp[out->n++] = c;
        if (s.cp[i] == 0x130)
            out->cp[out->n++] = 0x307;
    }
}

bool uspan_equal(struct uspan a, struct uspan b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.cp, b.cp, a.n * sizeof *a.cp) == 0);
}

int uspan_compare(struct uspan a, struct uspan b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    for (size_t i = 0; i < n; i++)
        if (a.cp[i] != b.cp[i])
            return a.cp[i] < b.cp[i] ? -1 : 1;
    return a.n == b.n ? 0 : a.n < b.n ? -1 : 1;
}

bool uspan_contains(struct uspan hay, struct uspan needle)
{
    for (size_t at = 0; at + needle.n <= hay.n; at++)
        if (uspan_equal((struct uspan){hay.cp + at, needle.n}, needle))
            return true;
    return false;
}

struct uspan uspan_skip_newlines(struct uspan s)
{
    while (s.n > 0 && *s.cp == '\n')
        s.cp++, s.n--;
    return s;
}

bool uspan_next(struct uspan *s, uint32_t sep, struct uspan *part)
{
    if (!s->cp)
        return false;
    size_t n = 0;
    while (n < s->n && s->cp[n] != sep)
        n++;
    *part = (struct uspan){s->cp, n};
    *s = n < s->n ? (struct uspan){s->cp + n + 1, s->n - n - 1} : (struct uspan){0};
    return true;
}

bool uspan_next_word(struct uspan *s, struct uspan *word)
{
    while (s->n > 0 && ucp_is_space(*s->cp))
        s->cp++, s->n--;
    size_t n = 0;
    while (n < s->n && !ucp_is_space(s->cp[n]))
        n++;
    *word = (struct uspan){s->cp, n};
    s->cp += n;
    s->n -= n;
    return n > 0;
}
