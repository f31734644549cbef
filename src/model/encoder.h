/* Token classifiers over a bidirectional encoder: XLM-RoBERTa (arXiv 1911.02116; transformers
 * models/xlm_roberta, XLMRobertaForTokenClassification), in float32 as the checkpoint's users run it. */
#ifndef KVS_MODEL_ENCODER_H
#define KVS_MODEL_ENCODER_H

#include "model/model.h"

/* Header of a Hugging Face folder with config.json (model_type xlm-roberta, a token classifier of two labels)
 * and safetensors; no weights are read. ERR_INPUT for every other kind of model. f->cfg: max_len counts the
 * tokens a text may have (positions less the two that are kept for padding). */
int encoder_file_open(struct model_file **f, const char *dir);

struct encoder;
/* Weights in f32 on `ops`; borrows f until it returns. */
int encoder_open(struct encoder **e, struct ops *ops, struct model_file *f, const struct model_options *opt);
void encoder_close(struct encoder *e); /* accepts NULL */
const struct model_config *encoder_config(const struct encoder *e);
size_t encoder_weight_bytes(const struct encoder *e);

/* One text: n_ids tokens, special ones included. */
struct encoder_text {
    const int32_t *ids;
    int64_t n_ids;
};
/* logits [sum of n_ids, 2] f32 on the host, in the order of the texts. Texts are computed together, without
 * padding: rows of all lie side by side in the products, attention stays within a text. The workspace is
 * given back before it returns. ERR_TOO_LONG, ERR_INPUT (an id outside the vocabulary), ERR_NOMEM. */
int encoder_run(struct encoder *e, const struct encoder_text *text, int n, float *logits);

#endif
