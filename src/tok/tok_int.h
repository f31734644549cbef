/* Inside of src/tok: what the files of the module share. Callers include tok.h alone. */
#ifndef KVS_TOK_TOK_INT_H
#define KVS_TOK_TOK_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"
#include "tok/tok.h"

enum { TOK_MAX_ID = (1 << 24) - 1 }; /* ids above this are refused: tables are indexed by id */

#define TOK_BLANK "\xe2\x96\x81" /* U+2581, which SentencePiece writes for a blank */

/* ---- tok_map.c ---- */

/* Byte string → int32. Keys are copied into chunks that live as long as the map, so pointers to them stay
 * valid. */
struct tok_map {
    struct tok_map_entry {
        const char *key;
        uint32_t n, hash;
        int32_t value;
    } * slot; /* open addressing, key == NULL where free */
    size_t n, cap;
    struct tok_chunk *chunk;
};

void tok_map_free(struct tok_map *m);
/* Inserts or replaces; returns the map's own copy of the key. */
const char *tok_map_put(struct tok_map *m, const char *key, size_t n, int32_t value);
/* -1 where absent. */
int32_t tok_map_get(const struct tok_map *m, const char *key, size_t n);

/* (left id, right id) → rank and id of the merged token. */
struct tok_merge {
    uint64_t key; /* left << 32 | right */
    int32_t rank, id;
};

struct tok_merges {
    struct tok_merge *slot; /* open addressing */
    size_t n, cap;
};

void tok_merges_free(struct tok_merges *m);
void tok_merges_put(struct tok_merges *m, int32_t left, int32_t right, int32_t rank, int32_t id);
const struct tok_merge *tok_merges_get(const struct tok_merges *m, int32_t left, int32_t right);

/* ---- tok_pieces.c ---- */

/* A text cut into pieces; steps either cut further or rewrite the text of each piece. */
struct pieces {
    struct str text;
    struct span {
        size_t at, n;
    } * span;
    size_t n, cap;
    size_t n_start; /* so many bytes of the text stem from the first character that the caller gave: 0 or 1
                       byte unless that was replaced by more */
};

void pieces_free(struct pieces *p);
void pieces_clear(struct pieces *p);
void pieces_cut(struct pieces *p, size_t at, size_t n); /* empty pieces are left out */
/* Appends bytes and makes them one piece (kept even when empty). */
void pieces_add(struct pieces *p, const char *bytes, size_t n);
void pieces_swap(struct pieces *a, struct pieces *b);

/* ---- tok_regex.c ---- */

struct tok_regex;

/* Patterns are written for Oniguruma's Ruby syntax; what PCRE2 understands differently is rewritten or
 * refused. */
int tok_regex_open(struct tok_regex **r, const char *pattern, const char *where);
void tok_regex_close(struct tok_regex *r);

struct tok_find; /* per-call state of one regex: the tokenizer itself stays constant while threads share it */
struct tok_find *tok_find_open(const struct tok_regex *r);
void tok_find_close(struct tok_find *f);
/* First match at or after `from` in the valid UTF-8 s[0..n). Returns 1 and sets *a, *b; 0 when there is none;
 * negative on errors. */
int tok_find_next(struct tok_find *f, const char *s, size_t n, size_t from, size_t *a, size_t *b);

/* ---- steps: normalizers, pre-tokenizers and decoders are flat lists of these ---- */

enum step_kind {
    STEP_NFC,
    STEP_NFD,
    STEP_NFKC,
    STEP_NFKD,
    STEP_CHARSMAP,
    STEP_TRIM,    /* white space at the left (start) and right (stop) end */
    STEP_PREPEND, /* content before a text that is not empty */
    STEP_REPLACE, /* every match by content */
    STEP_BYTES,   /* bytes to the GPT-2 byte alphabet; decoding: back, over all tokens at once */
    STEP_PREFIX,  /* a blank before every piece that does not begin with one */
    STEP_SPLIT,
    STEP_DIGITS,
    STEP_SPACES, /* cut at white space, which is dropped */
    STEP_METASPACE,
    STEP_BYTE_FALLBACK,
    STEP_FUSE,
    STEP_STRIP, /* at most start/stop times content off each token's ends */
};

enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct step {
    enum step_kind kind;
    char *pattern, *content;
    size_t n_pattern, n_content;
    struct tok_regex *regex; /* instead of pattern */
    struct charsmap *charsmap;
    enum split_behavior behavior;
    enum prepend_scheme scheme;
    bool invert, split, individual;
    int64_t start, stop;
};

struct steps {
    struct step *v;
    size_t n, cap;
};

struct step *steps_add(struct steps *s, enum step_kind kind);
void steps_free(struct steps *s);
void step_set_pattern(struct step *s, const char *bytes, size_t n);
void step_set_content(struct step *s, const char *bytes, size_t n);

