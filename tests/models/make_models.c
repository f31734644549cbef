/* Random-weight checkpoints of the models of the paper's grid, small enough for a whole sweep in a minute,
 * and data of their size. usage: make_models FIXTURES OUT
 *
 * OUT/models has the folders that configs/models names (KVSWEEP_MODELS=OUT/models), each in its model's own
 * layout; OUT/data (KVSWEEP_DATA) a row of each LongBench dataset and essays for the needle; OUT/cache
 * (KVSWEEP_CACHE) the ranks that LLMLingua-2 counts with. FIXTURES is tests/fixtures: its tokenizers are
 * used. Equal bytes in every run. */
#include "families.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "tok/tok.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Patterns of RecurrentGemma's 26 and 38 layers, cut to one and two whole ones and the two recurrent layers
 * that are left over at the end. Mistral and LongChat have no tokenizer.json here, so that SentencePiece's
 * file is read. */
static const struct tiny_model models[] = {
    {"Meta-Llama-3-8B-Instruct", "llama3", make_llama, 2, 2,
     ", \"model_type\": \"llama\", \"rope_theta\": 500000.0, \"max_position_embeddings\": 8192"},
    {"Mistral-7B-Instruct-v0.2", "llama2-spm", make_llama, 2, 2,
     ", \"model_type\": \"mistral\", \"rope_theta\": 1000000.0, \"max_position_embeddings\": 32768, "
     "\"sliding_window\": "
     "null, \"bos_token_id\": 1, \"eos_token_id\": 2"},
    {"longchat-7b-v1.5-32k", "llama2-spm", make_llama, 4, 2,
     ", \"model_type\": \"llama\", \"max_position_embeddings\": 32768, \"rope_scaling\": {\"factor\": 8.0, "
     "\"type\": "
     "\"linear\"}, \"bos_token_id\": 1, \"eos_token_id\": 2"},
    {"mamba-2.8b-hf", "neox", make_mamba, 0, 2, ", \"bos_token_id\": 0, \"eos_token_id\": 0"},
    {"mamba-chat", "neox", make_mamba_ssm, 0, 2, NULL},
    {"mamba2-2.7b", "neox", make_mamba2, 0, 2, NULL},
    {"rwkv-5-world-7b", "world", make_rwkv5, 0, 2, NULL},
    {"recurrentgemma-2b-it", "gemma", make_griffin, 1, 5, ", \"bos_token_id\": 2, \"eos_token_id\": 1"},
    {"recurrentgemma-9b-it", "gemma-spm", make_griffin, 1, 8, ", \"bos_token_id\": 2, \"eos_token_id\": 1"},
};

static void must(int rc)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "make_models: %s\n", err_text());
    exit(1);
}

static void put(const char *dir, const char *name, const struct str *s)
{
    char *path = file_join(dir, name);
    must(file_write_atomic(path, s->data, s->n));
    free(path);
}

static void copy(const char *from, const char *name, const char *dir, const char *as)
{
    char *path = file_join(from, name), *data;
    size_t n;
    if (file_exists(path)) {
        must(file_read(path, &data, &n));
        put(dir, as, &(struct str){.data = data, .n = n});
        free(data);
    }
    free(path);
}

/* The vocabulary of fixtures keeps the published ids, with gaps; here they are numbered anew, so that the
 * head has few rows. The bytes, ids 1 to 256, stay. */
static void copy_world(const char *from, const char *dir)
{
    static const char name[] = "rwkv_vocab_v20230424.txt";
    char *path = file_join(from, name), *data;
    struct str s = {0};
    size_t n;
    must(file_read(path, &data, &n));
    int id = 0;
    for (const char *p = data; p < data + n;) {
        const char *end = memchr(p, '\n', (size_t)(data + n - p)), *blank = strchr(p, ' ');
        str_printf(&s, "%d%.*s\n", ++id, (int)(end - blank), blank);
        p = end + 1;
    }
    put(dir, name, &s);
    str_free(&s);
    free(data);
    free(path);
}

static void make_model(const struct tiny_model *m, const char *fixtures, const char *out)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"};
    char *from = mem_printf("%s/tok/%s", fixtures, m->tokenizer),
         *dir = mem_printf("%s/models/%s", out, m->folder);
    struct tok *t;
    must(file_mkdirs(dir));
    if (strcmp(m->tokenizer, "world") == 0)
        copy_world(from, dir);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        copy(from, files[i], dir, files[i]);
    must(tok_open_dir(&t, dir));
    m->make(m, dir, tok_n_vocab(t));
    tok_close(t);
    free(from);
    free(dir);
}

