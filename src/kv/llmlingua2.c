/* LLMLingua-2 as a setting: the prompt is rewritten before it gets here (prompt/llmlingua2.c), the cache of
 * what is left is the plain one. */
#include "kv/llmlingua2.h"

#include "base/err.h"
#include "kv/method.h"

#include <stddef.h>

static const struct param params[] = {
    {"rate", PARAM_REAL, offsetof(struct llmlingua2_params, rate), 2, 1, 100, NULL, NULL,
     "of the compressed text one token in this many is kept"},
    {"encoder", PARAM_TEXT, offsetof(struct llmlingua2_params, encoder), 0, 0, 0, NULL,
     "llmlingua-2-xlm-roberta-large-meetingbank",
     "folder of an XLM-RoBERTa token classifier, or an id of configs/models"},
    {"ranks", PARAM_TEXT, offsetof(struct llmlingua2_params, ranks), 0, 0, 0, NULL, "cl100k",
     "cl100k_base.tiktoken, or an id of configs/models: the token counts behind the threshold; without the "
     "file the "
     "encoder's own counts are taken, which keeps other words"},
    {"force", PARAM_TEXT, offsetof(struct llmlingua2_params, force), 0, 0, 0, NULL, "newline . ! ? comma",
     "tokens kept wherever they stand, separated by blanks; newline and comma stand for these characters"},
    {"digits", PARAM_CHOICE, offsetof(struct llmlingua2_params, digits), 0, 0, 1, "free|keep", NULL,
     "keep: pieces with a digit are kept wherever they stand"},
    {"repeats", PARAM_CHOICE, offsetof(struct llmlingua2_params, drop), 1, 0, 1, "keep|drop", NULL,
     "drop: a forced token goes when nothing is kept between it and the same one before"},
    {0},
};

static int from_ratio(void *p, double ratio)
{
    if (ratio > 100)
        return err_set(ERR_INPUT, "llmlingua2: ratio %g is not possible; use 1 to 100", ratio);
    ((struct llmlingua2_params *)p)->rate = ratio;
    return 0;
}

static double nominal_ratio(const void *p)
{
    return ((const struct llmlingua2_params *)p)->rate;
}

const struct kv_method kv_method_llmlingua2 = {
    .name = "llmlingua2",
    .source = "arXiv 2403.12968; PyPI llmlingua 0.2.2 as arXiv 2407.01527 calls it",
    .summary =
        "words that a small encoder finds dispensable are left out of the prompt; the cache is uncompressed",
    .params = params,
    .params_bytes = sizeof(struct llmlingua2_params),
    .from_ratio = from_ratio,
    .nominal_ratio = nominal_ratio,
};
