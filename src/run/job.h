/* One unit while its bundle runs: its prompt, its pass, its record. Internal to src/run. */
#ifndef KVS_RUN_JOB_H
#define KVS_RUN_JOB_H

#include "run/runner.h"

struct job {
    const struct run_unit *unit;
    const struct example *ex;
    struct prompt prompt;
    struct seq_shape shape;
    struct kv_spec spec; /* the unit's, solved for this sequence; owned */
    uint64_t key;        /* prefill key */
    bool in_group;       /* its prompt pass is done (or failed) */
    int group;           /* first job of those that share it */
    bool holder;         /* counts the bytes shared by its group */
    bool blamed;         /* the error that ends the bundle came while it was computed */
    int rc;              /* first error of this unit */
    char *error;         /* its text, owned */
};

/* Prompts, shapes and slots of n units, and the workspace for all of them. Errors of one unit (out of memory,
 * NaN, too long) end its slot with a status; a negative return ends them all. */
int job_prepare(struct runner *r, const struct task *task, const struct run_unit *u, int n, struct job *job,
                struct slot *slot);
/* Their prompt passes, shared where they may be, likewise. */
int job_passes(struct runner *r, struct job *job, struct slot *slot, int n);
/* Of the sequences that hold a shared prompt to the end, the first one counts its bytes. */
void job_holders(struct job *job, const struct slot *slot, int n);
/* Ends the slot with the status of an error, and keeps its text. */
void job_fail(struct job *j, struct slot *l, int rc);
/* Moves what the slot holds into the record. */
int job_record(struct runner *r, const struct task *task, struct job *j, struct slot *l, struct record *rec);
/* The error that counts where memory was refused: a device that failed gives none either, and has latched
 * why. */
int job_verdict(struct runner *r, int rc);
void job_free(struct job *job, struct slot *slot, int n); /* the arrays too */
/* Puts settings and examples of the blamed before the text of an error; returns rc. */
int job_name(const struct runner *r, int rc, const struct job *job, int n);

#endif
