/* Parameters of a method that are `auto`: what they are on a model. */
#ifndef KVS_SWEEP_DEFAULTS_H
#define KVS_SWEEP_DEFAULTS_H

#include "sweep/config.h"

/* Gives every parameter of *s whose value is `auto` the value that the model's file (`defaults:`) names, or
 * else the one that goes with its model_type, or else the first that the parameter may have. The label stays
 * as it was asked for. */
int defaults_apply(struct kv_spec *s, const struct config_model *m, const char *architecture);
/* Whether *s has such a parameter for which a model_type other than `architecture` has a value of its own and
 * the files of the model, which cannot say their model_type (GGUF), name that one. *d is for a message. */
struct defaults_doubt {
    const char *model_type, *key, *value;
};
bool defaults_doubt(const struct kv_spec *s, const struct config_model *m, const struct model_file *f,
                    struct defaults_doubt *d);
/* `defaults:` of a model's file: {METHOD: {KEY: VALUE}}, for parameters that can be auto. */
int defaults_read(struct config_model *m, const struct node *n);

#endif
