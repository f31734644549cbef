#include "run/chat.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/gguf.h"
#include "tok/tok.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static int read_text(const char *dir, const char *name, char **text)
{
    char *path = file_join(dir, name);
    int rc = file_exists(path) ? file_read(path, text, NULL) : 0;
    free(path);
    return rc;
}

/* chat_template: a text, or a list of {"name", "template"}. */
static const char *pick(const json_t *v)
{
    const char *best = json_string_value(v);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *e = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(e, "name"));
        const char *text = json_string_value(json_object_get(e, "template"));
        if (text && (!best || (name && !strcmp(name, "default"))))
            best = text;
    }
    return best;
}

static int read_folder(const char *dir, char **text)
{
    char *config = NULL;
    json_error_t e;
    TRY(read_text(dir, "chat_template.jinja", text));
    if (*text)
        return 0;
    TRY(read_text(dir, "tokenizer_config.json", &config));
    json_t *root = config ? json_loads(config, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &e) : NULL;
    const char *found = pick(json_object_get(root, "chat_template"));
    if (found)
        *text = mem_strdup(found);
    json_decref(root);
    free(config);
    return 0;
}

int chat_template_read(const char *model_path, char **text)
{
    *text = NULL;
    if (file_is_dir(model_path))
        return read_folder(model_path, text);
    struct gguf *g;
    struct gguf_text v;
    TRY(gguf_open(&g, model_path));
    if (gguf_has(g, "tokenizer.chat_template") && gguf_text(g, "tokenizer.chat_template", &v) == 0)
        *text = mem_strndup(v.s, v.n);
    gguf_close(g);
    return 0;
}

/* Length of the marker at s: "<|im_start|>", "<start_of_turn>", "[INST]"; 0: there is none. */
static size_t marker(const char *s)
{
    size_t n = *s == '<' ? strcspn(s, "> \n") : *s == '[' ? strcspn(s, "] \n") : 0;
    return n && (s[n] == '>' || s[n] == ']') ? n + 1 : 0;
}

/* Texts that Jinja writes by name (bos_token, eos_token). */
static bool by_name(const char *s, size_t n)
{
    static const char *const names[] = {"<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && !strncmp(s, names[i], n))
            return true;
    return false;
}

static bool holds(const char *text, const char *s, size_t n)
{
    char *part = mem_strndup(s, n);
    bool yes = strstr(text, part) != NULL;
    free(part);
    return yes;
}

/* Adds what stands of `own` in the text; false if something of it does not. Words that a Jinja template may
 * put together from a role's name do not count, sentences of 20 characters do; a value behind a colon is one
 * of its own ("Today Date: "). */
static bool measure(const char *text, const char *own, size_t *found)
{
    while (*own) {
        size_t n = marker(own), m = n ? n : strcspn(own, "<[\n:");
        if (m == 0) {
            own++;
            continue;
        }
        if (n ? !by_name(own, n) : m >= 20) {
            if (!holds(text, own, m))
                return false;
            *found += m;
        }
        own += m;
    }
    return true;
}

const char *chat_template_nearest(const char *text)
{
    const char *best = NULL;
    size_t most = 0;
    const struct chat_template *t;
    for (int i = 0; (t = tok_template_at(i)); i++) {
        size_t found = 0;
        if (measure(text, t->before, &found) && measure(text, t->after, &found) && found > most) {
            most = found;
            best = t->name;
        }
    }
    return best;
}
