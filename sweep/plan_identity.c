/* What tells models of a plan apart beside their files: the texts of the chat template and the ids that end
 * an answer, as unit ids and the rows of /settings hold them. */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "sweep/plan_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static void add_json(struct str *s, const char *key, const char *text)
{
    str_printf(s, "\"%s\": ", key);
    if (text)
        str_add_json(s, text, strlen(text));
    else
        str_add(s, "null");
}

/* The name, then the texts as a JSON object: `chatml {"before": "…", …}`. */
static char *template_text(const struct chat_template *t)
{
    struct str s = {0};
    str_printf(&s, "%s {", t->name);
    add_json(&s, "before", t->before);
    str_add(&s, ", ");
    add_json(&s, "after", t->after);
    str_printf(&s, ", \"trim\": %s, ", t->trim ? "true" : "false");
    add_json(&s, "stop", t->stop);
    str_addc(&s, '}');
    return s.data;
}

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

/* Sorts them: the order says nothing. */
static char *stop_text(int32_t *id, int n)
{
    struct str s = {0};
    if (n)
        qsort(id, (size_t)n, sizeof *id, by_id);
    for (int i = 0; i < n; i++)
        str_printf(&s, "%s%d", i ? "," : "", id[i]);
    return s.data ? s.data : mem_strdup("");
}

/* A tokenizer beside the model's own files decides on prompts as they do: its files go into the hash. */
static int add_tokenizer(struct plan_model *m)
{
    static const char *const files[] = {"tokenizer.json",           "tokenizer.model",
                                        "rwkv_vocab_v20230424.txt", "tokenizer_config.json",
                                        "special_tokens_map.json",  "added_tokens.json"};
    XXH3_state_t *s = XXH3_createState();
    XXH3_128bits_reset(s);
    XXH3_128bits_update(s, m->hash, strlen(m->hash));
    int rc = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files && rc == 0; i++) {
        char *path = file_join(m->run.tokenizer, files[i]), *data = NULL;
        size_t n = 0;
        rc = file_exists(path) ? file_read(path, &data, &n) : 0;
        if (data) {
            XXH3_128bits_update(s, files[i], strlen(files[i]) + 1);
            XXH3_128bits_update(s, data, n);
        }
        free(data);
        free(path);
    }
    XXH128_hash_t h = XXH3_128bits_digest(s);
    XXH3_freeState(s);
    snprintf(m->hash, sizeof m->hash, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
    return rc;
}

int plan_model_identity(struct plan_model *m)
{
    int32_t stop[POLICY_STOPS];
    const struct chat_template *tpl = tok_template(m->run.template ? m->run.template : "none");
    if (!tpl)
        return err_set(ERR_INPUT, "model %s: unknown template '%s'", m->run.id, m->run.template);
    m->template_text = template_text(tpl);
    m->stop_ids = m->run.never_stops ? mem_strdup("never")
                                     : stop_text(stop, m->tok ? policy_stop_ids(tpl, m->tok, stop) : 0);
    return m->tok && m->run.tokenizer ? add_tokenizer(m) : 0;
}

const char *plan_template_texts(const struct plan_model *m)
{
    return strchr(m->template_text, '{');
}
