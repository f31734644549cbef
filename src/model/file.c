/* Opening, looking up and reading model files of both formats. */
#include "base/err.h"
#include "base/json_line.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/encoder.h"
#include "model/file_int.h"
#include "model/hash.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

int file_json(const char *path, json_t **root)
{
    char *text;
    size_t n;
    json_error_t e;
    *root = NULL;
    TRY(file_read(path, &text, &n));
    int rc = file_stand_in(path, text, n);
    if (rc < 0) {
        free(text);
        return rc;
    }
    json_t *j = json_config(text, n, &e);
    free(text);
    if (!j)
        return err_set(ERR_INPUT, "%s line %d: not JSON: %s", path, e.line, e.text);
    if (!json_is_object(j)) {
        json_decref(j);
        return err_set(ERR_INPUT, "%s: is no JSON object", path);
    }
    *root = j;
    return 0;
}

void file_tensor_add(struct model_file *f, const struct file_tensor *t)
{
    *MEM_PUSH(f->t, f->n, f->cap) = *t;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct file_tensor *)a)->name, ((const struct file_tensor *)b)->name);
}

int file_tensor_sort(struct model_file *f)
{
    if (f->n)
        qsort(f->t, (size_t)f->n, sizeof *f->t, by_name);
    for (int i = 1; i < f->n; i++)
        if (by_name(&f->t[i - 1], &f->t[i]) == 0)
            return err_set(ERR_INPUT, "%s: tensor '%.200s' occurs twice", f->path, f->t[i].name);
    return 0;
}

const struct file_tensor *file_tensor_find(const struct model_file *f, const char *name)
{
    struct file_tensor key = {.name = (char *)(uintptr_t)name};
    return f->n ? bsearch(&key, f->t, (size_t)f->n, sizeof *f->t, by_name) : NULL;
}

void file_tensor_release(const struct model_file *f, const char *name)
{
    const struct file_tensor *t = file_tensor_find(f, name);
    if (t)
        file_release(&f->map[t->map], (size_t)((const unsigned char *)t->t.data - f->map[t->map].data),
                     t->t.bytes);
}

