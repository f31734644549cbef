/* The choice of RWKV's package with its default penalties (fixture: oracle/rwkv_penalties.py), and that no
 * other model makes it. */
#include "base/mem.h"
#include "expect.h"
#include "run/penalty.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { V = 1024 };

static uint32_t mixed(uint32_t id, uint32_t step)
{
    uint32_t h = id * 2654435761u + step * 40503u;
    h = (h ^ h >> 15) * 2246822519u;
    return (h ^ h >> 13) & 0xfff;
}

/* row() of the script. */
static void fill_row(float *x, uint32_t step, const json_t *likely)
{
    for (uint32_t id = 0; id < V; id++)
        x[id] = (float)(mixed(id, step) * V + id) / 4194304.0f;
    for (size_t i = 0; i < json_array_size(likely); i++)
        x[json_integer_value(json_array_get(likely, i))] += 3;
}

static void rule_of(const char *type, const char *params, struct model_penalty *p)
{
    struct model_config c = {.architecture = ""};
    struct shape_options o = {0};
    snprintf(c.architecture, sizeof c.architecture, "%s", type);
    OK(family_params_set(family_find(type), &o, params, "test"));
    model_config_penalty(&c, &o, p);
}

static void as_the_package(void **state)
{
    (void)state;
    struct tok *t;
    json_t *root = json_load_file("fixtures/run/rwkv_penalties.json", 0, NULL);
    assert_non_null(root);
    const json_t *tokens = json_object_get(root, "tokens"), *likely = json_object_get(root, "likely");
    struct penalty p = {0};
    float row[V];
    int n_greedy = 0;
    rule_of("rwkv5", "penalties=rwkv", &p.rule);
    assert_true(penalty_acts(&p));
    OK(tok_open_dir(&t, "fixtures/tok/world"));
    assert_int_equal(json_array_size(tokens), 300);
    for (uint32_t i = 0; i < 300; i++) {
        fill_row(row, i, likely);
        int32_t greedy = penalty_choose(&(struct penalty){0}, row, V), id = penalty_choose(&p, row, V);
        assert_int_equal(id, json_integer_value(json_array_get(tokens, i)));
        OK(penalty_note(&p, t, id));
        n_greedy += id == greedy;
    }
    assert_int_equal(300 - n_greedy, json_integer_value(json_object_get(root, "differ")));
    assert_true(n_greedy < 250);
    penalty_free(&p);
    tok_close(t);
    json_decref(root);
}

static void off_by_default(void **state)
{
    (void)state;
    const struct family *f;
    for (int i = 0; (f = family_at(i)); i++) {
        struct penalty p = {0};
        char type[32];
        snprintf(type, sizeof type, "%.*s", (int)strcspn(f->hf_types, "|"), f->hf_types);
        rule_of(type, NULL, &p.rule);
        assert_false(penalty_acts(&p));
    }
}

/* Zeros are the defaults, whoever makes the options; a key says whether a method or a family is meant. */
static void tables_of_families(void **state)
{
    (void)state;
    const struct family *f;
    for (int i = 0; (f = family_at(i)); i++) {
        for (const struct param *p = f->params; p && p->name; p++) {
            assert_true(p->def == 0 && p->type != PARAM_TEXT);
            assert_true(p->offset % 8 == 0 && p->offset + 8 <= sizeof(struct shape_options));
            for (int k = 0; kv_method_at(k); k++)
                for (const struct param *q = kv_method_info(kv_method_at(k)).params; q && q->name; q++)
                    assert_string_not_equal(p->name, q->name);
        }
    }
    struct shape_options o = {0};
    REFUSED(family_params_set(family_find("llama"), &o, "penalties=rwkv", "x"),
            "x: family llama: unknown parameter 'penalties'; known: none");
    REFUSED(family_params_set(family_find("rwkv5"), &o, "penalties=on", "x"),
            "x: family rwkv5: penalties=on is not allowed; use one of off|rwkv");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_the_package),
        cmocka_unit_test(off_by_default),
        cmocka_unit_test(tables_of_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
