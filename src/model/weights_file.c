/* The weights of a Hugging Face folder: one file or shards with an index, in either format. */
#include "base/err.h"
#include "base/mem.h"
#include "model/file_int.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Adds the tensors of one mapped file. */
typedef int file_adder(struct model_file *f, const struct file_map *m, int map, const char *path);

static int add_file(struct model_file *f, const char *path, file_adder *add)
{
    struct file_map m;
    TRY(file_map(&m, path));
    *MEM_PUSH(f->map, f->n_map, f->cap_map) = m;
    file_identify(f, path);
    return add(f, &m, f->n_map - 1, path);
}

/* Adds the shard, or notes that it is missing. Names with a slash would leave the folder. */
static int add_shard(struct model_file *f, const char *index, const char *name, file_adder *add)
{
    char s[80];
    if (!*name || strchr(name, '/'))
        return err_set(ERR_INPUT, "%s: shard name '%s' must be a plain file name", index,
                       file_shown(s, name));
    char *path = file_join(f->path, name);
    int rc = 0;
    if (!file_exists(path) && !f->missing)
        f->missing = mem_strdup(path);
    else if (file_exists(path))
        rc = add_file(f, path, add);
    free(path);
    return rc;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int add_shards(struct model_file *f, const char *index, const json_t *root, file_adder *add)
{
    const json_t *map = json_object_get(root, "weight_map");
    size_t n = json_object_size(map), i = 0;
    const char *name;
    json_t *v;
    char s[80];
    if (!json_is_object(map) || n == 0)
        return err_set(ERR_INPUT, "%s: 'weight_map' is missing or empty", index);
    const char **shard = mem_alloc(n, sizeof *shard);
    int rc = 0;
    json_object_foreach((json_t *)(uintptr_t)map, name, v)
    {
        shard[i++] = json_string_value(v);
        if (!shard[i - 1] && rc == 0) {
            rc = err_set(ERR_INPUT, "%s: the shard of '%s' is no string", index, file_shown(s, name));
            shard[i - 1] = "";
        }
    }
    if (rc == 0)
        qsort(shard, n, sizeof *shard, by_text);
    for (i = 0; rc == 0 && i < n; i++)
        if (i == 0 || strcmp(shard[i], shard[i - 1]) != 0)
            rc = add_shard(f, index, shard[i], add);
    free(shard);
    TRY(rc);
    TRY(file_tensor_sort(f));
    json_object_foreach((json_t *)(uintptr_t)map, name, v)
    {
        if (!f->missing && !file_tensor_find(f, name))
            return err_set(ERR_INPUT, "%s: tensor '%s' is in none of the shards", index, file_shown(s, name));
    }
    return 0;
}

static int open_index(struct model_file *f, const char *index, file_adder *add)
{
    json_t *root;
    TRY(file_json(index, &root));
    int rc = add_shards(f, index, root, add);
    json_decref(root);
    return rc;
}

/* False when the folder has neither the file nor its index. */
static bool open_format(struct model_file *f, const char *name, file_adder *add, int *rc)
{
    char *one = file_join(f->path, name), *index = mem_printf("%s.index.json", one);
    bool found = true;
    if (file_exists(one))
        *rc = add_file(f, one, add);
    else if (file_exists(index))
        *rc = open_index(f, index, add);
    else
        found = false;
    free(one);
    free(index);
    return found;
}

int weights_open_file(struct model_file *f)
{
    return add_file(f, f->path, torch_file_add);
}

int weights_open_folder(struct model_file *f)
{
    int rc = 0;
    if (!open_format(f, "model.safetensors", safetensors_add, &rc) &&
        !open_format(f, "pytorch_model.bin", torch_file_add, &rc))
        f->missing = file_join(f->path, "model.safetensors");
    return rc;
}
