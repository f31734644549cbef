/* The text form of methods: canonical and short texts, refusals, hostile texts, nominal ratios. */
#include "kv_rig.h"

static void spec_texts(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"full", "full", "full"},
        {"kivi", "kivi:bits=2,group=32,residual=128,when=after", "kivi:bits=2"},
        {"kivi:bits=4", "kivi:bits=4,group=32,residual=128,when=after", "kivi:bits=4"},
        {"kivi:when=prefill", "kivi:bits=2,group=32,residual=128,when=prefill", "kivi:when=prefill"},
        {"flexgen", "flexgen:bits=4,group=32,when=prefill", "flexgen:bits=4"},
        {"flexgen:when=decode", "flexgen:bits=4,group=32,when=decode", "flexgen:when=decode"},
        {"flexgen-upstream", "flexgen-upstream:bits=4,group=64,when=after", "flexgen-upstream:bits=4"},
        {"streaming:when=after", "streaming:keep=0.5,init_share=0.021,cap=0,init=0,local=0,when=after",
         "streaming:when=after"},
        {"h2o-paper:ratio=6", "h2o-paper:heavy=0.083,recent=0.083,lag=auto",
         "h2o-paper:heavy=0.083,recent=0.083"},
        {"streaming:ratio=6", "streaming:keep=0.17,init_share=0.021,cap=0,init=0,local=0,when=prefill",
         "streaming:keep=0.17"},
        {"streaming:cap=7500,ratio=8",
         "streaming:keep=0.125,init_share=0.021,cap=7500,init=0,local=0,when=prefill",
         "streaming:keep=0.125,cap=7500"},
        {"streaming:init=4,local=1020",
         "streaming:keep=0.5,init_share=0.021,cap=0,init=4,local=1020,when=prefill",
         "streaming:init=4,local=1020"},
        {"kivi:skip_layers=30;1;0-2;31", "kivi:bits=2,group=32,residual=128,when=after,skip_layers=0-2;30-31",
         "kivi:bits=2,skip_layers=0-2;30-31"},
        {"knorm:skip_layers=5,ratio=4,window_layers=0", "knorm:keep=0.25,skip_layers=5",
         "knorm:keep=0.25,skip_layers=5"},
        {"streaming:window_layers=1,keep=0.25,skip_layers=255",
         "streaming:keep=0.25,init_share=0.021,cap=0,init=0,local=0,when=prefill,skip_layers=255,window_"
         "layers=1",
         "streaming:keep=0.25,skip_layers=255,window_layers=1"},
        {"h2o:budget=1MiB,skip_layers=3",
         "h2o:heavy_size=0,recent_size=0,when=after,budget=1MiB,skip_layers=3",
         "h2o:budget=1MiB,skip_layers=3"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_spec s, again;
        assert_int_equal(kv_spec_parse(&s, rows[i][0]), 0);
        assert_string_equal(s.text, rows[i][1]);
        assert_string_equal(s.label, rows[i][2]);
        assert_int_equal(kv_spec_parse(&again, s.text), 0);
        assert_string_equal(again.text, s.text);
        kv_spec_free(&again);
        kv_spec_free(&s);
    }
}

