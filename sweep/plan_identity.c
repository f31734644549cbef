/* What tells models of a plan apart beside their files: the texts of the chat template and the ids that end an answer, as unit
 * ids and the rows of /settings hold them. */
#include "base/err.h"
#include "base/mem.h"
#include "sweep/plan_int.h"

#include <stdlib.h>
#include <string.h>

static void add_json(struct str *s, const char *key, const char *text)
{
    str_printf(s, "\"%s\": ", key);
    if (text)
        str_add_json(s, text, strlen(text));
    else
        str_add(s, "null");
}

/* The name, then the texts as a JSON object: `chatml {"before": "…", …}`. */
static int template_text(const struct run_model *m, char **out)
{
    const struct chat_template *t = tok_template(m->template ? m->template : "none");
    struct str s = {0};
    if (!t)
        return err_set(ERR_INPUT, "model %s: unknown template '%s'", m->id, m->template);
    str_printf(&s, "%s {", t->name);
    add_json(&s, "before", t->before);
    str_add(&s, ", ");
    add_json(&s, "after", t->after);
    str_printf(&s, ", \"trim\": %s, ", t->trim ? "true" : "false");
    add_json(&s, "stop", t->stop);
    str_addc(&s, '}');
    *out = s.data;
    return 0;
}

static char *stop_text(const int32_t *id, int n)
{
    struct str s = {0};
    for (int i = 0; i < n; i++)
        str_printf(&s, "%s%d", i ? "," : "", id[i]);
    return s.data ? s.data : mem_strdup("");
}

int plan_model_identity(struct plan_model *m, enum run_mode mode, bool sketch)
{
    int32_t stop[8];
    TRY(template_text(&m->run, &m->template_text));
    int n = 0, rc = 0;
    if (!m->assumed && !m->tok)
        rc = run_tok_open(&m->tok, m->run.path);
    if (rc < 0 && !sketch)
        return err_prefix(rc, "model '%s'", m->run.id);
    if (m->tok)
        n = policy_stop_ids(mode, &m->run, m->tok, stop);
    m->stop_ids = stop_text(stop, n);
    return 0;
}

const char *plan_template_texts(const struct plan_model *m)
{
    return strchr(m->template_text, '{');
}
