#include "sweep/plan_prompt.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* A path, or the path of the model file with that id; *fetch says whether `kvsweep fetch` gets it. */
static int resolve(const struct config *c, const char *name, char **path, bool *fetch)
{
    *fetch = false;
    if (file_exists(name) || file_is_dir(name) || strchr(name, '/')) {
        *path = mem_strdup(name);
        return 0;
    }
    struct config_model m;
    TRY(config_model_open(&m, name, c->path, &c->source));
    *path = mem_strdup(m.path);
    *fetch = m.fetch.n_part > 0;
    config_model_close(&m);
    return 0;
}

static bool there(const char *path)
{
    return file_exists(path) || file_is_dir(path);
}

static int find_encoder(struct plan_prompt *p, const struct config *c, const char *name, bool sketch)
{
    bool fetch;
    TRY(resolve(c, name, &p->encoder, &fetch));
    p->files.encoder = p->encoder;
    p->absent = !there(p->encoder);
    if (p->absent && !sketch)
        return err_set(ERR_INPUT,
                       "encoder=%s: %s is missing; put the checkpoint's folder there or name another", name,
                       p->encoder);
    return 0;
}

static int find_ranks(struct plan_prompt *p, const struct config *c, const char *name)
{
    bool fetch;
    if (!name || !strcmp(name, "none")) {
        p->notice = mem_strdup(
            "ranks=none: thresholds count the encoder's own tokens, so other words are kept than in "
            "the reference");
        return 0;
    }
    TRY(resolve(c, name, &p->ranks, &fetch));
    if (!there(p->ranks)) {
        if (strchr(name, '/'))
            return err_set(ERR_INPUT, "ranks=%s: no such file; ranks=none counts the encoder's own tokens",
                           name);
        p->notice = mem_printf(
            "%s is missing (ranks=%s%s%s): thresholds count the encoder's own tokens, so other words "
            "are kept than in the reference",
            p->ranks, name, fetch ? "; get it with: kvsweep fetch " : "", fetch ? name : "");
        free(p->ranks);
        p->ranks = NULL;
    }
    p->files.ranks = p->ranks;
    return 0;
}

/* Parameters but those that name files, and what the files hold. */
static int describe(struct plan_prompt *p, const struct prompt_method *m, const struct kv_spec *spec)
{
    struct str s = {0};
    for (const struct param *row = kv_method_info(spec->method).params; row && row->name; row++) {
        const struct param one[2] = {*row, {0}};
        if (!strcmp(row->name, "encoder") || !strcmp(row->name, "ranks"))
            continue;
        if (s.n)
            str_addc(&s, ',');
        param_text(one, spec->params, &s);
    }
    str_addc(&s, ';');
    int rc = 0;
    if (p->absent)
        str_add(&s, "encoder absent");
    else
        rc = m->identify(&p->files, &s);
    p->params = mem_strdup(str_c(&s));
    str_free(&s);
    return rc;
}

int plan_prompt_open(struct plan_prompt **out, const struct config *c, const struct kv_spec *spec,
                     bool sketch)
{
    const struct prompt_method *m = prompt_method_find(kv_method_name(spec->method));
    *out = NULL;
    if (!m)
        return 0;
    struct plan_prompt *p = mem_alloc(1, sizeof *p);
    const struct prompt_files names = m->files(spec->params);
    int rc = find_encoder(p, c, names.encoder, sketch);
    if (rc == 0)
        rc = find_ranks(p, c, names.ranks);
    if (rc == 0)
        rc = describe(p, m, spec);
    if (rc < 0) {
        plan_prompt_close(p);
        return err_prefix(rc, "method %s", m->name);
    }
    *out = p;
    return 0;
}

void plan_prompt_close(struct plan_prompt *p)
{
    if (!p)
        return;
    free(p->encoder);
    free(p->ranks);
    free(p->params);
    free(p->notice);
    free(p);
}
