/* The grid of a configuration: settings, tasks, units with their ids, bundles with their costs. Every rank
 * makes the same plan from the same files; only headers of models are read. */
#ifndef KVS_SWEEP_PLAN_H
#define KVS_SWEEP_PLAN_H

#include "hdf5io/sink.h"
#include "run/run.h"
#include "sweep/config.h"
#include "sweep/plan_prompt.h"

/* Most units of a bundle: all settings of one example go together up to 32, where a decode step costs little
 * more than for 16 and the prompt pass is shared. Several examples go together up to 16 only: wider bundles
 * of a short sweep would leave ranks without work. */
enum { PLAN_BATCH = 32, PLAN_GROUP = 16 };

struct plan_model {
    struct run_model run; /* text borrowed from the configuration */
    struct model_config config;
    struct seq_shape shape;
    struct shape_options options; /* of its family, as `params` of the model has them */
    char hash[33];                /* model_file_hash, hex; with that of a tokenizer that lies elsewhere */
    uint64_t file_bytes;
    bool assumed; /* its files are absent: config is the shape that the model file gives (plan_sketch) */
    const char *weight_type; /* model_file_weight_type; "" where the files are absent */
    char *template_text;     /* "NAME {its texts as JSON}", owned */
    char *stop_ids;          /* "2,32000", or "never"; owned; "" where the tokenizer is absent */
    struct tok
        *tok; /* NULL where the files are absent, and in a plan for looking at only, where there is none */
    struct task **task; /* [n_task]: a task that counts tokens has its own examples per model, others share */
};
/* A method as one task, or several alike, run it. */
struct plan_variant {
    struct kv_spec spec;        /* owned */
    struct plan_prompt *prompt; /* what the method does to prompts; NULL: nothing. Owned */
    struct model_overrides over;
    struct seq_shape shape; /* the model's, with these */
    struct plan_size {
        uint64_t bytes,
            device;   /* what a prompt of n tokens will take, all layers; 0: a budget that cannot hold it */
        double ratio; /* the uncompressed cache over that; NaN: the same */
    } at_8k, at_32k;
};
struct plan_setting {
    int model;
    struct plan_variant all;    /* as configured, with the rules for all tasks */
    const struct kv_spec *spec; /* of that */
    char *id, *overrides; /* "MODEL/METHOD"; "passkey:rope_theta_factor=32;longbench/…:cap=7500" or "" */
    char *refused;        /* why it cannot run on this model: it has no units; NULL: it can. Owned */
    struct plan_variant *variant; /* [n_variant] */
    int n_variant;
    int *of_task; /* [n_task]: its variant; -1: the grid does not have it on this task */
};
struct plan_task {
    const struct config_task *cfg;
    char *params; /* canonical text, without the path and the number of rows */
    int n_example;
    bool per_model;
    bool absent;   /* plan_sketch: its rows are not there; their published number is assumed, and there are no
                      units */
    bool stand_in; /* plan_sketch: its haystack is not there; a synthetic one stands in */
    bool guessed;  /* plan_sketch: it counts tokens, and of a model without tokenizer they are guessed */
};
struct plan_unit {
    uint64_t hi, lo;
    int32_t setting, task, example;
    int32_t n_prompt; /* estimated tokens */
    struct model_overrides over;
};
struct plan_bundle {
    uint64_t id; /* XXH3-64 of its unit ids */
    int32_t model, task;
    int64_t first; /* units [first, first + n) */
    int32_t n;
    double s_cost; /* estimated seconds on one core */
};

struct plan {
    const struct config *config;
    bool sketch;
    struct plan_model *model;
    struct plan_setting *setting;
    struct plan_task *task;
    struct plan_unit *unit;     /* in bundle order of making: model, task, examples */
    struct plan_bundle *bundle; /* longest first */
    int n_model, n_setting, n_task;
    int n_refused; /* of the settings */
    int64_t n_unit, n_bundle;
    uint64_t hash[2]; /* of all unit and bundle ids and of what is kept of the logits */
};

/* ERR_INPUT for a missing model (says `kvsweep fetch ID`), a broken task file, no setting that can run, or
 * any that cannot (config.strict). `config` is borrowed. */
int plan_open(struct plan *p, const struct config *config);
/* Whether a setting has units of a task. */
static inline bool plan_runs(const struct plan *p, int setting, int task)
{
    return !p->setting[setting].refused && p->setting[setting].of_task[task] >= 0;
}
/* The same for looking at only: models and data that are absent are replaced by what the model file and the
 * table of tasks say of them, and marked. */
int plan_sketch(struct plan *p, const struct config *config);
/* The variant of a setting on a task. */
const struct plan_variant *plan_variant(const struct plan *p, int setting, int task);
void plan_close(struct plan *p);

/* Opens the tasks without any model (`kvsweep prompts`): model may be NULL. */
int plan_task_open(struct task **t, const struct config_task *cfg, const struct tok *tok);
bool plan_task_counts_tokens(const struct config_task *cfg);
/* Resolves `auto` dtypes of a model: what its entry names; else f16 in mode paper, else f32 for weights in
 * f32 and bf16. `m`: of its weights. */
void plan_dtypes(const struct config *c, const struct config_model *cfg, const struct model_config *m,
                 enum dtype *dtype, enum dtype *cache);
/* Header of a model file; ERR_INPUT says how to get a missing one. `sketch`: its shape will do. */
int plan_model_open(struct plan_model *m, const struct config *c, const struct config_model *cfg,
                    bool sketch);
void plan_model_close(struct plan_model *m);
/* The notes of a model's files (model_file_notes) as warnings. */
void plan_tell_notes(const char *id, const struct model_file *f);

/* Example as the tables of the results file show it (of the first model). */
const struct example *plan_example(const struct plan *p, int task, int example);
/* The k-th of n <= n_example examples that stand for a task (timing, fidelity): spread over it, the last one
 * (the longest of a needle) included; and whether an example is one of at most n. */
int plan_sample(int n_example, int n, int k);
bool plan_sampled(int n_example, int n, int example);
/* The unit as the runner takes it. */
struct run_unit plan_run_unit(const struct plan *p, int64_t unit);
/* Seconds that the longest step of a bundle may take on one core at the rates of plan_cost: a chunk of `rows`
 * of its longest prompt, or one token of all its answers. */
double plan_step_s(const struct plan *p, const struct plan_bundle *b, int64_t rows);
/* XXH3-64 over the ids of n units. */
uint64_t plan_bundle_id(const struct plan *p, const int64_t *unit, int n);
/* Text that must be equal for two runs to share a results file. */
void plan_text(const struct plan *p, struct str *out);
/* Tables for the sink; text borrowed from the plan, arrays and JSON owned: plan_sink_free. `run` is left to
 * the caller except for plan_text, logits and mode. */
void plan_sink(const struct plan *p, struct sink_plan *s, struct str *text);
void plan_sink_free(struct sink_plan *s);

#endif