/* Equal samples do not make equal files; shared memory must not mix them up. */
void file_identify(struct model_file *f, const char *path)
{
    struct stat st;
    struct str s = {0};
    if (stat(path, &st) == 0)
        str_printf(&s, "%016" PRIx64 " %ju %ju %jd %jd.%ld", f->identity, (uintmax_t)st.st_dev,
                   (uintmax_t)st.st_ino, (intmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec,
                   st.st_mtim.tv_nsec);
    f->identity = XXH3_64bits(str_c(&s), s.n);
    str_free(&s);
}

const char *file_shown(char out[80], const char *s)
{
    size_t n = 0;
    for (; s[n] && n < 76; n++)
        out[n] = s[n] >= 0x20 && s[n] < 0x7f ? s[n] : '?';
    strcpy(out + n, s[n] ? "..." : "");
    return out;
}

/* The weights know the checkpoint's dtype better than config.json does. */
static void correct_dtype(struct model_file *f)
{
    const struct family *fam = family_find(f->cfg.architecture);
    const struct file_tensor *t = fam ? file_tensor_find(f, fam->typical) : NULL;
    if (!f->gguf && t && t->t.type >= 0)
        f->cfg.dtype = t->t.type == GGML_F32 ? DT_F32 : t->t.type == GGML_F16 ? DT_F16 : DT_BF16;
}

/* `tie_word_embeddings` beside an output head in the file: as transformers (modeling_utils.py, tie_weights) a
 * head with values of its own is used. */
static void check_head(struct model_file *f)
{
    const struct family *fam = family_find(f->cfg.architecture);
    const struct file_tensor *e = file_tensor_find(f, fam->embed);
    const struct file_tensor *h = file_tensor_find(f, "lm_head.weight");
    if (f->gguf || !f->cfg.tied || !e || !h ||
        e->t.data == h->t.data) /* one storage of torch.save: tied there too */
        return;
    f->cfg.tied =
        e->t.type == h->t.type && e->t.bytes == h->t.bytes && memcmp(e->t.data, h->t.data, e->t.bytes) == 0;
    str_printf(
        &f->notes,
        "%s: 'tie_word_embeddings' is true, but the weights hold an output head (lm_head.weight); %s\n",
        f->path,
        f->cfg.tied ? "it equals the embeddings" : "its values differ from the embeddings: it is used");
    file_tensor_release(f, e->name);
    file_tensor_release(f, h->name);
}

/* The name that a pair makes of another one, NULL if it is not the pair's. Owned. */
static char *renamed(const struct name_pair *p, const char *name)
{
    const size_t n = strlen(p->own);
    const bool begins = n && p->own[n - 1] == '.' && !strncmp(name, p->own, n);
    return begins ? mem_printf("%s%s", p->hf, name + n) : !strcmp(name, p->own) ? mem_strdup(p->hf) : NULL;
}

/* Other layouts' names become the family's; the first pair that fits counts. */
static void rename_tensors(struct model_file *f)
{
    const struct name_pair *pairs = family_find(f->cfg.architecture)->aliases;
    for (int i = 0; pairs && i < f->n; i++) {
        char *name = NULL;
        for (const struct name_pair *p = pairs; p->own && !name; p++)
            name = renamed(p, f->t[i].name);
        if (name) {
            free(f->t[i].name);
            f->t[i].name = name;
        }
    }
}

/* A file of tensors alone: the family whose they are knows its sizes from their shapes. */
static int open_tensors(struct model_file *f)
{
    const struct family *fam;
    TRY(weights_open_file(f));
    TRY(file_tensor_sort(f));
    for (int i = 0; (fam = family_at(i)); i++) {
        if (!fam->read_tensors)
            continue;
        strncpy(f->cfg.family, fam->name, sizeof f->cfg.family - 1);
        strncpy(f->cfg.architecture, fam->hf_types, sizeof f->cfg.architecture - 1);
        int rc = fam->read_tensors(&f->cfg, f);
        if (rc != 0)
            return rc < 0 ? rc : 0;
    }
    return err_set(
        ERR_INPUT,
        "%s: its tensors are those of no model that is supported without a config.json (RWKV-5.2 is)",
        f->path);
}

static int open_folder(struct model_file *f)
{
    TRY(config_read(&f->cfg, f->path, &f->notes));
    TRY(weights_open_folder(f));
    rename_tensors(f);
    return stop_ids_dir(&f->stop, f->path);
}

static int open_gguf(struct model_file *f)
{
    TRY(gguf_model_open(f));
    return stop_ids_gguf(&f->stop, f->gguf);
}

static int open_model(struct model_file *f)
{
    if (!file_exists(f->path))
        return err_set(ERR_INPUT, "%s: no such model file or folder (`kvsweep fetch` downloads known models)",
                       f->path);
    TRY(file_is_dir(f->path)              ? open_folder(f)
        : file_ends_with(f->path, ".pth") ? open_tensors(f)
                                          : open_gguf(f));
    TRY(file_tensor_sort(f));
    correct_dtype(f);
    check_head(f);
    return 0;
}

static int open_encoder(struct model_file *f)
{
    if (!file_is_dir(f->path))
        return err_set(ERR_INPUT,
                       "%s: no such folder (a prompt encoder is one with config.json and safetensors)",
                       f->path);
    TRY(encoder_config_read(&f->cfg, f->path));
    TRY(weights_open_folder(f));
    return file_tensor_sort(f);
}

/* The file that a path stands for: a folder without config.json that holds one .pth stands for that. Owned.
 */
static int model_path(const char *path, char **out)
{
    char *config = file_join(path, "config.json"), *one = NULL;
    int n = 0;
    if (file_is_dir(path) && !file_exists(config))
        n = file_only(path, ".pth", &one);
    free(config);
    *out = one ? one : mem_strdup(path);
    return n < 2 ? 0 : err_set(ERR_INPUT, "%s holds %d .pth files: name one of them", path, n);
}

static int open_with(struct model_file **out, const char *path, int (*open)(struct model_file *))
{
    struct model_file *f = mem_alloc(1, sizeof *f);
    int rc = model_path(path, &f->path);
    if (rc == 0)
        rc = open(f);
    if (rc < 0) {
        model_file_close(f);
        f = NULL;
    } else {
        hash_file(f);
    }
    *out = f;
    return rc;
}

int model_file_open(struct model_file **f, const char *path)
{
    return open_with(f, path, open_model);
}

int encoder_file_open(struct model_file **f, const char *dir)
{
    return open_with(f, dir, open_encoder);
}

void model_file_close(struct model_file *f)
{
    if (!f)
        return;
    for (int i = 0; i < f->n; i++)
        free(f->t[i].name);
    for (int i = 0; i < f->n_map && !f->gguf; i++)
        file_unmap(&f->map[i]);
    gguf_close(f->gguf);
    free(f->t);
    free(f->map);
    stop_ids_free(&f->stop);
    str_free(&f->notes);
    free(f->missing);
    free(f->path);
    free(f);
}

const struct model_config *model_file_config(const struct model_file *f)
{
    return &f->cfg;
}

void model_file_hash(const struct model_file *f, uint64_t hash[2])
{
    memcpy(hash, f->hash, sizeof f->hash);
}

int model_file_stop_ids(const struct model_file *f, const int32_t **ids)
{
    *ids = f->stop.v;
    return f->stop.n;
}

const char *model_file_notes(const struct model_file *f)
{
    return str_c(&f->notes);
}

uint64_t model_file_bytes(const struct model_file *f)
{
    uint64_t sum = 0;
    for (int i = 0; i < f->n; i++)
        sum += f->t[i].t.bytes;
    return sum;
}

const char *model_file_weight_type(const struct model_file *f)
{
    enum { N_TYPE = 64 };
    uint64_t bytes[N_TYPE] = {0};
    int best = 0;
    for (int i = 0; i < f->n; i++)
        if (f->t[i].t.type >= 0 && f->t[i].t.type < N_TYPE)
            bytes[f->t[i].t.type] += f->t[i].t.bytes;
    for (int i = 1; i < N_TYPE; i++)
        best = bytes[i] > bytes[best] ? i : best;
    return bytes[best] ? ggml_type_name(best) : "";
}

bool model_file_has(const struct model_file *f, const char *name)
{
    return file_tensor_find(f, name) != NULL;
}

const struct gguf *model_file_gguf(const struct model_file *f)
{
    return f->gguf;
}

static void shape_text(struct str *s, const int64_t *n, int n_dim)
{
    str_addc(s, '[');
    for (int i = 0; i < n_dim; i++)
        str_printf(s, "%s%" PRId64, i ? ", " : "", n[i]);
    str_addc(s, ']');
}

static int wrong_shape(const struct model_file *f, const char *name, const struct model_tensor *t,
                       const int64_t *shape, int n_dim)
{
    struct str is = {0}, want = {0};
    shape_text(&is, t->n, t->n_dim);
    shape_text(&want, shape, n_dim);
    int rc = err_set(ERR_INPUT, "%s: tensor '%s' has shape %s, the configuration needs %s", f->path, name,
                     str_c(&is), str_c(&want));
    str_free(&is);
    str_free(&want);
    return rc;
}

int model_file_find(const struct model_file *f, const char *name, const int64_t *shape, int n_dim,
                    struct model_tensor *t)
{
    const struct file_tensor *ft = file_tensor_find(f, name);
    if (!ft && f->missing)
        return err_set(ERR_INPUT, "%s is missing: the weights of this model are not complete", f->missing);
    if (!ft)
        return err_set(ERR_INPUT, "%s: tensor '%s' is missing", f->path, name);
    *t = ft->t;
    if (t->n_dim != n_dim || memcmp(t->n, shape, (size_t)n_dim * sizeof *shape) != 0)
        return wrong_shape(f, name, t, shape, n_dim);
    if (t->type < 0)
        return err_set(ERR_INPUT,
                       "%s: tensor '%s' has a dtype that cannot be read as weights (F32, F16, BF16 can)",
                       f->path, name);
    return 0;
}

int model_tensor_read(const struct model_file *f, const struct model_tensor *t, const char *name, int64_t row,
                      int64_t n, float *out)
{
    int64_t width = t->n_dim > 1 ? t->n[1] * t->n[2] * t->n[3] : 1, rows = t->n[0];
    const struct file_tensor *ft = file_tensor_find(f, name);
    int64_t heads = ft ? ft->heads : 0;
    if (t->n_dim < 1 || row < 0 || n < 0 || n > rows || row > rows - n)
        return err_set(ERR_INTERNAL, "%s: tensor '%s': rows %" PRId64 " + %" PRId64 " of %" PRId64, f->path,
                       name, row, n, rows);
    if (heads == 0) {
        ggml_expand(t->type, t->data, row * width, n * width, out);
        return 0;
    }
    /* rows of a head are stored as (i, i + half) pairs: row 2 i + p of the file is row p * half + i */
    int64_t dim = rows / heads, half = dim / 2;
    if (rows % heads || dim % 2)
        return err_set(ERR_INPUT,
                       "%s: tensor '%s' has %" PRId64 " rows, which %" PRId64
                       " heads of even size cannot share",
                       f->path, name, rows, heads);
    for (int64_t i = 0; i < n; i++) {
        int64_t h = (row + i) / dim, j = (row + i) % dim;
        int64_t from = h * dim + 2 * (j % half) + j / half;
        ggml_expand(t->type, t->data, from * width, width, out + i * width);
    }
    return 0;
}
