/* Tokenizers: text to ids and back, exactly as the field's `tokenizers` library does it for the same files.
 * Sources: a tokenizer.json (byte-level BPE with its pre-tokenizer; SentencePiece-style BPE with byte
 * fallback), or the tokenizer tables inside a GGUF file. */
#ifndef KVS_TOK_TOK_H
#define KVS_TOK_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tok;

/* Vocabulary handed over by a GGUF reader (arrays stay owned by the caller; only used during tok_open_gguf).
 */
struct tok_gguf {
    const char *model; /* tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece-style) */
    const char *pre;   /* tokenizer.ggml.pre: names the pre-tokenizer pattern ("smollm", "llama-bpe", "qwen2",
                          …); may be NULL */
    const char *const *token; /* [n_token] NUL-terminated UTF-8; entries of a byte-level vocabulary use the
                                 GPT-2 byte alphabet */
    const int32_t
        *type; /* [n_token] 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; may be NULL */
    const float *score; /* [n_token], SentencePiece only; may be NULL otherwise */
    int32_t n_token;
    const char *const *merge; /* [n_merge] "left right", byte-level BPE only */
    int32_t n_merge;
    int32_t bos, eos, unk; /* -1 where absent */
    int add_bos, add_eos;  /* -1 where absent */
    int add_space_prefix;  /* -1 where absent */
};

/* `dir` is a Hugging Face model folder with tokenizer.json, or else tokenizer.model (and tokenizer_config.json,
 * special_tokens_map.json, generation_config.json where present: bos/eos ids, add_bos_token,
 * clean_up_tokenization_spaces). ERR_INPUT names file and key. */
int tok_open_dir(struct tok **t, const char *dir);
int tok_open_gguf(struct tok **t, const struct tok_gguf *g, const char *path_for_errors);
void tok_close(struct tok *t);

int32_t tok_n_vocab(const struct tok *t); /* highest id + 1 */
int32_t tok_bos(const struct tok *t);     /* -1 if the tokenizer has none */
int32_t tok_eos(const struct tok *t);
/* Id of an exact token text ("<|eot_id|>", "</s>"), or -1. */
int32_t tok_id(const struct tok *t, const char *text);
/* End ids of the folder's generation_config.json when there is one, else {eos}. Returns the count; borrowed.
 */
int tok_stop_ids(const struct tok *t, const int32_t **ids);
bool tok_is_special(const struct tok *t, int32_t id);

/* ids as `tokenizers` gives them: special/added tokens found in the text become their ids; with `add_special`
 * the post-processor (BOS, EOS) is applied. *ids is owned by the caller (free). Text must be valid UTF-8
 * (ERR_INPUT otherwise). */
int tok_encode(const struct tok *t, const char *text, size_t n_bytes, bool add_special, int32_t **ids,
               int64_t *n_ids);
/* Text of ids, owned NUL-terminated; `skip_special` leaves special tokens out; the clean-up of blanks
 * (spec/tasks.md 2.8) is applied when the tokenizer asks for it. Incomplete UTF-8 becomes U+FFFD as in the
 * field's library. ERR_INPUT for ids outside the vocabulary. */
int tok_decode(const struct tok *t, const int32_t *ids, int64_t n_ids, bool skip_special, char **text);

/* Named chat templates for one user turn. */
struct chat_template {
    const char *name;   /* chatml, llama3, mistral_instruct, vicuna, recurrentgemma, mamba-chat, rwkv, none */
    const char *before; /* text before the prompt */
    const char *after;  /* text after it */
    bool trim;          /* strip white space at both ends of the prompt first */
    const char *stop;   /* text of an extra stop token ("<|im_end|>", "<|eot_id|>"), or NULL */
    const char *source;
};
const struct chat_template *tok_template(const char *name); /* NULL if unknown */
const char *const *tok_template_names(void);                /* NULL-terminated, for errors and `list` */
/* before + prompt + after, owned. */
char *tok_template_apply(const struct chat_template *t, const char *prompt);

#endif
