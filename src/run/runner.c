#include "run/runner.h"

#include "base/err.h"
#include "base/mem.h"
#include "kernels/comm.h"

#include <stdlib.h>
#include <string.h>

int runner_open(struct runner **out, const struct run_options *opt)
{
    *out = NULL;
    struct runner *r = mem_alloc(1, sizeof *r);
    r->opt = *opt;
    const struct ops_options o = {.threads = opt->threads,
                                  .isa = opt->isa ? opt->isa : "auto",
                                  .device = opt->gpu,
                                  .act = DT_F32,
                                  .wait = opt->wait};
    int rc = kv_spec_parse(&r->full, "full");
    if (rc == 0)
        rc = ops_open(&r->ops, opt->device ? opt->device : "auto", &o);
    if (rc < 0) {
        runner_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

static void unload(struct runner *r)
{
    if (r->model)
        model_close(r->model);
    if (r->tok)
        tok_close(r->tok);
    free(r->loaded);
    r->model = NULL;
    r->tok = NULL;
    r->loaded = NULL;
    r->limits_known = false;
}

static void close_compressor(struct runner *r)
{
    if (r->compressor)
        r->prompt->close(r->compressor);
    free(r->prompt_paths);
    r->compressor = NULL;
    r->prompt_paths = NULL;
}

int runner_rewriter(struct runner *r, const struct run_unit *u, struct rewriter *rw)
{
    *rw = (struct rewriter){.params = u->spec->params};
    const struct prompt_method *m = u->files ? prompt_method_find(kv_method_name(u->spec->method)) : NULL;
    if (!m)
        return 0;
    char *paths = mem_printf("%s %s %s", m->name, u->files->encoder, u->files->ranks ? u->files->ranks : "");
    if (!r->compressor || strcmp(paths, r->prompt_paths) != 0) {
        close_compressor(r);
        const struct prompt_options o = {r->opt.device, r->opt.isa, r->opt.threads,
                                         r->opt.share,  r->opt.gpu, r->opt.poll};
        int rc = m->open(&r->compressor, u->files, &o);
        if (rc < 0) {
            free(paths);
            return err_prefix(rc, "method %s", m->name);
        }
        r->prompt = m;
        r->prompt_paths = paths;
    } else {
        free(paths);
    }
    rw->method = m;
    rw->compressor = r->compressor;
    return 0;
}

void runner_spare(struct runner *r, const struct run_unit *u)
{
    if (!u->files || !prompt_method_find(kv_method_name(u->spec->method)))
        close_compressor(r);
}

void runner_close(struct runner *r)
{
    if (!r)
        return;
    unload(r);
    close_compressor(r);
    if (r->ops)
        ops_close(r->ops);
    kv_spec_free(&r->full);
    free(r);
}

struct ops *runner_ops(struct runner *r)
{
    return r->ops;
}

struct model *runner_model(struct runner *r)
{
    return r->model;
}

const struct tok *runner_tok(struct runner *r)
{
    return r->tok;
}

void runner_counts(const struct runner *r, int64_t *passes, int64_t *tokens)
{
    *passes = r->engine.passes;
    *tokens = r->engine.prompt_tokens;
}

void runner_seconds(const struct runner *r, double *passes, double *decode)
{
    *passes = r->s_passes;
    *decode = r->s_decode;
}

static void wire_engine(struct runner *r)
{
    struct engine *e = &r->engine;
    e->ops = r->ops;
    e->model = r->model;
    e->tok = r->tok;
    e->n_vocab = model_config(r->model)->n_vocab;
    e->n_top = r->opt.topk < e->n_vocab ? r->opt.topk : (int)e->n_vocab;
    e->first_rows = r->opt.logits_first == 0 ? 0 : r->opt.logits_first == 1 ? 1 : INT32_MAX;
    e->chunk = r->ops->chunk;
    e->poll = r->opt.poll;
}

static int load(struct runner *r, const struct run_model *m, struct comm *c)
{
    struct model_file *f;
    TRY(model_file_open(&f, m->path));
    ops_set_act(r->ops, m->dtype);
    const struct model_options o = {/* the host's threads, also where a GPU computes */
                                    .dtype = m->dtype,
                                    .max_len = m->max_len,
                                    .share = r->opt.share,
                                    .threads = ops_threads(r->opt.threads),
                                    .comm = c,
                                    .poll = r->opt.poll};
    int rc = m->ids_only ? 0 : run_tok_open(&r->tok, m->path, m->tokenizer);
    if (rc == 0)
        rc = model_open(&r->model, r->ops, f, &o);
    model_file_close(f);
    if (rc < 0)
        unload(r);
    return rc;
}

int runner_load(struct runner *r, const struct run_model *m)
{
    return runner_load_together(r, m, NULL);
}

int runner_load_together(struct runner *r, const struct run_model *m, struct comm *c)
{
    char *want = mem_printf("%s %s%s %s %lld", m->path, dtype_name(m->dtype), m->ids_only ? " ids" : "",
                            m->tokenizer ? m->tokenizer : "", (long long)m->max_len);
    if (!r->loaded || strcmp(want, r->loaded) != 0) {
        unload(r);
        int rc = load(r, m, c);
        if (rc < 0) {
            if (c && !c->met)
                model_decline(c);
            free(want);
            return err_prefix(rc, "model %s", m->id);
        }
        r->loaded = want;
        wire_engine(r);
    } else {
        free(want);
        if (c)
            model_decline(c);
    }
    r->m = *m;
    return 0;
}
