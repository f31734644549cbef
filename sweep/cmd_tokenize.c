#include "base/err.h"
#include "base/json_line.h"
#include "base/mem.h"
#include "run/run.h"
#include "sweep/app.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct tokenize_args {
    const char *model;
    bool decode, no_special, json, whole;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct tokenize_args *a = state->input;
    switch (key) {
    case 'd':
        a->decode = true;
        return 0;
    case 'n':
        a->no_special = true;
        return 0;
    case 'j':
        a->json = true;
        return 0;
    case 'w':
        a->whole = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->model)
            return ARGP_ERR_UNKNOWN;
        a->model = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->model)
            return 0;
        fprintf(stderr, "%s: which model? an id of configs/models, a GGUF file or a model folder\n",
                state->name);
        exit(1);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int encode(const struct tok *t, const struct tokenize_args *a, const char *text, size_t n,
                  struct str *out)
{
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    TRY(tok_encode(t, text, n, !a->no_special, &ids, &n_ids));
    str_addc(out, '[');
    for (int64_t i = 0; i < n_ids; i++)
        str_printf(out, "%s%d", i ? ", " : "", ids[i]);
    str_add(out, "]\n");
    free(ids);
    return 0;
}

static int decode(const struct tok *t, const struct tokenize_args *a, const json_t *list, struct str *out)
{
    size_t n = json_array_size(list);
    int32_t *ids = mem_alloc(n + 1, sizeof *ids);
    int rc = json_is_array(list) ? 0 : err_set(ERR_INPUT, "not a JSON array of token ids");
    for (size_t i = 0; i < n && rc == 0; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > INT32_MAX)
            rc = err_set(ERR_INPUT, "item %zu is not a token id", i);
        if (rc == 0 && id >= tok_n_vocab(t))
            rc = err_set(ERR_INPUT, "token id %lld at %zu is outside the vocabulary (0 to %d)", (long long)id,
                         i, tok_n_vocab(t) - 1);
        ids[i] = (int32_t)id;
    }
    char *text = NULL;
    size_t n_text = 0;
    if (rc == 0)
        rc = tok_decode(t, ids, (int64_t)n, a->no_special, &text, &n_text);
    if (rc == 0) {
        if (a->json)
            str_add_json(out, text, n_text);
        else
            str_addn(out, text, n_text);
        if (!a->whole || a->json)
            str_addc(out, '\n');
    }
    free(text);
    free(ids);
    return rc;
}

static int one(const struct tok *t, const struct tokenize_args *a, const char *text, size_t n,
               struct str *out)
{
    if (!a->decode && !a->json)
        return encode(t, a, text, n, out);
    json_t *v = NULL;
    int rc = json_line(text, n, &v);
    if (rc < 0)
        return rc;
    if (a->decode)
        rc = decode(t, a, v, out);
    else if (!json_is_string(v))
        rc = err_set(ERR_INPUT, "not a JSON string");
    else
        rc = encode(t, a, json_string_value(v), json_string_length(v), out);
    json_decref(v);
    return rc;
}

static int all(const struct tok *t, const struct tokenize_args *a)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int64_t n_line = 0;
    int rc = 0;
    struct str out = {0};
    while (rc == 0 && (n = a->whole ? getdelim(&line, &cap, EOF, stdin) : getline(&line, &cap, stdin)) >= 0) {
        n_line++;
        if (!a->whole && n > 0 && line[n - 1] == '\n')
            n--;
        size_t skip = n_line == 1 && (a->decode || a->json) ? json_bom(line, (size_t)n) : 0;
        rc = one(t, a, line + skip, (size_t)n - skip, &out);
        if (rc == 0)
            rc = app_write(NULL, &out);
        else
            rc = err_prefix(rc, "input line %lld", (long long)n_line);
        str_clear(&out);
    }
    str_free(&out);
    free(line);
    return rc;
}

int cmd_tokenize(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"decode", 'd', 0, 0, "from JSON arrays of ids, one per line, to text", 0},
        {"no-special", 'n', 0, 0, "no BOS or EOS is added; --decode leaves special tokens out", 0},
        {"json", 'j', 0, 0, "texts are JSON strings, so that they may hold line breaks", 0},
        {"whole", 'w', 0, 0, "all of the input is one text", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "MODEL",
        .doc = "Turns every line of the input into one JSON array of token ids, and back. MODEL is an id "
               "of configs/models, a GGUF file or a model folder."};
    struct tokenize_args a = {0};
    struct config_model m;
    struct tok *t = NULL;
    app_parse(app, &argp, argc, argv, &a);
    TRY(app_model(app, a.model, &m));
    int rc = run_tok_open(&t, m.path, m.tokenizer);
    if (rc == 0)
        rc = all(t, &a);
    tok_close(t);
    config_model_close(&m);
    return rc;
}
