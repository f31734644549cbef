#include "sweep/config_int.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* `memory: auto`. A constant, so that bundles depend on the configuration alone. */
#define MEMORY_AUTO (UINT64_C(4) << 30)

static const char *const top_keys[] = {"models",   "methods",     "grids",  "tasks",   "overrides", "mode",
                                       "dtype",    "cache_dtype", "memory", "threads", "logits",    "timing",
                                       "fidelity", "seed",        "output", "isa",     "device",    NULL};

char *config_where(const struct node *n)
{
    return n->line ? mem_printf("%s:%d:%d", n->file, n->line, n->col) : mem_strdup(n->file);
}

int config_dtype(const struct node *map, const char *key, int *out)
{
    static const char *const words[] = {"auto", "f32", "bf16", "f16", NULL};
    static const int value[] = {CONFIG_AUTO, DT_F32, DT_BF16, DT_F16};
    int i = 0;
    TRY(node_choice(map, key, words, &i));
    *out = value[i];
    return 0;
}

static int read_memory(const struct node *root, uint64_t *out)
{
    const char *text = "auto";
    *out = MEMORY_AUTO;
    TRY(node_text(root, "memory", &text));
    if (!strcmp(text, "auto"))
        return 0;
    if (!str_to_bytes(text, out) || *out < (UINT64_C(1) << 20))
        return node_error(node_get(root, "memory"),
                          "memory: '%s' is not allowed; use auto or at least 1MiB, e.g. 4GiB", text);
    return 0;
}

static int read_threads(const struct node *root, int *out)
{
    const char *text = "auto";
    int64_t n = 0;
    TRY(node_text(root, "threads", &text));
    if (strcmp(text, "auto") && (!str_to_int(text, &n) || n < 1 || n > 4096))
        return node_error(node_get(root, "threads"),
                          "threads: '%s' is not allowed; use auto or 1 to 4096 per rank", text);
    *out = (int)n;
    return 0;
}

static int read_logits(struct config *c, const struct node *root)
{
    static const char *const keys[] = {"first", "topk", NULL};
    static const char *const firsts[] = {"none", "f16", "full", "first", NULL}; /* first: the same as f16 */
    const struct node *n = node_get(root, "logits");
    int64_t topk = 64;
    c->logits_first = 1;
    if (n && n->kind == NODE_SCALAR && !strcmp(n->text, "none")) {
        c->logits_first = 0;
        topk = 0;
    } else if (n) {
        TRY(node_keys(n, keys, "logits"));
        TRY(node_choice(n, "first", firsts, &c->logits_first));
        if (c->logits_first == 3)
            c->logits_first = 1;
        TRY(node_int(n, "topk", 0, 4096, &topk));
    }
    c->topk = (int)topk;
    return 0;
}

/* `timing` and `fidelity`: {examples: N}, or none. */
static int read_sample(const struct node *root, const char *key, int *examples)
{
    static const char *const keys[] = {"examples", NULL};
    const struct node *n = node_get(root, key);
    int64_t count = 0;
    if (n && !(n->kind == NODE_SCALAR && !strcmp(n->text, "none"))) {
        TRY(node_keys(n, keys, key));
        TRY(node_int(n, "examples", 0, 1000000, &count));
    }
    *examples = (int)count;
    return 0;
}

static int dup_choice(const struct node *root, const char *key, const char *const *words, char **out)
{
    int i = 0;
    TRY(node_choice(root, key, words, &i));
    *out = mem_strdup(words[i]);
    return 0;
}

static int read_seed(struct config *c, const struct node *root)
{
    int64_t seed = -1;
    TRY(node_int(root, "seed", 0, INT64_C(9007199254740992), &seed));
    for (int i = 0; seed >= 0 && i < c->n_task; i++) {
        const struct param *p = c->task[i].type->params;
        while (p && p->name && strcmp(p->name, "seed"))
            p++;
        if (p && p->name && !c->task[i].seeded)
            *(int64_t *)((char *)c->task[i].params + p->offset) = seed;
    }
    return 0;
}

