#include <string.h>
#include <utf8proc.h>

#include "tok/tok_int.h"

bool uni_space(uint32_t cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 ||
           cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool uni_numeric(uint32_t cp)
{
    if (cp < 0x80)
        return cp >= '0' && cp <= '9';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool uni_word(uint32_t cp)
{
    /* Alphabetic beyond the letter and mark categories: Nl, and the circled and squared Latin letters (So).
     */
    if ((cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
        (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189) || cp == 0x200c || cp == 0x200d)
        return true;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

size_t uni_trim_left(const char *s, size_t n)
{
    size_t at = 0;
    for (uint32_t cp; at < n;) {
        int len = utf8_get(s + at, n - at, &cp);
        if (len == 0 || !uni_space(cp))
            break;
        at += (size_t)len;
    }
    return at;
}

size_t uni_trim_right(const char *s, size_t n)
{
    size_t end = n;
    while (end > 0) {
        size_t at = end - 1;
        while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80)
            at--;
        uint32_t cp;
        if (utf8_get(s + at, end - at, &cp) == 0 || !uni_space(cp))
            break;
        end = at;
    }
    return n - end;
}

/* Length of the longest prefix of an ill-formed sequence that could begin a well-formed one (at least 1). */
static size_t bad_length(const unsigned char *s, size_t n)
{
    unsigned char lead = s[0], low = 0x80, high = 0xbf;
    size_t want = 0;
    if (lead >= 0xc2 && lead <= 0xdf)
        want = 1;
    else if (lead >= 0xe0 && lead <= 0xef)
        want = 2;
    else if (lead >= 0xf0 && lead <= 0xf4)
        want = 3;
    if (lead == 0xe0)
        low = 0xa0;
    else if (lead == 0xed)
        high = 0x9f;
    else if (lead == 0xf0)
        low = 0x90;
    else if (lead == 0xf4)
        high = 0x8f;
    size_t i = 1;
    for (; i <= want && i < n && s[i] >= low && s[i] <= high; i++) {
        low = 0x80;
        high = 0xbf;
    }
    return i;
}

void uni_add_lossy(struct str *out, const char *s, size_t n)
{
    size_t from = 0, at = 0;
    while (at < n) {
        uint32_t cp;
        int len = (unsigned char)s[at] < 0x80 ? 1 : utf8_get(s + at, n - at, &cp);
        if (len) {
            at += (size_t)len;
            continue;
        }
        str_addn(out, s + from, at - from);
        str_add(out, "\xef\xbf\xbd");
        at += bad_length((const unsigned char *)s + at, n - at);
        from = at;
    }
    str_addn(out, s + from, n - from);
}

static bool stands_for_itself(uint32_t b)
{
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
}

/* Code point of a byte: the bytes that do not stand for themselves are numbered from U+0100 in byte order:
 * 00–20 → 0100–0120, 7f–a0 → 0121–0142, ad → 0143. */
static uint32_t byte_letter(uint32_t b)
{
    if (stands_for_itself(b))
        return b;
    return 0x100 + (b <= 0x20 ? b : b <= 0xa0 ? 0x21 + b - 0x7f : 0x43);
}

static int letter_byte(uint32_t cp)
{
    if (cp < 0x100)
        return stands_for_itself(cp) ? (int)cp : -1;
    if (cp > 0x143)
        return -1;
    cp -= 0x100;
    return (int)(cp <= 0x20 ? cp : cp <= 0x42 ? cp - 0x21 + 0x7f : 0xad);
}

void uni_add_bytes(struct str *out, const char *s, size_t n)
{
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)s[i];
        if (b > 0x20 && b < 0x7f)
            continue;
        char letter[4];
        int len = utf8_put(letter, byte_letter(b));
        str_addn(out, s + from, i - from);
        str_addn(out, letter, (size_t)len);
        from = i + 1;
    }
    str_addn(out, s + from, n - from);
}

bool uni_add_unbytes(struct str *out, const char *s, size_t n)
{
    size_t keep = out->n;
    for (size_t at = 0; at < n;) {
        uint32_t cp;
        int len = utf8_get(s + at, n - at, &cp), b = len ? letter_byte(cp) : -1;
        if (b < 0) {
            out->n = keep;
            return false;
        }
        str_addc(out, (char)b);
        at += (size_t)len;
    }
    return true;
}
