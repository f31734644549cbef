/* Prompts on a grid of haystack lengths and depths with something hidden in each: what the needle and the
 * list to recite share. */
#ifndef KVS_TASK_GRID_H
#define KVS_TASK_GRID_H

#include "base/str.h"
#include "task/mt19937.h"
#include "task/task_impl.h"

/* Parameters in common; a task's own struct begins with these, its table with GRID_PARAMS. */
struct grid_params {
    char *lengths;
    int64_t unit; /* 0 words, 1 tokens */
    int64_t depths, iterations;
    char *haystack;
    int64_t max_new, seed;
};

struct grid {
    const char *name;                   /* of the task, for messages and the hash of the source */
    const char *instruction, *question; /* before and after the content */
    const char *tail;                   /* ends the content */
    /* Draws the next thing to hide: its text as it stands between the two parts of the haystack, and the
     * right answer. Both arrive empty. */
    void (*draw)(const void *params, struct mt19937 *rng, struct str *hidden, struct str *gold);
    const void *params;
    const char *facts; /* further parameters that shape the prompts, as text for the hash */
};

/* Fills the task: lengths, then depths, then iterations; draws are made in this order from one stream. */
int grid_open(struct task *t, const struct grid *g, const struct grid_params *p,
              const struct token_counter *counter);

#define GRID_LENGTHS                                                                                         \
    "haystack lengths: a list (512+1024+2048; also , ; /) or MIN-MAXxN for N even steps, cut to whole units"
#define GRID_UNIT                                                                                            \
    "what lengths count: words of the haystack, or tokens of the whole prompt without template (at most "    \
    "that many)"
#define GRID_DEPTHS "even steps of depth from 0 to 1, both included (1 gives both ends, as in the reference)"
#define GRID_HAYSTACK                                                                                        \
    "folder of text files (used sorted by name), or synthetic: seeded English essays written by the program"

#endif
