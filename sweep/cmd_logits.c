/* Logits of given tokens as HDF5 arrays, for checking against other engines:
 *   /ids    i32 [n_prompt + max_new]: prompt, then the tokens chosen (or forced)
 *   /logits f32 [rows, n_vocab]: row i was computed after position first_position + i (attribute)
 *   /qkv/layer_NN/{q,k,v} f32 [n_tokens, heads, head_dim], before RoPE, prompt rows first; k_rope: k after it
 * (--dump-qkv) /kv/layer_NN/...  what the compressor holds after the last token (--dump-qkv) */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "hdf5io/arrays.h"
#include "run/probe.h"
#include "sweep/app.h"
#include "sweep/defaults.h"
#include "sweep/plan.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_MAX_NEW = 1,
    KEY_FORCE,
    KEY_ALL,
    KEY_DTYPE,
    KEY_CACHE_DTYPE,
    KEY_DUMP,
    KEY_DEVICE,
    KEY_THREADS,
    KEY_THETA
};

struct logits_args {
    const char *model, *method, *prompt, *force, *out, *dtype, *cache_dtype, *device;
    int64_t max_new, threads;
    double theta;
    bool all, dump;
};

static void refuse(const struct argp_state *state, const char *what)
{
    fprintf(stderr, "%s: %s\n", state->name, what);
    exit(1);
}

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct logits_args *a = state->input;
    switch (key) {
    case 'm':
        a->method = arg;
        return 0;
    case 'p':
        a->prompt = arg;
        return 0;
    case 'o':
        a->out = arg;
        return 0;
    case KEY_MAX_NEW:
        if (!str_to_int(arg, &a->max_new) || a->max_new < 1 || a->max_new > 1000000)
            refuse(state, "--max-new takes a whole number from 1 to 1000000");
        return 0;
    case KEY_THREADS:
        if (!str_to_int(arg, &a->threads) || a->threads < 0 || a->threads > 4096)
            refuse(state, "--threads takes a whole number from 0 (all) to 4096");
        return 0;
    case KEY_THETA:
        if (!str_to_double(arg, &a->theta) || a->theta <= 0)
            refuse(state, "--rope-theta-factor takes a number above 0");
        return 0;
    case KEY_FORCE:
        a->force = arg;
        return 0;
    case KEY_ALL:
        a->all = true;
        return 0;
    case KEY_DTYPE:
        a->dtype = arg;
        return 0;
    case KEY_CACHE_DTYPE:
        a->cache_dtype = arg;
        return 0;
    case KEY_DEVICE:
        a->device = arg;
        return 0;
    case KEY_DUMP:
        a->dump = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->model)
            return ARGP_ERR_UNKNOWN;
        a->model = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->model || !a->prompt || !a->out)
            refuse(state, "write kvsweep logits MODEL --prompt FILE --max-new N -o OUT.h5");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* A file that may be a pipe, so that it is read once: its text, and the JSON list in it, NULL if it is
 * anything else. */
struct input {
    const char *path;
    char *text;
    size_t bytes;
    json_t *list;
};

static int input_open(struct input *in, const char *path)
{
    *in = (struct input){.path = path};
    TRY(file_read(path, &in->text, &in->bytes));
    json_t *root = json_loads(in->text, 0, NULL);
    if (json_is_array(root))
        in->list = root;
    else
        json_decref(root);
    return 0;
}

static void input_close(struct input *in)
{
    free(in->text);
    json_decref(in->list);
}

static int ids_of(const struct input *in, int64_t n_vocab, int32_t **ids, int64_t *n)
{
    *n = (int64_t)json_array_size(in->list);
    *ids = mem_alloc((size_t)*n, sizeof **ids);
    for (int64_t i = 0; i < *n; i++) {
        const json_t *v = json_array_get(in->list, (size_t)i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= n_vocab)
            return err_set(ERR_INPUT, "%s: item %lld is not a token id below %lld", in->path, (long long)i,
                           (long long)n_vocab);
        (*ids)[i] = (int32_t)id;
    }
    return 0;
}

static int read_force(const char *path, int64_t n_vocab, int32_t **ids, int64_t *n)
{
    struct input in;
    TRY(input_open(&in, path));
    int rc = in.list ? ids_of(&in, n_vocab, ids, n)
                     : err_set(ERR_INPUT, "%s is not a JSON list of token ids", path);
    input_close(&in);
    return rc;
}

/* Prompt: a JSON list of ids, or text that is tokenised with special tokens, without a template. */
static int prompt_ids(const struct input *in, const struct tok *t, int64_t n_vocab, int32_t **ids, int64_t *n)
{
    TRY(in->list ? ids_of(in, n_vocab, ids, n) : tok_encode(t, in->text, in->bytes, true, ids, n));
    return *n ? 0 : err_set(ERR_INPUT, "%s gives an empty prompt", in->path);
}

struct out {
    struct arrays *file;
    struct ops *ops;
    const struct seq_shape *shape;
    int rc; /* of the tap, which cannot return one */
};

