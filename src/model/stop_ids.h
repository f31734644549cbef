/* The token ids that end an answer, as the model's own files name them. */
#ifndef KVS_MODEL_STOP_IDS_H
#define KVS_MODEL_STOP_IDS_H

#include <stdint.h>

struct stop_ids {
    int32_t *v; /* [n] ascending, each once; owned */
    int n, cap;
};

/* A folder: `eos_token_id` of generation_config.json, a number or a list. Only where that file is absent the
 * same key of config.json, as transformers makes its generation configuration; what its configuration classes
 * assume for an absent key is not taken over. ERR_INPUT names file and key. */
int stop_ids_dir(struct stop_ids *s, const char *dir);
/* A GGUF file: its eos, eot and eom ids, and every token whose text is one of those that llama.cpp knows to
 * end a text. ERR_INPUT for a broken header. */
struct gguf;
int stop_ids_gguf(struct stop_ids *s, const struct gguf *g);
void stop_ids_free(struct stop_ids *s);

#endif
