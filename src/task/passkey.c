/* The needle of the reference: a key hidden in essays, a grid of lengths and depths (spec 4). */
#include "task/grid.h"

#include <stddef.h>
#include <stdio.h>

struct passkey_params {
    struct grid_params grid;
    int64_t digits;
};

#define AT(member) offsetof(struct passkey_params, member)
const struct param passkey_param_table[] = {
    {"lengths", PARAM_TEXT, AT(grid.lengths), 0, 0, 0, NULL, "512-20480x10", GRID_LENGTHS},
    {"unit", PARAM_CHOICE, AT(grid.unit), 0, 0, 1, "words|tokens", NULL, GRID_UNIT},
    {"depths", PARAM_INT, AT(grid.depths), 10, 1, 1000, NULL, NULL, GRID_DEPTHS},
    {"iterations", PARAM_INT, AT(grid.iterations), 3, 1, 1000, NULL, NULL, "prompts per length and depth"},
    {"digits", PARAM_INT, AT(digits), 7, 1, 64, NULL, NULL, "digits of a key"},
    {"haystack", PARAM_TEXT, AT(grid.haystack), 0, 0, 0, NULL, "synthetic", GRID_HAYSTACK},
    {"max_new", PARAM_INT, AT(grid.max_new), 256, 1, 1000000, NULL, NULL, "tokens to generate at most"},
    {"seed", PARAM_INT, AT(grid.seed), 42, 0, 9007199254740992.0, NULL, NULL,
     "seed of the keys and the synthetic haystack"},
    {0},
};

static void draw(const void *params, struct mt19937 *rng, struct str *hidden, struct str *gold)
{
    const struct passkey_params *p = params;
    for (int i = 0; i < (int)p->digits; i++)
        str_addc(gold, (char)('0' + mt19937_below(rng, 10)));
    str_printf(hidden, " The pass key is %s. Remember it. %s is the pass key. ", str_c(gold), str_c(gold));
}

int passkey_open(struct task *t, const void *params, const struct token_counter *counter)
{
    const struct passkey_params *p = params;
    char facts[32];
    snprintf(facts, sizeof facts, "digits=%lld", (long long)p->digits);
    const struct grid g = {.name = "passkey",
                           .instruction =
                               "There is an important info hidden inside a lot of irrelevant text. Find "
                               "it and memorize it. I will quiz you about "
                               "the important information there.\n",
                           .question = "\nWhat is the pass key? The pass key is ",
                           .tail = " ",
                           .draw = draw,
                           .params = p,
                           .facts = facts};
    return grid_open(t, &g, &p->grid, counter);
}
