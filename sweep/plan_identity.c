/* What tells models of a plan apart beside their files: the texts of the chat template and the ids that end
 * an answer, as unit ids and the rows of /settings hold them. */
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

int plan_model_identity(struct plan_model *m)
{
    int32_t stop[POLICY_STOPS];
    const struct chat_template *tpl = tok_template(m->run.template ? m->run.template : "none");
    if (!tpl)
        return err_set(ERR_INPUT, "model %s: unknown template '%s'", m->run.id, m->run.template);
    m->template_text = template_text(tpl);
    m->stop_ids = stop_text(stop, m->tok ? policy_stop_ids(tpl, m->tok, stop) : 0);
    return 0;
}

const char *plan_template_texts(const struct plan_model *m)
{
    return strchr(m->template_text, '{');
}
