/* Rotary settings of a config.json, whichever of its keys they stand under. */
#ifndef KVS_MODEL_ROPE_CONFIG_H
#define KVS_MODEL_ROPE_CONFIG_H

#include "base/str.h"
#include "model/model.h"

struct json_t;
/* As transformers 5.24 resolves them (modeling_rope_utils.py, convert_rope_params_to_dict and
 * standardize_rope_params): a `rope_scaling` that is not empty replaces `rope_parameters` altogether; inside
 * the object that counts, its own rope_theta and partial_rotary_factor go before those of the top level, and
 * rope_type before its old name type; only original_max_position_embeddings counts at the top level
 * first. Every key that loses to another value is told by a line in `notes`. A
 * kind of scaling that is not implemented is refused wherever it stands, as is what transformers refuses.
 * `layer_type`: "full_attention" or "sliding_attention" where each has a setting of its own (Gemma-3), NULL:
 * all layers have one. `max_len`: max_position_embeddings. ERR_INPUT names file and key. */
int rope_config_read(struct rope_setting *out, const struct json_t *root, const char *path, int64_t max_len,
                     const char *layer_type, struct str *notes);

#endif