static void copy_encoder(const char *fixtures, const char *out)
{
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    char *prompt = file_join(fixtures, "prompt"), *from = file_join(prompt, "encoder");
    char *dir = file_join(out, "models/llmlingua-2-xlm-roberta-large-meetingbank"),
         *cache = file_join(out, "cache");
    must(file_mkdirs(dir));
    must(file_mkdirs(cache));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        copy(from, files[i], dir, files[i]);
    copy(prompt, "ranks.tiktoken", cache, "cl100k_base.tiktoken");
    free(prompt);
    free(from);
    free(dir);
    free(cache);
}

/* ---- data ---- */

static const char *const words[] = {
    "the",    "river",  "carried", "a",     "small",  "boat",    "past",    "old",   "mill",
    "where",  "people", "walked",  "and",   "talked", "about",   "rain",    "that",  "never",
    "came",   "in",     "summer",  "while", "return", "from",    "market",  "with",  "seven",
    "apples", "of",     "green",   "glass", "window", "letters", "found",   "under", "table",
    "before", "night",  "began",   "to",    "answer", "his",     "question"};

static void add_words(struct str *s, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        str_add(s, words[(seed >> 33) % (sizeof words / sizeof *words)]);
        str_add(s, i % 13 == 12 ? ".\n" : " ");
    }
}

/* A row of a LongBench file. */
struct row {
    const char *dataset, *input, *answers;
    const char *classes; /* null but for one dataset */
    int n_words;
};

/* Contexts are longer than some models' limits in some rows, shorter than all in others. */
static const struct row rows[] = {
    {"narrativeqa", "Who carried the letters?", "[\"the old miller\"]", "null", 1500},
    {"qasper", "What was found?", "[\"letters\", \"seven letters\"]", "null", 700},
    {"multifieldqa_en", "When did people walk?", "[\"before night\"]", "null", 250},
    {"hotpotqa", "Which boat passed the mill?", "[\"a small boat\"]", "null", 250},
    {"2wikimqa", "Where was the table?", "[\"under the window\"]", "null", 250},
    {"musique", "Who returned from market?", "[\"people\"]", "null", 250},
    {"gov_report", "", "[\"The river carried a small boat past the old mill.\"]", "null", 250},
    {"qmsum", "What was said about rain?", "[\"It never came in summer.\"]", "null", 250},
    {"multi_news", "", "[\"People walked and talked about rain.\"]", "null", 250},
    {"trec", "Question: Where does rain come from ?\nType:", "[\"Other location\"]",
     "[\"Other location\", \"Number of something\", \"Date\"]", 250},
    {"triviaqa", "Question: What is green?\nAnswer:", "[\"glass\", \"the glass\"]", "null", 250},
    {"samsum", "Dialogue: Ann: rain?\nBob: never.\nSummary: ", "[\"Ann asks Bob about rain.\"]", "null", 250},
    {"passage_retrieval_en", "Seven apples of green glass.", "[\"Paragraph 3\"]", "null", 250},
    {"passage_count", "", "[\"4\"]", "null", 250},
    {"lcc", "", "[\"    return window\"]", "null", 250},
    {"repobench-p", "def answer(question):\n", "[\"    return question\"]", "null", 250},
};

static void make_rows(const char *out)
{
    char *dir = file_join(out, "data/longbench");
    must(file_mkdirs(dir));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        struct str text = {0}, s = {0};
        char *name = mem_printf("%s.jsonl", r->dataset);
        add_words(&text, r->n_words, i + 1);
        str_add(&s, "{\"input\": ");
        str_add_json(&s, r->input, strlen(r->input));
        str_add(&s, ", \"context\": ");
        str_add_json(&s, text.data, text.n);
        str_printf(
            &s,
            ", \"answers\": %s, \"length\": %d, \"dataset\": \"%s\", \"language\": \"en\", \"all_classes\": "
            "%s, \"_id\": \"tiny-%s-0\"}\n",
            r->answers, r->n_words, r->dataset, r->classes, r->dataset);
        put(dir, name, &s);
        str_free(&text);
        str_free(&s);
        free(name);
    }
    free(dir);
}

static void make_essays(const char *out)
{
    char *dir = file_join(out, "data/PaulGrahamEssays");
    must(file_mkdirs(dir));
    for (int i = 0; i < 3; i++) {
        struct str s = {0};
        char name[16];
        snprintf(name, sizeof name, "%c.txt", 'a' + i);
        add_words(&s, 400, (uint64_t)(100 + i));
        put(dir, name, &s);
        str_free(&s);
    }
    free(dir);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: make_models FIXTURES OUT\n");
        return 1;
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        make_model(&models[i], argv[1], argv[2]);
    copy_encoder(argv[1], argv[2]);
    make_rows(argv[2]);
    make_essays(argv[2]);
    return 0;
}
