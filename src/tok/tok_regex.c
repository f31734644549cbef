#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tok/tok_int.h"

struct tok_regex {
    pcre2_code *code;
    bool jit;
};

struct tok_find {
    const struct tok_regex *regex;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* The classes as Oniguruma has them; PCRE2's own \s adds U+180E and its \w lacks marks. Of the numbers that
 * are no digits, the six of Latin-1 (² ³ ¹ ¼ ½ ¾) belong to \w there, and no other. */
static const char SPACE[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"
                            "\\x{202f}\\x{205f}\\x{3000}";
static const char WORD[] = "\\p{L}\\p{M}\\p{Nl}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}\\x{24b6}-"
                           "\\x{24e9}\\x{1f130}-\\x{1f149}\\x{"
                           "1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";

/* Scripts by their main members only; PCRE2's own \p{Han} has characters that several scripts share, too. */
static const char *const scripts[] = {"{Han}",   "{Hiragana}", "{Katakana}", "{Hangul}", "{Latin}",
                                      "{Greek}", "{Cyrillic}", "{Arabic}",   "{Hebrew}", "{Thai}"};

/* One escape sequence at p ("\s"); returns how many bytes of the pattern it took, 0 when it is not
 * understood. */
static size_t put_escape(struct str *out, const char *p, bool in_class)
{
    const char *set = NULL;
    char c = p[1];
    if (c == 's' || c == 'S')
        set = SPACE;
    else if (c == 'w' || c == 'W')
        set = WORD;
    if (set) {
        bool negated = c == 'S' || c == 'W';
        if (in_class && negated)
            return 0;
        str_printf(out, in_class ? "%s%s" : negated ? "[^%s%s]" : "[%s%s]", set, "");
        return 2;
    }
    if (c == 'd' || c == 'D') {
        str_add(out, c == 'd' ? "\\p{Nd}" : "\\P{Nd}");
        return 2;
    }
    if (c == 'v') {
        str_add(out, "\\x{b}");
        return 2;
    }
    if (c == 'u' && strspn(p + 2, "0123456789abcdefABCDEF") >= 4) {
        str_printf(out, "\\x{%.4s}", p + 2);
        return 6;
    }
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!c || (unsigned char)c >= 0x80 || (letter && !strchr("pPrntfaxe", c)))
        return 0;
    for (size_t i = 0; (c == 'p' || c == 'P') && i < sizeof scripts / sizeof *scripts; i++)
        if (strncmp(p + 2, scripts[i], strlen(scripts[i])) == 0) {
            str_printf(out, "\\%c{sc:%s", c, scripts[i] + 1);
            return 2 + strlen(scripts[i]);
        }
    const char *end = p[2] == '{' && strchr("pPx", c) ? strchr(p, '}') : p + 1;
    if (!end)
        return 0;
    str_addn(out, p, (size_t)(end - p) + 1);
    return (size_t)(end - p) + 1;
}

static size_t put_group(struct str *out, const char *p)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(p, known[i], strlen(known[i])) == 0) {
            str_add(out, known[i]);
            return strlen(known[i]);
        }
    return 0;
}

/* Rewrites the pattern for PCRE2; returns NULL, or the place that it does not understand. */
static const char *translate(struct str *out, const char *p)
{
    bool in_class = false;
    while (*p) {
        size_t took = 1;
        if (*p == '\\')
            took = put_escape(out, p, in_class);
        else if (in_class && (*p == '[' || (p[0] == '&' && p[1] == '&')))
            took = 0; /* nested sets and intersections mean something else in PCRE2 */
        else if (!in_class && p[0] == '(' && p[1] == '?')
            took = put_group(out, p);
        else if (!in_class && p[0] == '}' && p[1] == '+')
            took = 0; /* possessive there, a plain repetition here */
        else
            str_addc(out, *p);
        if (!took)
            return p;
        if (*p == '[' && !in_class) {
            in_class = true;
            if (p[took] == '^')
                str_addc(out, p[took++]);
        } else if (*p == ']') {
            in_class = false;
        }
        p += took;
    }
    return NULL;
}

static int compile(struct tok_regex *r, const char *pattern, const char *where)
{
    struct str text = {0};
    const char *bad = translate(&text, pattern);
    if (bad) {
        str_free(&text);
        return err_set(ERR_INPUT,
                       "%s: the pattern has a construct that is not supported at byte %zu (\"%.12s\")", where,
                       (size_t)(bad - pattern), bad);
    }
    pcre2_compile_context *c = pcre2_compile_context_create(NULL);
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE at;
    r->code = pcre2_compile((PCRE2_SPTR)str_c(&text), text.n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code,
                            &at, c);
    pcre2_compile_context_free(c);
    str_free(&text);
    if (r->code) {
        (void)pcre2_jit_compile(r->code,
                                PCRE2_JIT_COMPLETE); /* without it matching is slower, not different */
        return 0;
    }
    PCRE2_UCHAR why[160];
    pcre2_get_error_message(code, why, sizeof why);
    return err_set(ERR_INPUT, "%s: the pattern does not compile: %s", where, (const char *)why);
}

int tok_regex_open(struct tok_regex **r, const char *pattern, const char *where)
{
    *r = mem_alloc(1, sizeof **r);
    int rc = compile(*r, pattern, where);
    if (rc < 0) {
        tok_regex_close(*r);
        *r = NULL;
    }
    return rc;
}

void tok_regex_close(struct tok_regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    free(r);
}

struct tok_find *tok_find_open(const struct tok_regex *r)
{
    struct tok_find *f = mem_alloc(1, sizeof *f);
    f->regex = r;
    f->data = pcre2_match_data_create(1, NULL);
    f->context = pcre2_match_context_create(NULL);
    f->stack = pcre2_jit_stack_create(32 * 1024, 8 * 1024 * 1024, NULL);
    if (f->stack)
        pcre2_jit_stack_assign(f->context, NULL, f->stack);
    return f;
}

void tok_find_close(struct tok_find *f)
{
    if (!f)
        return;
    pcre2_match_data_free(f->data);
    pcre2_match_context_free(f->context);
    pcre2_jit_stack_free(f->stack);
    free(f);
}

int tok_find_next(struct tok_find *f, const char *s, size_t n, size_t from, size_t *a, size_t *b)
{
    int rc = f->regex->jit ? pcre2_jit_match(f->regex->code, (PCRE2_SPTR)s, n, from, 0, f->data, f->context)
                           : pcre2_match(f->regex->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, f->data,
                                         f->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        PCRE2_UCHAR why[160];
        pcre2_get_error_message(rc, why, sizeof why);
        return err_set(ERR_INPUT, "the pre-tokenizer pattern failed on the text: %s", (const char *)why);
    }
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(f->data);
    *a = v[0];
    *b = v[1];
    return 1;
}
