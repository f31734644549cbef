/* Background text of the needle: the files of a folder, or essays that the program writes itself. */
#ifndef KVS_TASK_HAYSTACK_H
#define KVS_TASK_HAYSTACK_H

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

/* One file, or one synthetic essay. A word is a run of non-white-space characters (Unicode white space, as
 * Python has it). */
struct piece {
    char *text; /* owned UTF-8; line ends CR LF and CR are read as LF, as Python's text mode does */
    size_t n_bytes;
    int64_t n_words;
};

struct haystack {
    struct piece *pieces; /* [n]; of the synthetic corpus those written so far */
    int n, cap;
    bool synthetic;
    uint64_t seed;
};

/* `source` is "synthetic" or a folder, whose regular files (names not starting with a dot) are taken sorted
 * by name. ERR_INPUT: no folder, no words in it, a file that is not UTF-8. */
int haystack_open(struct haystack *h, const char *source, uint64_t seed);
void haystack_close(struct haystack *h);

/* The first `n_words` words of the pieces joined without separator, taken in turn (and again from the first)
 * until their word counts add up to n_words; stripped. Where a piece ends without white space its last word
 * fuses with the next piece's first, so the result may hold fewer words. Replaces `out`; returns the words it
 * holds. Spec 4.2. */
int64_t haystack_background(struct haystack *h, int64_t n_words, struct str *out);

/* Words of a text, and the byte offset at which word `i` starts (n_bytes if there are not as many). */
int64_t words_count(const char *text, size_t n_bytes);
size_t words_offset(const char *text, size_t n_bytes, int64_t i);
/* Moves both ends of text[*from..*to) over white space. */
void words_strip(const char *text, size_t *from, size_t *to);

/* Essay `index` of the synthetic corpus: a few hundred words of plain English about everyday things, in
 * paragraphs, without digits, ending in a blank line. The same bytes on every machine. Owned text. */
char *synthetic_essay(uint64_t seed, uint64_t index);

#endif