static int put_rows(void *ctx, const float *logits, int64_t n, int64_t n_vocab)
{
    struct out *o = ctx;
    const int64_t shape[2] = {n, n_vocab};
    return arrays_append(o->file, "/logits", DT_F32, 2, shape, logits);
}

static int put_tensor(struct out *o, int layer, const char *name, const struct tensor *t)
{
    size_t count = (size_t)tensor_count(t);
    char *path = mem_printf("/qkv/layer_%02d/%s", layer, name);
    float *host = mem_alloc(count, sizeof *host);
    int rc =
        t->dtype == DT_F32 ? 0 : err_set(ERR_INPUT, "--dump-qkv needs f32 activations (use --device cpu)");
    if (rc == 0) {
        o->ops->copy(o->ops, host, t->data, tensor_bytes(t));
        rc = o->ops->sync(o->ops);
    }
    if (rc == 0)
        rc = arrays_append(o->file, path, DT_F32, 3, t->n, host);
    free(host);
    free(path);
    return rc;
}

/* k as caches hold it: turned to its position. */
static int put_rotated(struct out *o, int layer, const struct kv_rows *rows)
{
    struct tensor t = rows->k;
    t.data = o->ops->alloc(o->ops, tensor_bytes(&t), MEM_WORKSPACE, PLACE_DEVICE);
    if (!t.data)
        return err_set(ERR_NOMEM, "no memory for --dump-qkv");
    struct rope_args a = {
        .src = rows->k, .dst = t, .rope = shape_kind(o->shape, layer)->rope, .pos = rows->pos, .fixed = -1};
    o->ops->rope(o->ops, &a, 1);
    int rc = put_tensor(o, layer, "k_rope", &t);
    o->ops->free(o->ops, t.data);
    return rc;
}

static void tap(void *ctx, int layer, const struct kv_rows *rows, int n)
{
    struct out *o = ctx;
    for (int i = 0; i < n && o->rc == 0; i++) {
        o->rc = put_tensor(o, layer, "q", &rows[i].q);
        if (o->rc == 0)
            o->rc = put_tensor(o, layer, "k", &rows[i].k);
        if (o->rc == 0)
            o->rc = put_tensor(o, layer, "v", &rows[i].v);
        if (o->rc == 0)
            o->rc = put_rotated(o, layer, &rows[i]);
    }
}

static int put_layer(struct out *o, const struct kv_cache *c)
{
    struct kv_dump dump[KV_DUMP_MAX];
    int n = 0, rc = kv_dump(c, dump, &n);
    for (int i = 0; i < n; i++) {
        char *path = mem_printf("/kv/layer_%02d/%s", c->layer, dump[i].name);
        if (rc == 0 && dump[i].n[0] > 0)
            rc = arrays_put(o->file, path, dump[i].dtype, 3, dump[i].n, dump[i].data);
        free(path);
        free(dump[i].data);
    }
    return rc;
}

static int put_kv(void *ctx, const struct seq *s)
{
    struct out *o = ctx;
    TRY(o->rc);
    for (int i = 0; i < s->shape.n_layer; i++)
        TRY(put_layer(o, &s->layer[i]));
    return 0;
}

static int describe(struct out *o, const struct logits_args *a, const struct probe_logits *p,
                    const struct model_config *cfg)
{
    TRY(arrays_attr_text(o->file, "/", "model", a->model));
    TRY(arrays_attr_text(o->file, "/", "method", p->spec->text));
    TRY(arrays_attr(o->file, "/", "n_prompt", (double)p->n_ids));
    TRY(arrays_attr(o->file, "/logits", "first_position", a->all ? 0 : (double)(p->n_ids - 1)));
    if (!a->dump)
        return 0;
    TRY(arrays_attr(o->file, "/qkv", "n_prompt", (double)p->n_ids));
    TRY(arrays_attr(o->file, "/qkv", "rope_theta", cfg->rope[0].theta * a->theta));
    TRY(arrays_attr(o->file, "/qkv", "head_dim", cfg->head_dim));
    TRY(arrays_attr(o->file, "/qkv", "n_head", cfg->n_head));
    return arrays_attr(o->file, "/qkv", "n_kv_head", cfg->n_kv_head);
}

