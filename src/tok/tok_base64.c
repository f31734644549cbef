#include "tok/tok_int.h"

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool base64_add(struct str *out, const char *text, size_t n)
{
    size_t keep = out->n, pad = 0;
    while (pad < 2 && pad < n && text[n - 1 - pad] == '=')
        pad++;
    uint32_t bits = 0;
    bool ok = n % 4 == 0;
    for (size_t i = 0; ok && i < n - pad; i++) {
        int d = digit(text[i]);
        ok = d >= 0;
        bits = bits << 6 | (uint32_t)(d & 63);
        if (i % 4 == 3) {
            const char three[3] = {(char)(bits >> 16), (char)(bits >> 8), (char)bits};
            str_addn(out, three, 3);
            bits = 0;
        }
    }
    /* 18 or 12 bits are left: the last two or four of them belong to no byte and must be zero */
    if (ok && pad) {
        const char two[2] = {(char)(pad == 1 ? bits >> 10 : bits >> 4), (char)(bits >> 2)};
        ok = (bits & (pad == 1 ? 3 : 15)) == 0;
        str_addn(out, two, 3 - pad);
    }
    if (!ok)
        out->n = keep;
    return ok;
}
