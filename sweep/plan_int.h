/* Shared by the files of the plan. */
#ifndef KVS_SWEEP_PLAN_INT_H
#define KVS_SWEEP_PLAN_INT_H

#include "sweep/plan.h"

/* Adds the units of every (model, task), bundled, and sorts the bundles. */
void plan_bundles(struct plan *p);
/* Adds a setting with its variants; one that cannot run on its model is marked. ERR_INPUT: a rule that does
 * not fit, a file of the method that is missing. */
int plan_setting_add(struct plan *p, int model, int method);
void plan_setting_free(struct plan_setting *s);
/* After the tasks are open: refuses settings whose budgets no example can meet. */
void plan_setting_budgets(struct plan *p);
/* Texts of the template and stop ids of a model, once its tokenizer is open (none without). */
int plan_model_identity(struct plan_model *m);
/* The template's texts without its name. */
const char *plan_template_texts(const struct plan_model *m);
/* Unit ids, in place. */
void plan_unit_id(const struct plan *p, struct plan_unit *u);
/* Canonical parameters of a task without the path and the number of its rows, "task=TYPE" in front where its
 * id is another name; owned. */
char *plan_task_params(const struct config_task *cfg);
/* Estimated seconds on one core. */
double plan_cost(const struct plan *p, const struct plan_bundle *b);

/* plan_tell.c: lines for people about a model's files, and about its tokenizer and template. */
void plan_tell_file(const struct config *c, const struct config_model *cfg, const struct model_file *f);
int plan_tell_tok(const struct config_model *cfg, const struct tok *tok);

#endif
