/* The small files beside a tokenizer. Their keys differ, so that one input stands in for all of them:
 * tokenizer_config.json with its chat template, special_tokens_map.json, generation_config.json. */
#include "fuzz.h"

#include "model/stop_ids.h"
#include "run/chat.h"
#include "tok/tok.h"

#include <stdlib.h>
#include <string.h>

static const char tokenizer[] = "{\"added_tokens\":[{\"id\":2,\"content\":\"<s>\",\"special\":true}],\"pre_"
                                "tokenizer\":{\"type\":\"ByteLevel\"},"
                                "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{"
                                "\"a\":0,\"b\":1},\"merges\":[]}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct tok *t = NULL;
    struct stop_ids stop = {0};
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    char *text = NULL, *chat = NULL;
    size_t n_text;
    const char *dir = fuzz_file("tokenizer.json", tokenizer, strlen(tokenizer), NULL);
    fuzz_file("tokenizer_config.json", data, n, NULL);
    fuzz_file("special_tokens_map.json", data, n, NULL);
    fuzz_file("generation_config.json", data, n, NULL);
    if (tok_open_dir(&t, dir) == 0 && tok_encode(t, "ab<s> a", 7, true, &ids, &n_ids) == 0)
        tok_decode(t, ids, n_ids, false, &text, &n_text);
    stop_ids_dir(&stop, dir);
    if (chat_template_read(dir, &chat) == 0 && chat)
        chat_template_nearest(chat);
    free(ids);
    free(text);
    free(chat);
    stop_ids_free(&stop);
    tok_close(t);
    return 0;
}