static int read_root(struct config *c, const struct node *root, const struct config_source *s)
{
    static const char *const modes[] = {"fair", "paper", NULL},
                             *const isas[] = {"auto", "avx512", "avx2", "portable", NULL},
                             *const devices[] = {"auto", "cpu", "ref", "cuda", NULL};
    TRY(node_keys(root, top_keys, "configuration"));
    TRY(config_tasks(c, node_get(root, "tasks")));
    TRY(config_grids(c, root, s));
    TRY(config_rules(c, node_get(root, "overrides"), s));
    int mode = MODE_FAIR;
    TRY(node_choice(root, "mode", modes, &mode));
    c->mode = (enum run_mode)mode;
    TRY(config_dtype(root, "dtype", &c->dtype));
    TRY(config_dtype(root, "cache_dtype", &c->cache_dtype));
    TRY(read_memory(root, &c->memory));
    TRY(read_threads(root, &c->threads));
    TRY(read_logits(c, root));
    TRY(read_sample(root, "timing", &c->timing));
    TRY(read_sample(root, "fidelity", &c->fidelity));
    TRY(read_seed(c, root));
    TRY(dup_choice(root, "isa", isas, &c->isa));
    TRY(dup_choice(root, "device", devices, &c->device));
    const char *output = "results.h5";
    TRY(node_text(root, "output", &output));
    c->output = mem_strdup(output);
    return 0;
}

/* `passkey.digits` means that parameter of every task with this name or id; `longbench` stands for all of its
 * datasets. Returns how many tasks took it, or an error. */
static int set_in_tasks(struct node *root, const char *path, const char *value, const struct vars *vars)
{
    struct node *tasks = node_get(root, "tasks");
    const char *dot = strchr(path, '.');
    int n_set = 0;
    for (int i = 0; dot && tasks && tasks->kind == NODE_LIST && i < tasks->n; i++) {
        struct node *t = tasks->item[i];
        if (t->kind == NODE_SCALAR) { /* a bare name becomes a map, so that it can take keys */
            struct node *map = node_new(NODE_MAP, t->file, t->line, t->col);
            node_put(map, "name", t);
            tasks->item[i] = t = map;
        }
        const struct node *name = node_get(t, "name"), *id = node_get(t, "id");
        size_t n = (size_t)(dot - path);
        bool hit = id && id->text && strlen(id->text) == n && !memcmp(id->text, path, n);
        hit = hit || (name && name->text && !strncmp(name->text, path, n) &&
                      (!name->text[n] || name->text[n] == '/'));
        if (!hit)
            continue;
        char *full = mem_printf("tasks.%d.%s", i, dot + 1);
        int rc = node_set(root, full, value, vars);
        free(full);
        TRY(rc);
        n_set++;
    }
    return n_set;
}

static int apply_set(struct node *root, const char *set, const struct vars *vars)
{
    const char *eq = strchr(set, '=');
    if (!eq || eq == set)
        return err_set(ERR_INPUT, "--set %s: write key=value, e.g. --set tasks.0.limit=5", set);
    char *path = mem_strndup(set, (size_t)(eq - set));
    size_t n = strcspn(path, ".");
    bool top = false;
    for (int i = 0; top_keys[i]; i++)
        top = top || (strlen(top_keys[i]) == n && !strncmp(top_keys[i], path, n));
    int rc = top ? node_set(root, path, eq + 1, vars) : set_in_tasks(root, path, eq + 1, vars);
    if (!top && rc == 0) { /* no such task either */
        struct str all = {0};
        for (int i = 0; top_keys[i]; i++)
            str_printf(&all, "%s%s", i ? ", " : "", top_keys[i]);
        char *first = mem_strndup(path, n);
        const char *near = str_nearest(first, top_keys);
        rc = err_set(
            ERR_INPUT,
            "--set %s: '%s' is neither a key of the configuration nor one of its tasks%s%s%s (keys: %s)", set,
            first, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "", str_c(&all));
        free(first);
        str_free(&all);
    }
    free(path);
    return rc < 0 ? rc : 0;
}

