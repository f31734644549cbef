/* llmlingua2_cases ENCODER RANKS CASES.json: the calls of microsoft/LLMLingua v0.2.2
 * tests/test_llmlingua2.py, one text or several, against the texts that CASES.json says come out. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "prompt/llmlingua2.h"
#include "prompt/prompt.h"

enum { MAX_CONTEXTS = 64, MAX_FORCE = 32 };

struct one {
    const char *prompt, *want; /* keys of CASES.json */
    double rate;               /* 0: by the target */
    int target;
    int contexts; /* parts of the prompt between blank lines; 0: all */
    bool drop, digits;
    const char *force[MAX_FORCE];
};
static const struct one calls[] = {
    {"PROMPT", "COMPRESSED_SINGLE_CONTEXT_PROMPT", 0.33, 0, -1, false, false, {"\n", ".", "!", "?"}},
    {"PROMPT", "COMPRESSED_MULTIPLE_CONTEXT_PROMPT", 0, 40, 0, false, false, {"\n", ".", "!", "?"}},
    {"GSM8K_PROMPT",
     "GSM8K_150TOKENS_COMPRESSED_SINGLE_CONTEXT_PROMPT",
     0,
     170,
     1,
     false,
     true,
     {"+", "-", "*", "×", "/", "÷", "=", "The answer is", "\n", "Question:"}},
    {"MEETINGBANK_PROMPT",
     "MEETINGBANK_150TOKENS_COMPRESSED_SINGLE_CONTEXT_PROMPT",
     0,
     150,
     1,
     true,
     false,
     {"\n", ".", "?", "!"}},
    {"GSM8K_PROMPT",
     "GSM8K_150TOKENS_COMPRESSED_MULTIPLE_CONTEXT_PROMPT",
     0,
     150,
     0,
     false,
     true,
     {"+", "-", "*", "×", "/", "÷", "=", "The answer is", "\n"}},
    {"LONGBENCH_PROMPT_LIST",
     "LONGBENCH_1000TOKENS_COMPRESSED_MULTIPLE_CONTEXT_PROMPT",
     0,
     1000,
     0,
     true,
     false,
     {"\n",
      "。",
      "：",
      "？",
      "类别：",
      "农业、农村",
      "军事",
      "文学、艺术",
      "体育",
      "传媒业",
      "电子信息产业",
      "文化、休闲娱乐",
      "社会、劳动",
      "经济",
      "服务业、旅游业",
      "环境、气象",
      "能源、水务、水利",
      "财政、金融",
      "教育",
      "科学技术",
      "对外关系、国际关系",
      "矿业、工业",
      "政治",
      "交通运输、邮政、物流",
      "灾难、事故",
      "基本建设、建筑业、房地产",
      "医药、卫生",
      "法律、司法",
      "商业、外贸、海关"}},
};

static int failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, err_text());
    return 1;
}

/* The contexts of a call (owned), from a list, or cut at blank lines; their number, or an error. */
static int get_contexts(const json_t *cases, const struct one *k, char **context)
{
    const json_t *j = json_object_get(cases, k->prompt);
    const char *text = json_string_value(j), *end;
    int n = 0;
    if (!text && !json_is_array(j))
        return err_set(ERR_INPUT, "no text or list '%s'", k->prompt);
    for (size_t i = 0; i < json_array_size(j) && n < MAX_CONTEXTS; i++) {
        const char *one = json_string_value(json_array_get(j, i));
        context[n++] = mem_strdup(one ? one : "");
    }
    for (; text && n < MAX_CONTEXTS; text = end ? end + 2 : NULL) {
        end = k->contexts < 0 ? NULL : strstr(text, "\n\n");
        context[n++] = end ? mem_strndup(text, (size_t)(end - text)) : mem_strdup(text);
        if (n == k->contexts)
            break;
    }
    return n;
}

static struct ll2_options get_options(const struct one *k, int n)
{
    struct ll2_options o = ll2_defaults;
    o.rate = k->rate > 0 ? k->rate : o.rate;
    o.target_token = k->target ? k->target : o.target_token;
    o.use_context_level_filter = n > 1;
    o.force_tokens = k->force;
    o.drop_consecutive = k->drop;
    o.force_reserve_digit = k->digits;
    while (o.n_force < MAX_FORCE && k->force[o.n_force])
        o.n_force++;
    return o;
}

/* 1: another text came out; negative: an error. */
static int run(struct prompt_compressor *c, const json_t *cases, const struct one *k)
{
    const char *want = json_string_value(json_object_get(cases, k->want));
    char *context[MAX_CONTEXTS], *got = NULL;
    if (!want)
        return err_set(ERR_INPUT, "no text '%s'", k->want);
    int n = get_contexts(cases, k, context);
    TRY(n);
    const struct ll2_options o = get_options(k, n);
    int rc = ll2_run(c, &o, (const char *const *)context, n, &got, NULL);
    bool same = rc == 0 && !strcmp(got, want);
    if (rc == 0)
        printf("%s: %d context%s: %s\n", k->want, n, n > 1 ? "s" : "", same ? "as expected" : "DIFFERENT");
    if (rc == 0 && !same)
        printf(" got: %s\nwant: %s\n", got, want);
    free(got);
    while (n > 0)
        free(context[--n]);
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
    json_t *cases = json_load_file(argv[3], 0, NULL);
    int bad = 0, n = (int)(sizeof calls / sizeof *calls);
    if (!cases) {
        fprintf(stderr, "%s: no JSON file\n", argv[3]);
        return 1;
    }
    if (m->open(&c, &files, &(struct prompt_options){0}) < 0) {
        json_decref(cases);
        return failed(argv[1]);
    }
    for (int i = 0; i < n; i++) {
        int rc = run(c, cases, &calls[i]);
        bad += rc < 0 ? failed(calls[i].want) : rc;
    }
    printf("LLMLingua-2's published cases: %d of %d as expected\n", n - bad, n);
    m->close(c);
    json_decref(cases);
    return bad > 0;
}