/* Per-call state of a step list. */
struct steps_run {
    const struct steps *steps;
    struct tok_find **find; /* [n], NULL where a step has no regex */
    struct pieces tmp;
};

void steps_run_open(struct steps_run *r, const struct steps *s);
void steps_run_close(struct steps_run *r);
/* Rewrites *p in place (text → pieces). */
int steps_split(struct steps_run *r, struct pieces *p);
/* Tokens' texts → pieces of the decoded text. */
int steps_decode(struct steps_run *r, struct pieces *p);

/* tok_normal.c: one normalization step over p → out */
int step_normalize(const struct step *s, struct tok_find *f, const struct pieces *p, struct pieces *out);

/* ---- tok_unicode.c ---- */

bool uni_space(uint32_t cp);   /* White_Space */
bool uni_numeric(uint32_t cp); /* categories Nd, Nl, No */
bool uni_word(uint32_t cp);    /* \w of the field's regex engines: Alphabetic, M, Nd, Pc, Join_Control */
size_t uni_trim_left(const char *s, size_t n);  /* bytes of white space at the start */
size_t uni_trim_right(const char *s, size_t n); /* bytes of white space at the end */
/* Appends bytes, every ill-formed part replaced by U+FFFD ("maximal subpart" practice of the Unicode
 * standard). */
void uni_add_lossy(struct str *out, const char *s, size_t n);
/* The GPT-2 byte alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100... */
void uni_add_bytes(struct str *out, const char *s, size_t n);
/* Back: false, and nothing added, when a code point is not of the alphabet. */
bool uni_add_unbytes(struct str *out, const char *s, size_t n);

/* ---- tok_added.c ---- */

struct added_token {
    char *text;
    size_t n;
    int32_t id;
    bool special, normalized, single_word, lstrip, rstrip;
    bool as_is; /* with `normalized`: looked for in normalized text by its own text, as SentencePiece's
                   user-defined pieces are */
};

/* Trie over token texts: leftmost match, then the longest. */
struct added_trie {
    struct added_node {
        unsigned char byte;
        int32_t child, sibling; /* node indices, -1 = none */
        int32_t token;          /* index into the added tokens, -1 = none */
    } * node;
    size_t n, cap;
    int32_t root[256];
};

void added_trie_init(struct added_trie *t);
void added_trie_free(struct added_trie *t);
void added_trie_put(struct added_trie *t, const char *text, size_t n, int32_t token);
/* Bytes of the longest token at the start of text[0..n), n > 0, and which one it is; 0 if there is none. */
size_t added_trie_match(const struct added_trie *t, const char *text, size_t n, int32_t *token);

struct added_cut {
    size_t at, n;
    int32_t token; /* index, or -1 for plain text */
};

struct added_cuts {
    struct added_cut *v;
    size_t n, cap;
};

void added_split(const struct added_trie *t, const struct added_token *token, const char *s, size_t n,
                 struct added_cuts *out);

/* ---- tok_bpe.c ---- */

struct bpe {
    struct tok_map vocab;
    struct tok_merges merges;
    int32_t unk; /* -1 = none */
    bool fuse_unk, byte_fallback, ignore_merges;
    char *prefix, *suffix;   /* continuing_subword_prefix, end_of_word_suffix; NULL = none */
    int32_t byte_token[256]; /* ids of "<0x00>"…, -1 where absent */
    int32_t low_char[0x800]; /* ids of the characters below U+0800, -1 where absent: saves most look-ups */
    bool cut_at_blank; /* no merge crosses into U+2581 from another character: words can be handled apart */
};

void bpe_free(struct bpe *b);
/* Call when vocabulary and merges are complete. */
void bpe_finish(struct bpe *b);

struct bpe_run; /* per-call scratch and word cache */
struct bpe_run *bpe_run_open(const struct bpe *b);
void bpe_run_close(struct bpe_run *r);

struct ids {
    int32_t *v;
    size_t n, cap;
};

void bpe_encode(struct bpe_run *r, const char *s, size_t n, struct ids *out);

/* ---- tok_unigram.c ---- */

struct unigram {
    const char **piece; /* [n] borrowed from the vocabulary, in the order of the ids */
    uint32_t *n_piece;  /* [n] bytes */
    double *score;      /* [n] */
    int32_t n, unk;     /* unk: -1 = none */
    bool byte_fallback;
    double unk_score;
    int32_t byte_token[256]; /* ids of "<0x00>"…, -1 where absent */
    struct unigram_node {
        int32_t first, token; /* children lie side by side; token: id, -1 = none */
        uint16_t n;
        unsigned char byte;
    } * node; /* [0] is the root; NULL: the model is not a Unigram */
};

