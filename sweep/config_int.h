/* Shared by the files of the configuration reader. */
#ifndef KVS_SWEEP_CONFIG_INT_H
#define KVS_SWEEP_CONFIG_INT_H

#include "sweep/config.h"

/* "FILE:LINE:COL" of a node, or the option it came from; owned. */
char *config_where(const struct node *n);
/* auto (or absent), f32, bf16 or f16: CONFIG_AUTO or enum dtype. */
int config_dtype(const struct node *map, const char *key, int *out);
/* The `shape` of a model file (config_shape.c); NULL: *c stays as it is. */
int config_shape(struct model_config *c, const struct node *n);
/* Appends "key=value" of a family's parameter, checked against the first family that has it; and all of a
 * map.
 */
int config_family_param(const char *key, const struct node *value, struct str *out);
int config_family_params(const struct node *map, struct str *out);
/* Reads a model map; with an id and no path, over what configs/models says of that id. On error the caller
 * closes *m. */
int config_model_map(struct config_model *m, const struct node *n, const char *near,
                     const struct config_source *s);
/* The lists of a configuration: each appends what is new to *c, and the indices of its entries to `b`. What
 * the list names twice is an error. With `only` (NULL: everything counts) just the models or methods count
 * that it names. */
int config_models(struct config *c, const struct node *list, const struct node *only, struct config_block *b,
                  const struct config_source *s);
int config_methods(struct config *c, const struct node *list, const struct node *only,
                   struct config_block *b);
int config_tasks(struct config *c, const struct node *list);
/* The blocks of the grid: `grids`, else one of `models` and `methods`. After the tasks. */
int config_grids(struct config *c, const struct node *root, const struct config_source *s);
void config_block_free(struct config_block *b);
/* After those of models, methods and tasks. A rule that can concern nothing is an error, or a warning where
 * its pattern names something that the program knows, or --set has changed the list. */
int config_rules(struct config *c, const struct node *list, const struct config_source *s);
/* All combinations of the lists in a map, without its name: calls `take` with "key=value,key=value". */
int config_expand(const struct node *map, int (*take)(void *ctx, const char *params), void *ctx);

#endif