static void spec_errors(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"kiwi", "did you mean 'kivi'"},
        {"zzzzzz", "known: full, kivi, "},
        {"", "unknown method ''"},
        {"kivi:bits=3", "use one of 2|4"},
        {"kivi:bits=0x2", "use one of 2|4"},
        {"streaming:local=1e15", "use a whole number from 0 to 1000000000000000"},
        {"kivi:bit=2", "did you mean 'bits'"},
        {"kivi:bits=2,bits=4", "method kivi: bits is given twice, 2 and 4; leave one of them out"},
        {"kivi:group=32,bits=4,residual=64,bits=4", "bits is given twice, 4 and 4"},
        {"streaming:ratio=2,ratio=4", "ratio is given twice, 2 and 4"},
        {"streaming:budget=2MiB,budget=1MiB", "budget is given twice, 2MiB and 1MiB"},
        {"kivi:group=24", "use one of 16|32|64|128"},
        {"kivi:residual=100", "use a multiple of group=32"},
        {"kivi:ratio=4", "it has no 'ratio'"},
        {"kivi:when=during", "use one of prefill|after|decode"},
        {"streaming:when=decode", "use one of prefill|after"},
        {"flexgenn", "did you mean 'flexgen'"},
        {"flexgen:bits=3", "use one of 2|4"},
        {"flexgen:group=48", "use one of 16|32|64|128"},
        {"flexgen:when=", "use one of prefill|after|decode"},
        {"flexgen:ratio=4", "it has no 'ratio'"},
        {"flexgen:residual=0", "unknown parameter 'residual'"},
        {"flexgen-upstream:bits=2", "use one of 4"},
        {"full:bits=2", "unknown parameter 'bits'"},
        {"streaming:ratio=2,keep=0.9", "keep is chosen by the ratio; leave one of them out"},
        {"h2o:heavy=0.5,ratio=4", "heavy is chosen by the ratio"},
        {"h2o-paper:ratio=4,recent=0.5", "recent is chosen by the ratio"},
        {"infllm:ratio=4,keep=0.5", "keep is chosen by the ratio"},
        {"knorm:ratio=4,keep=0.5", "keep is chosen by the ratio"},
        {"llmlingua2:ratio=4,rate=2", "rate is chosen by the ratio"},
        {"streaming:ratio=4,init=4,local=1020", "ratio and init=4,local=1020 both choose the strength"},
        {"streaming:ratio=0.5", "use a number from 1"},
        {"streaming:ratio=nan", "use a number from 1"},
        {"streaming:ratio=5000", "from 1 to 1000"},
        {"streaming:keep=1.5", "use a number from"},
        {"streaming:init=4", "give local"},
        {"infllm:topk=4", "topk=4 is not allowed without local"},
        {"infllm:local=400", "use at least piece=512"},
        {"infllm:min_local=100", "use at least piece=512"},
        {"infllm:piece=1024", "use one of 16|32|64|128|256|512"},
        {"infllm:block=2,repr=3", "use at most block=2"},
        {"streaming:keep", "is not key=value"},
        {"h2o-paper:heavy=0,recent=0", "keep something"},
        {"h2o-paper:lag=2", "use one of 0|1|auto"},
        {"h2o:heavy=0,recent=0", "keep something"},
        {"h2o:heavy_size=4", "give recent_size"},
        {"h2o:when=never", "use one of prefill|after|decode"},
        {"knorm:keep=0", "use a number from"},
        {"h2o-paper:ratio=2000", "from 1 to 1000"},
        {"kivi:skip_layers=", "use layers from 0 to 255"},
        {"kivi:skip_layers=1;", "skip_layers=1; is not allowed"},
        {"kivi:skip_layers=3-1", "and ranges of them"},
        {"kivi:skip_layers=-1", "use layers from 0 to 255"},
        {"kivi:skip_layers=256", "use layers from 0 to 255"},
        {"kivi:skip_layers=99999999999999999999", "use layers from 0 to 255"},
        {"kivi:skip_layers=1+2", "as in 0-1;30"},
        {"kivi:skip_layers=1,skip_layers=2", "skip_layers is given twice, 1 and 2"},
        {"full:skip_layers=1", "it leaves the cache of every layer full"},
        {"llmlingua2:window_layers=1", "it has no 'window_layers'"},
        {"streaming:window_layers=2", "use 0 or 1"},
        {"h2o:window_layers=1", "layers with a window (flexgen, flexgen-upstream, streaming can)"},
        {"kivi:skip_layer=1", "unknown parameter 'skip_layer'"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_spec s;
        assert_int_equal(kv_spec_parse(&s, rows[i][0]), ERR_INPUT);
        if (!strstr(err_text(), rows[i][1]))
            fail_msg("'%s' gave: %s", rows[i][0], err_text());
        assert_null(s.params);
    }
    struct kv_spec s;
    struct layer_kind kind = kind_attention(2, 2, 80, 0);
    assert_int_equal(kv_spec_parse(&s, "kivi:group=32"), 0);
    assert_int_equal(s.method->check(s.params, &kind), ERR_INPUT);
    assert_non_null(strstr(err_text(), "head dimension 80"));
    kv_spec_free(&s);
    assert_int_equal(kv_spec_parse(&s, "flexgen"), 0);
    assert_int_equal(s.method->check(s.params, &kind), ERR_INPUT);
    assert_non_null(strstr(err_text(), "group=32 is not allowed with a head dimension of 80; use 16"));
    kind.d_k = 96;
    assert_int_equal(s.method->check(s.params, &kind), 0);
    kv_spec_free(&s);
    assert_int_equal(kv_spec_parse(&s, "flexgen-upstream"), 0);
    assert_int_equal(s.method->check(s.params, &kind), ERR_INPUT);
    assert_non_null(strstr(err_text(), "method flexgen-upstream: group=64"));
    assert_non_null(strstr(err_text(), "use 16 or 32"));
    kind.d_k = 40;
    assert_int_equal(s.method->check(s.params, &kind), ERR_INPUT);
    assert_non_null(strstr(err_text(), "head dimension 40 is no multiple of any group"));
    kv_spec_free(&s);
}

