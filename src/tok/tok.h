/* Tokenizers: text to ids and back, exactly as the field's `tokenizers` library does it for the same files.
 * Sources: a tokenizer.json (byte-level BPE with its pre-tokenizer; SentencePiece-style BPE with byte
 * fallback; Unigram as XLM-RoBERTa and T5 have it), RWKV's World vocabulary, the tokenizer tables inside a
 * GGUF file, or a file of ranks as tiktoken has it. */
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

/* `dir` is a model folder with tokenizer.json, or else SentencePiece's tokenizer.model, or else the
 * vocabulary of RWKV's World models, rwkv_vocab_v20230424.txt (and tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json, generation_config.json where present: tokens that stand there
 * alone, bos/eos ids, add_bos_token, clean_up_tokenization_spaces). ERR_INPUT names file and key. */
int tok_open_dir(struct tok **t, const char *dir);
/* A *.tiktoken file: one "BASE64 RANK" per line, the bytes of a token and its id, which is also the order of
 * the merges. Texts are cut by the pattern of cl100k_base, and nothing in them is a special token (tiktoken's
 * encode_ordinary). ERR_INPUT names file and line. */
int tok_open_tiktoken(struct tok **t, const char *path);
/* Adds special tokens to an open tokenizer, as LLMLingua-2 does with "[NEW0]"…: a text that is no token yet
 * gets the next free id, one that is keeps its id and becomes special. Not while another thread uses `t`. */
int tok_add_special(struct tok *t, const char *const *text, size_t n);
int tok_open_gguf(struct tok **t, const struct tok_gguf *g, const char *path_for_errors);
void tok_close(struct tok *t);

int32_t tok_n_vocab(const struct tok *t); /* highest id + 1 */
int32_t tok_bos(const struct tok *t);     /* -1 if the tokenizer has none */
int32_t tok_eos(const struct tok *t);
/* Tokens that the configuration names (bos_token, …); `unk` is the model's own where no file names one. -1
 * where there is none. */
enum tok_role { TOK_BOS, TOK_EOS, TOK_UNK, TOK_PAD, TOK_MASK, TOK_CLS, TOK_SEP, TOK_N_ROLE };
int32_t tok_role_id(const struct tok *t, enum tok_role role);
/* Text of a token as the vocabulary has it ("\xe2\x96\x81the", "<s>"), borrowed; NULL for ids that are not
 * used. */
const char *tok_piece(const struct tok *t, int32_t id);
/* Id of an exact token text ("<|eot_id|>", "</s>"), or -1. */
int32_t tok_id(const struct tok *t, const char *text);
/* The ids that end an answer, as the model's files name them (model/stop_ids.h); the first one is the eos of
 * a tokenizer that names none. */
void tok_set_stop_ids(struct tok *t, const int32_t *ids, int n);
/* What tok_set_stop_ids was given, or else {eos}. Returns the count, 0 for none; borrowed. */
int tok_stop_ids(const struct tok *t, const int32_t **ids);
bool tok_is_special(const struct tok *t, int32_t id);
/* How many of the ids the tokenizer has no text for: models have more rows of embeddings than tokens. */
int64_t tok_n_outside(const struct tok *t, const int32_t *ids, int64_t n);

/* ids as `tokenizers` gives them: special/added tokens found in the text become their ids; with `add_special`
 * the post-processor (BOS, EOS) is applied. *ids is owned by the caller (free). Text must be valid UTF-8
 * (ERR_INPUT otherwise). */
int tok_encode(const struct tok *t, const char *text, size_t n_bytes, bool add_special, int32_t **ids,
               int64_t *n_ids);
/* A text cut into tokens, before any id is looked at: what the library calls the tokens of an encoding,
 * without the special tokens of the post-processor. They are the vocabulary's texts but for two cases: a run
 * of characters that a Unigram model does not know is the run itself (its id is `unk`), and an added token is
 * the text that it was found by (with the blanks that its lstrip and rstrip take). */
struct tok_pieces {
    struct tok_text {
        const char *s; /* NUL-terminated, lives as long as the tok_pieces */
        size_t n;      /* bytes */
        int32_t id;
    } * v;
    size_t n;
    char *bytes;
};
/* Errors as tok_encode. Free with tok_pieces_free, also after an error. */
int tok_encode_pieces(const struct tok *t, const char *text, size_t n_bytes, struct tok_pieces *out);
void tok_pieces_free(struct tok_pieces *p);
/* The decoder over token texts, whatever they are ("convert_tokens_to_string"): nothing is skipped, no
 * clean-up. *text is owned. */
int tok_join(const struct tok *t, const char *const *piece, size_t n, char **text);
/* Text of ids, owned, with a NUL behind its *n_bytes (NULL if not wanted); models also generate the character
 * NUL, so that the text may hold some. `skip_special` leaves special tokens out; the clean-up of blanks
 * (spec/tasks.md 2.8) is applied when the tokenizer asks for it. Incomplete UTF-8 becomes U+FFFD as in the
 * field's library. Ids above the vocabulary are no text (tok_n_outside counts them); ERR_INPUT for negative
 * ones.
 */
int tok_decode(const struct tok *t, const int32_t *ids, int64_t n_ids, bool skip_special, char **text,
               size_t *n_bytes);

/* The same for the tokens of an answer, which may end in the middle of a character. RWKV's World: as its
 * package shows them one by one, up to the last whole character before the end (id 0) or anything that is no
 * text. */
int tok_decode_answer(const struct tok *t, const int32_t *ids, int64_t n_ids, bool skip_special, char **text,
                      size_t *n_bytes);

/* Named chat templates for one user turn. */
struct chat_template {
    const char
        *name; /* chatml, llama3, mistral_instruct, vicuna, recurrentgemma, gemma, mamba-chat, rwkv, none */
    const char *before; /* text before the prompt */
    const char *after;  /* text after it */
    bool trim;          /* strip white space at both ends of the prompt first */
    const char *stop;   /* text of an extra stop token ("<|im_end|>", "<|eot_id|>"), or NULL */
    const char *source;
};
const struct chat_template *tok_template(const char *name); /* NULL if unknown */
const struct chat_template *tok_template_at(int i);         /* NULL past the end */
/* before + prompt + after, owned. */
char *tok_template_apply(const struct chat_template *t, const char *prompt);

#endif
