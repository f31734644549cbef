/* The small files beside tokenizer.json: tokenizer_config.json, special_tokens_map.json,
 * generation_config.json. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_int.h"
#include "tok/tok_json.h"

int tok_config_load(const char *dir, const char *name, json_t **j)
{
    char *path = file_join(dir, name);
    *j = NULL;
    int rc = 0;
    size_t big = strcmp(name, "generation_config.json") != 0 ? JSON_DECODE_INT_AS_REAL : 0;
    if (file_exists(path))
        rc = tok_json_file(path, big, j);
    if (*j && !json_is_object(*j)) {
        json_decref(*j);
        *j = NULL;
        rc = err_set(ERR_INPUT, "%s: an object is expected", path);
    }
    free(path);
    return rc;
}

/* "bos_token": "<s>" or {"content": "<s>", …} */
static void read_token(const struct tok *t, const json_t *j, const char *key, int32_t *id)
{
    const json_t *v = json_object_get(j, key);
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    if (*id < 0 && text)
        *id = tok_id(t, text);
}

const char *const tok_role_key[TOK_N_ROLE] = {"bos_token",  "eos_token", "unk_token", "pad_token",
                                              "mask_token", "cls_token", "sep_token"};

/* The Llama and Gemma classes of the field's library build BOS and EOS from these flags, whatever
 * tokenizer.json says. */
static void read_add_flags(struct tok *t, const json_t *j)
{
    const char *class = json_string_value(json_object_get(j, "tokenizer_class"));
    const json_t *bos = json_object_get(j, "add_bos_token"), *eos = json_object_get(j, "add_eos_token");
    if (!class || (strncmp(class, "Llama", 5) != 0 && strncmp(class, "Gemma", 5) != 0))
        return;
    if (json_is_boolean(bos)) {
        t->before.n = 0;
        if (json_is_true(bos) && t->bos >= 0)
            *MEM_PUSH(t->before.v, t->before.n, t->before.cap) = t->bos;
    }
    if (json_is_boolean(eos)) {
        t->after.n = 0;
        if (json_is_true(eos) && t->eos >= 0)
            *MEM_PUSH(t->after.v, t->after.n, t->after.cap) = t->eos;
    }
}

/* Its end ids are read with the model (model/stop_ids.h). */
static int read_generation(struct tok *t, const char *dir)
{
    json_t *j;
    TRY(tok_config_load(dir, "generation_config.json", &j));
    const json_t *bos = json_object_get(j, "bos_token_id");
    if (t->bos < 0 && json_is_integer(bos) && json_integer_value(bos) >= 0 &&
        json_integer_value(bos) < t->n_vocab)
        t->bos = (int32_t)json_integer_value(bos);
    json_decref(j);
    return 0;
}

int tok_read_config(struct tok *t, const char *dir)
{
    json_t *config, *map;
    TRY(tok_config_load(dir, "tokenizer_config.json", &config));
    int rc = tok_config_load(dir, "special_tokens_map.json", &map);
    if (rc >= 0) {
        const json_t *clean = json_object_get(config, "clean_up_tokenization_spaces");
        for (int i = 0; i < TOK_N_ROLE; i++) {
            read_token(t, config, tok_role_key[i], &t->role[i]);
            read_token(t, map, tok_role_key[i], &t->role[i]);
        }
        if (t->bos < 0)
            t->bos = t->role[TOK_BOS];
        if (t->eos < 0)
            t->eos = t->role[TOK_EOS];
        /* where a configuration leaves it open, the reference's version of the field's library cleans up */
        t->clean_up = config && !json_is_false(clean);
        read_add_flags(t, config);
        rc = read_generation(t, dir);
    }
    json_decref(config);
    json_decref(map);
    return rc;
}

int tok_config_legacy(const char *dir, bool *legacy)
{
    json_t *config;
    TRY(tok_config_load(dir, "tokenizer_config.json", &config));
    const json_t *v = json_object_get(config, "legacy");
    if (json_is_boolean(v))
        *legacy = json_is_true(v);
    json_decref(config);
    return 0;
}