/* The file itself, or configs/sweeps/NAME.yaml for a bare NAME (a program of that name may lie here); owned.
 */
static char *find_config(const struct config_source *s)
{
    if (strchr(s->path, '/') || (file_exists(s->path) && strchr(s->path, '.')))
        return mem_strdup(s->path);
    char *tries[] = {mem_printf("configs/sweeps/%s.yaml", s->path),
                     s->config_dir ? mem_printf("%s/sweeps/%s.yaml", s->config_dir, s->path) : NULL};
    char *found = NULL;
    for (int i = 0; i < 2; i++) {
        if (!found && tries[i] && file_exists(tries[i]))
            found = tries[i];
        else
            free(tries[i]);
    }
    return found ? found : mem_strdup(s->path);
}

/* What the text alone does not say, so that `verify` can read it again. */
static void add_comment(struct config *c, const char *key, const char *value)
{
    const char *old = c->yaml ? c->yaml : "";
    size_t n = strlen(old);
    char *more = mem_printf("%s%s# %s %s\n", old, n && old[n - 1] != '\n' ? "\n" : "", key, value);
    free(c->yaml);
    c->yaml = more;
}

static int load(struct config *c, struct node **root, const struct config_source *s)
{
    if (s->text) {
        c->path = mem_strdup(s->path);
        c->yaml = mem_strdup(s->text);
    } else {
        size_t bytes = 0;
        c->path = find_config(s);
        if (!file_exists(c->path))
            return err_set(ERR_INPUT, "%s: no such configuration file", c->path);
        if (file_is_dir(c->path))
            return err_set(ERR_INPUT, "%s: is a folder, not a configuration file", c->path);
        TRY(file_read(c->path, &c->yaml, &bytes));
    }
    TRY(node_load(root, c->path, s->text, s->vars));
    if ((*root)->kind != NODE_MAP)
        return node_error(*root, "a configuration is a map of keys (models, methods, tasks, …)");
    char *full = realpath(c->path, NULL);
    if (!s->text)
        add_comment(c, "file", full ? full : c->path);
    free(full);
    for (int i = 0; i < s->n_set; i++) {
        TRY(apply_set(*root, s->set[i], s->vars));
        add_comment(c, "--set", s->set[i]);
    }
    return 0;
}

int config_open(struct config *c, const struct config_source *s)
{
    *c = (struct config){.source = {.config_dir = s->config_dir, .vars = s->vars}};
    struct node *root = NULL;
    int rc = load(c, &root, s);
    if (rc == 0)
        rc = read_root(c, root, s);
    node_free(root);
    if (rc < 0)
        config_close(c);
    return rc;
}

void config_close(struct config *c)
{
    for (int i = 0; i < c->n_model; i++)
        config_model_close(&c->model[i]);
    for (int i = 0; i < c->n_method; i++) {
        kv_spec_free(&c->method[i].spec);
        free(c->method[i].asked);
        free(c->method[i].where);
    }
    for (int i = 0; i < c->n_task; i++) {
        config_params_free(c->task[i].type, c->task[i].params);
        free(c->task[i].id);
        free(c->task[i].where);
    }
    for (int i = 0; i < c->n_override; i++) {
        free(c->override[i].model);
        free(c->override[i].task);
        free(c->override[i].method);
        free(c->override[i].params);
        free(c->override[i].family);
        free(c->override[i].where);
    }
    for (int i = 0; i < c->n_block; i++)
        config_block_free(&c->block[i]);
    free(c->block);
    free(c->model);
    free(c->method);
    free(c->task);
    free(c->override);
    free(c->path);
    free(c->yaml);
    free(c->output);
    free(c->isa);
    free(c->device);
    *c = (struct config){0};
}
