/* What a person should know of a model's files before answers are believed: one line each, on the first rank.
 */
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/chat.h"
#include "sweep/defaults.h"
#include "sweep/plan_int.h"

#include <stdlib.h>
#include <string.h>

void plan_tell_notes(const char *id, const struct model_file *f)
{
    const char *notes = model_file_notes(f);
    for (size_t n; *notes; notes += n + 1) {
        n = strcspn(notes, "\n");
        log_warn("model '%s': %.*s", id, (int)n, notes);
    }
}

static void tell_doubts(const struct config *c, const struct config_model *cfg, const struct model_file *f)
{
    struct defaults_doubt d;
    for (int i = 0; i < c->n_method; i++) {
        if (!defaults_doubt(&c->method[i].spec, cfg, f, &d))
            continue;
        const char *method = kv_method_name(c->method[i].spec.method);
        log_warn(
            "model '%s': its metadata names %s, but a GGUF file does not say the model_type: %s runs as on "
            "other models; write %s=%s in the method, or defaults: {%s: {%s: %s}} in the model, if it is one",
            cfg->id, d.model_type, method, d.key, d.value, method, d.key, d.value);
        return;
    }
}

void plan_tell_file(const struct config *c, const struct config_model *cfg, const struct model_file *f)
{
    plan_tell_notes(cfg->id, f);
    tell_doubts(c, cfg, f);
}

/* A chat template that nobody asked for may be what the model wants. */
static int tell_template(const struct config_model *cfg)
{
    char *text;
    if (cfg->template_named)
        return 0;
    TRY(chat_template_read(cfg->path, &text));
    const char *near = text ? chat_template_nearest(text) : NULL;
    if (text)
        log_warn("model '%s': %s has a chat template, but the configuration names none, so that prompts go "
                 "without; "
                 "write template: %s%s, or template: none if that is meant",
                 cfg->id, cfg->path, near ? near : "NAME (see kvsweep list templates)",
                 near ? " (the nearest one by name)" : "");
    free(text);
    return 0;
}

int plan_tell_tok(const struct config_model *cfg, const struct tok *tok)
{
    const struct chat_template *tpl = tok_template(cfg->template);
    int32_t stop[POLICY_STOPS];
    if (tpl->stop && tok_id(tok, tpl->stop) < 0)
        log_warn("model '%s': template %s ends an answer with %s, which the tokenizer does not have", cfg->id,
                 tpl->name, tpl->stop);
    if (policy_stop_ids(tpl, tok, stop) == 0)
        log_warn("model '%s': nothing names a token that ends an answer: each runs to its full length (%s)",
                 cfg->id,
                 file_is_dir(cfg->path) ? "eos_token_id in generation_config.json or config.json would"
                                        : "tokenizer.ggml.eos_token_id in the file's metadata would");
    return tell_template(cfg);
}