static int compute(struct runner *r, const struct logits_args *a, const struct input *in,
                   const struct kv_spec *spec, enum dtype cache)
{
    const struct model_config *cfg = model_config(runner_model(r));
    struct probe_logits p = {.spec = spec,
                             .cache_dtype = cache,
                             .over = {.rope_theta_factor = a->theta},
                             .max_new = a->max_new,
                             .all_positions = a->all,
                             .rows = put_rows};
    struct out o = {.ops = runner_ops(r)};
    int32_t *prompt = NULL, *force = NULL, *all = NULL;
    int64_t n_force = 0;
    struct seq_shape shape;
    int rc;
    TRY(model_seq_shape(runner_model(r), cache, &p.over, &shape));
    o.shape = &shape;
    TRY_GOTO(prompt_ids(in, runner_tok(r), cfg->n_vocab, &prompt, &p.n_ids), done);
    if (a->force)
        TRY_GOTO(read_force(a->force, cfg->n_vocab, &force, &n_force), done);
    all = mem_alloc((size_t)(p.n_ids + p.max_new), sizeof *all);
    memcpy(all, prompt, (size_t)p.n_ids * sizeof *all);
    p.ids = prompt, p.force = force, p.n_force = n_force, p.out_ids = all + p.n_ids, p.ctx = &o;
    if (a->dump)
        p.tap = tap, p.finished = put_kv;
    TRY_GOTO(arrays_open(&o.file, a->out), done);
    TRY_GOTO(probe_logits(r, &p), done);
    const int64_t n_all = p.n_ids + p.max_new;
    TRY_GOTO(arrays_put(o.file, "/ids", DT_I32, 1, &n_all, all), done);
    TRY_GOTO(describe(&o, a, &p, cfg), done);
    rc = arrays_close(o.file);
    o.file = NULL;
done:
    arrays_drop(o.file);
    free(prompt);
    free(force);
    free(all);
    return rc;
}

/* Before anything is read or computed: what the output must not replace. */
static int check_output(const struct logits_args *a)
{
    const char *const source[] = {a->prompt, a->force, a->model};
    for (size_t i = 0; i < sizeof source / sizeof *source; i++)
        if (source[i] && file_is_same(a->out, source[i]))
            return err_set(ERR_INPUT, "-o %s is also an input: choose another name", a->out);
    return arrays_check(a->out);
}

/* How the model's files were read, where that is not plain. */
static int tell(const struct config_model *cm)
{
    struct model_file *f;
    TRY(model_file_open(&f, cm->path));
    plan_tell_notes(cm->id, f);
    model_file_close(f);
    return 0;
}

int cmd_logits(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"method", 'm', "SPEC", 0, "compressor, e.g. kivi:bits=2 (default full)", 0},
        {"prompt", 'p', "FILE", 0, "text (no template is added), or a JSON list of token ids", 0},
        {"max-new", KEY_MAX_NEW, "N", 0, "tokens to generate after the prompt, at least 1 (default 1)", 0},
        {"force", KEY_FORCE, "IDS.json", 0, "take these tokens instead of the model's own choices", 0},
        {"all-positions", KEY_ALL, 0, 0, "logits of the prompt's positions too", 0},
        {"dtype", KEY_DTYPE, "f32|bf16|f16", 0, "weights and activations (default f32)", 0},
        {"cache-dtype", KEY_CACHE_DTYPE, "f32|bf16|f16", 0, "cached keys and values (default: the dtype)", 0},
        {"rope-theta-factor", KEY_THETA, "X", 0, "multiply the model's rope_theta", 0},
        {"dump-qkv", KEY_DUMP, 0, 0, "also q, k, v of every layer before RoPE, and the compressor's state",
         0},
        {"device", KEY_DEVICE, "auto|cpu|ref|cuda", 0, "where to compute (default auto)", 0},
        {"threads", KEY_THREADS, "N", 0, "threads (default: all CPU cores)", 0},
        {0, 'o', "OUT.h5", 0, "file to write", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "MODEL",
        .doc = "Writes /ids and /logits (f32) of a prompt and its continuation, for checking against other "
               "engines. Greedy unless forced; end tokens do not end it."};
    struct logits_args a = {.method = "full", .dtype = "f32", .device = "auto", .max_new = 1, .theta = 1};
    app_parse(app, &argp, argc, argv, &a);
    struct config_model cm = {0};
    struct kv_spec spec = {0};
    struct input in = {0};
    struct runner *r = NULL;
    enum dtype dtype, cache;
    TRY(check_output(&a));
    TRY(dtype_parse(a.dtype, &dtype));
    TRY(dtype_parse(a.cache_dtype ? a.cache_dtype : a.dtype, &cache));
    TRY(app_model(app, a.model, &cm));
    int rc;
    const struct run_options o = {.device = a.device, .isa = "auto", .threads = (int)a.threads};
    struct run_model m = {.id = cm.id,
                          .path = cm.path,
                          .tokenizer = cm.tokenizer,
                          .template = cm.template,
                          .max_len = cm.max_len,
                          .dtype = dtype,
                          .cache_dtype = cache};
    TRY_GOTO(kv_spec_parse(&spec, a.method), done);
    TRY_GOTO(app_no_prompt_method(&spec), done);
    TRY_GOTO(input_open(&in, a.prompt), done);
    m.ids_only = in.list != NULL;
    TRY_GOTO(tell(&cm), done);
    TRY_GOTO(runner_open(&r, &o), done);
    TRY_GOTO(runner_load(r, &m), done);
    TRY_GOTO(defaults_apply(&spec, &cm, model_config(runner_model(r))->architecture), done);
    rc = compute(r, &a, &in, &spec, cache);
done:
    runner_close(r);
    input_close(&in);
    kv_spec_free(&spec);
    config_model_close(&cm);
    return rc;
}