void unigram_free(struct unigram *u);
/* Takes the next id. The text is copied into `vocab`; of two equal texts the later id is found by text. */
void unigram_add(struct unigram *u, struct tok_map *vocab, const char *text, size_t n, double score);
/* Call when all pieces are added (at least one). */
void unigram_finish(struct unigram *u, const struct tok_map *vocab);
/* The best path through s[0..n), valid UTF-8. `texts` (may be NULL) gets the token texts. ERR_INPUT where a
 * character is unknown and the model has no unknown token. */
int unigram_encode(const struct unigram *u, const struct tok_map *vocab, const char *s, size_t n,
                   struct ids *out, struct pieces *texts);

/* ---- tok_charsmap.c ---- */

struct charsmap;
/* SentencePiece's compiled character map: u32 size of the trie in bytes, trie, replacement texts. Everything
 * that a look-up can reach is checked here. ERR_INPUT begins with `where`. */
int charsmap_open(struct charsmap **m, const void *bytes, size_t n, const char *where);
void charsmap_close(struct charsmap *m);
/* Appends s[0..n) with every grapheme of up to five bytes, or else every character, replaced as the map says.
 */
void charsmap_apply(const struct charsmap *m, const char *s, size_t n, struct str *out);
/* Bytes that the first character of s[0..n) becomes, at least 1. */
size_t charsmap_first(const struct charsmap *m, const char *s, size_t n);

/* ---- tok_base64.c ---- */

/* Standard alphabet with padding. False, and nothing added, for anything else. */
bool base64_add(struct str *out, const char *text, size_t n);

/* ---- the tokenizer ---- */

struct tok {
    struct bpe bpe; /* of a Unigram only the vocabulary */
    struct unigram unigram;
    struct added_trie world; /* RWKV's World vocabulary, by bytes; empty: another kind of model */
    const char **text; /* [n_vocab] borrowed from vocab or added tokens; NULL for gaps */
    uint32_t *n_text;
    bool *special;
    int32_t n_vocab;
    struct added_token *added;
    size_t n_added, cap_added;
    struct tok_map added_map; /* text → index into added */
    struct added_trie trie, trie_normalized;
    struct steps normalizer, pre, decoder;
    bool has_decoder;
    struct ids before, after; /* post-processor: special ids around the text's own */
    bool clean_up;
    int32_t bos, eos;
    int32_t role[TOK_N_ROLE]; /* as the configuration names them, -1 = not named */
    struct ids stop;
};

struct tok *tok_new(void);
/* Adds a token text with its flags; the id is the vocabulary's, or the next free one. `want` (-1 = any) is
 * the id the file states. Returns the id. */
int tok_add(struct tok *t, const struct added_token *a, int32_t want, int32_t *id);
/* Builds tables that depend on everything read so far. */
int tok_finish(struct tok *t);
/* Merges as the field derives them from SentencePiece scores. token[n] NUL-terminated. */
int tok_merges_from_scores(struct bpe *b, const char *const *token, const float *score, int32_t n);

/* tok_json.c, tok_config.c */
int tok_read_json(struct tok *t, const char *path);
int tok_read_config(struct tok *t, const char *dir);
extern const char *const tok_role_key[TOK_N_ROLE]; /* "bos_token", … */
/* tok_extra.c: adds the tokens that tokenizer_config.json, special_tokens_map.json and added_tokens.json name
 * beside tokenizer.json. Before tok_finish. */
int tok_read_extra(struct tok *t, const char *dir);
/* "legacy" of tokenizer_config.json, which decides how a SentencePiece model file is used; unchanged where
 * absent. */
int tok_config_legacy(const char *dir, bool *legacy);
/* tok_gguf.c: vocabulary with SentencePiece scores */
int tok_read_scores(struct tok *t, const struct tok_gguf *g, bool legacy);
#define TOK_WORLD_FILE "rwkv_vocab_v20230424.txt"
/* tok_world.c: a vocabulary of RWKV's World models, and its longest matches (the trie holds ids). */
int tok_read_world(struct tok *t, const char *path);
/* Appends the text of an answer as PIPELINE.generate of the package `rwkv` shows it (utils.py): tokens wait
 * until they are whole characters together; what never becomes so, the end (id 0) or U+FFFD itself keeps all
 * that follows. `out` is empty. */
void world_answer(const struct tok *t, const int32_t *ids, int64_t n, struct str *out);
void world_encode(const struct added_trie *trie, const char *s, size_t n, struct ids *out);
/* tok_spm.c: a SentencePiece model file (BPE) */
int tok_read_spm(struct tok *t, const char *path, bool legacy);
/* The steps that SentencePiece-style (Llama-2) tokenizers have in the field's files. `legacy` puts the blank
 * before every text between special tokens, otherwise only before the first. */
void tok_set_llama(struct tok *t, bool add_space_prefix, bool legacy);

/* Text of the pre-tokenizer patterns that GGUF files only name. */
extern const char *const TOK_PATTERN_GPT2;
extern const char *const TOK_PATTERN_LLAMA3;
extern const char *const TOK_PATTERN_QWEN2;

#endif
