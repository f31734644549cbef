/* llmlingua2_cases ENCODER RANKS CASES.json: the single texts of microsoft/LLMLingua v0.2.2
 * tests/test_llmlingua2.py with the options used there, against the texts that CASES.json says come out. (Its
 * other cases choose among several contexts first, which no setting of the benchmark does.) */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "prompt/llmlingua2.h"
#include "prompt/prompt.h"

struct one {
    const char *prompt, *want; /* keys of CASES.json */
    double rate;               /* 0: by the target */
    int target;
    bool drop, digits;
    const char *force[12];
};
static const struct one calls[] = {
    {"PROMPT", "COMPRESSED_SINGLE_CONTEXT_PROMPT", 0.33, 0, false, false, {"\n", ".", "!", "?"}},
    {"GSM8K_PROMPT",
     "GSM8K_150TOKENS_COMPRESSED_SINGLE_CONTEXT_PROMPT",
     0,
     170,
     false,
     true,
     {"+", "-", "*", "×", "/", "÷", "=", "The answer is", "\n", "Question:"}},
    {"MEETINGBANK_PROMPT",
     "MEETINGBANK_150TOKENS_COMPRESSED_SINGLE_CONTEXT_PROMPT",
     0,
     150,
     true,
     false,
     {"\n", ".", "?", "!"}},
};

static int failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, err_text());
    return 1;
}

static int tokens(const struct tok *t, const char *text, int64_t *n)
{
    int32_t *ids;
    TRY(tok_encode(t, text, strlen(text), false, &ids, n));
    free(ids);
    return 0;
}

/* 1: another text came out; negative: an error. */
static int run(struct prompt_compressor *c, const struct tok *ranks, const json_t *cases, const struct one *k)
{
    const char *prompt = json_string_value(json_object_get(cases, k->prompt)),
               *want = json_string_value(json_object_get(cases, k->want));
    struct ll2_options o = {
        .force_tokens = k->force, .drop_consecutive = k->drop, .force_reserve_digit = k->digits};
    if (!prompt || !want)
        return err_set(ERR_INPUT, "no texts '%s' and '%s'", k->prompt, k->want);
    while (o.n_force < 12 && k->force[o.n_force])
        o.n_force++;
    const char *blank =
        k->target ? strstr(prompt, "\n\n") : NULL; /* there only the part before a blank line */
    char *text = blank ? mem_strndup(prompt, (size_t)(blank - prompt)) : mem_strdup(prompt), *got = NULL;
    int64_t n = 0;
    int rc = tokens(ranks, text, &n);
    o.rate = k->target ? (double)n / k->target : 1 / k->rate;
    if (rc == 0)
        rc = ll2_run(c, &o, text, &got, NULL);
    bool same = rc == 0 && !strcmp(got, want);
    if (rc == 0)
        printf("%s: %lld tokens at rate %.3f: %s\n", k->want, (long long)n, o.rate,
               same ? "as expected" : "DIFFERENT");
    if (rc == 0 && !same)
        printf(" got: %s\nwant: %s\n", got, want);
    free(got);
    free(text);
    return rc < 0 ? rc : !same;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s ENCODER RANKS CASES.json\n", argv[0]);
        return 2;
    }
    const struct prompt_method *m = prompt_method_find("llmlingua2");
    const struct prompt_files files = {argv[1], argv[2]};
    struct prompt_compressor *c = NULL;
    struct tok *ranks = NULL;
    json_t *cases = json_load_file(argv[3], 0, NULL);
    int bad = 0;
    if (!cases || tok_open_tiktoken(&ranks, argv[2]) < 0 ||
        m->open(&c, &files, &(struct prompt_options){0}) < 0)
        return failed(cases ? argv[1] : argv[3]);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        int rc = run(c, ranks, cases, &calls[i]);
        bad += rc < 0 ? failed(calls[i].prompt) : rc;
    }
    m->close(c);
    tok_close(ranks);
    json_decref(cases);
    return bad > 0;
}