/* Whatever the text, a spec is refused as bad input or its canonical text means the same again. */
static void spec_fuzz(void **state)
{
    (void)state;
    static const char *const seeds[] = {"kivi:bits=4,group=16,when=prefill", "streaming:ratio=4,cap=7500",
                                        "streaming:keep=0.25,init_share=0.021,cap=0,init=4,local=9",
                                        "full:", "streaming:skip_layers=0-1;30,window_layers=1"};
    static const char odd[] = ":=,.;-0123456789aeiklnrst\xff"; /* with its NUL, which cuts */
    uint64_t seed = 5;
    int n_good = 0;
    for (int i = 0; i < 20000; i++) {
        char text[96] = {0};
        snprintf(text, sizeof text, "%s", seeds[rig_random(&seed) % 5]);
        for (uint32_t k = rig_random(&seed) % 4; k > 0; k--) {
            size_t at = rig_random(&seed) % (strlen(text) + 1);
            if (rig_random(&seed) % 3)
                text[at] = odd[rig_random(&seed) % sizeof odd];
            else if (at < strlen(text))
                memmove(text + at, text + at + 1, strlen(text + at));
        }
        text[sizeof text - 1] = 0;
        struct kv_spec s, again;
        int rc = kv_spec_parse(&s, text);
        assert_true(rc == 0 || rc == ERR_INPUT);
        if (rc < 0)
            continue;
        assert_int_equal(kv_spec_parse(&again, s.text), 0);
        assert_string_equal(again.text, s.text);
        assert_true(s.nominal_ratio >= 1);
        kv_spec_free(&again);
        kv_spec_free(&s);
        n_good++;
    }
    assert_true(n_good > 1000);
}

static void nominal_ratios(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double ratio;
    } rows[] = {{"full", 1},
                {"kivi:bits=2", 5.05},
                {"kivi:bits=4", 3.11},
                {"flexgen", 3.2},
                {"flexgen-upstream", 16 / 4.5},
                {"streaming:ratio=8", 8},
                {"streaming:ratio=6", 1 / 0.17},
                {"infllm:ratio=6", 1 / 0.17},
                {"infllm:init=4,local=996,topk=10,block=100,piece=256", 5},
                {"streaming:ratio=3", 3},
                {"h2o-paper:ratio=6", 1 / 0.166},
                {"h2o:ratio=8", 8},
                {"h2o:heavy_size=1000,recent_size=1500", 4},
                {"knorm:ratio=3", 3},
                {"h2o-paper:heavy=1,recent=1", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_spec s;
        assert_int_equal(kv_spec_parse(&s, rows[i].text), 0);
        assert_near(s.nominal_ratio, rows[i].ratio, 0.005);
        kv_spec_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(spec_texts), cmocka_unit_test(spec_errors),
                                       cmocka_unit_test(spec_fuzz), cmocka_unit_test(nominal_ratios)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
