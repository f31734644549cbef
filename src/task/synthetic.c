/* Essays from a small grammar. The text must look like ordinary prose to a language model and must not draw
 * it into copying loops, so every list is dealt like a shuffled deck of cards: no entry returns in an essay
 * before all others of its list were used. */
#include "base/mem.h"
#include "base/str.h"
#include "task/haystack.h"
#include "task/synthetic_words.h"

#include <assert.h>
#include <string.h>

enum { MAX_DECK = 64 };

/* splitmix64 (Steele, Lea, Flood 2014): the same sequence everywhere. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

static unsigned below(uint64_t *state, unsigned n)
{
    return (unsigned)(((next_random(state) >> 32) * n) >> 32);
}

struct deck {
    const char *const *list;
    unsigned n, at;
    unsigned char order[MAX_DECK];
};

static void shuffle(struct deck *d, uint64_t *rng)
{
    for (unsigned i = d->n - 1; i > 0; i--) {
        unsigned j = below(rng, i + 1);
        unsigned char t = d->order[i];
        d->order[i] = d->order[j];
        d->order[j] = t;
    }
    d->at = 0;
}

static void deck_init(struct deck *d, const char *const *list, size_t n, uint64_t *rng)
{
    assert(n >= 2 && n <= MAX_DECK);
    d->list = list;
    d->n = (unsigned)n;
    for (unsigned i = 0; i < d->n; i++)
        d->order[i] = (unsigned char)i;
    shuffle(d, rng);
}

static const char *deal(struct deck *d, uint64_t *rng)
{
    if (d->at == d->n)
        shuffle(d, rng);
    return d->list[d->order[d->at++]];
}

enum deck_name {
    SUBJECTS,
    PLACES,
    PEOPLE,
    THINGS,
    TIMES,
    DEEDS,
    ACTS,
    DOINGS,
    QUALITIES,
    VIRTUES,
    VIEWS,
    REASONS,
    WEATHERS,
    LINKS,
    PATTERNS,
    DONE,
    OPENINGS,
    CLOSINGS,
    N_DECKS
};

struct writer {
    uint64_t rng;
    struct deck decks[N_DECKS];
    const char *subject, *place, *cast[4], *props[5];
    unsigned prop;
    struct str out;
};

static const char *draw(struct writer *w, enum deck_name name)
{
    return deal(&w->decks[name], &w->rng);
}

static void writer_init(struct writer *w, uint64_t seed, uint64_t index)
{
    *w = (struct writer){.rng = seed};
    w->rng = next_random(&w->rng) ^ (index * 0xD1342543DE82EF95U);
#define DECK(name, list) deck_init(&w->decks[name], list, sizeof list / sizeof *list, &w->rng)
    DECK(SUBJECTS, subjects), DECK(PLACES, places), DECK(PEOPLE, people), DECK(THINGS, things),
        DECK(TIMES, times);
    DECK(DEEDS, deeds), DECK(ACTS, acts), DECK(DOINGS, doings), DECK(QUALITIES, qualities),
        DECK(VIRTUES, virtues);
    DECK(VIEWS, views), DECK(REASONS, reasons), DECK(WEATHERS, weathers), DECK(LINKS, links),
        DECK(PATTERNS, patterns);
    DECK(DONE, done), DECK(OPENINGS, openings), DECK(CLOSINGS, closings);
#undef DECK
    w->subject = draw(w, SUBJECTS);
    w->place = draw(w, PLACES);
    for (int i = 0; i < 4; i++)
        w->cast[i] = draw(w, PEOPLE);
    for (int i = 0; i < 5; i++)
        w->props[i] = draw(w, THINGS);
}

/* What a letter of a pattern stands for; `first` and `second` are the people of this sentence. */
static const char *slot(struct writer *w, char letter, const char *first, const char *second)
{
    switch (letter) {
    case 'w':
        return first;
    case 'u':
        return second;
    case 'k':
        return w->subject;
    case 'l': /* half of the time somewhere else than the essay's own place */
        return below(&w->rng, 2) ? w->place : draw(w, PLACES);
    case 'o':
        return w->props[w->prop++ % 5];
    case 'x':
        return draw(w, THINGS);
    case 't':
        return draw(w, TIMES);
    case 'd':
        return draw(w, DEEDS);
    case 'a':
        return draw(w, ACTS);
    case 'g':
    case 'j':
        return draw(w, DOINGS);
    case 'q':
        return draw(w, QUALITIES);
    case 'n':
    case 'm':
        return draw(w, VIRTUES);
    case 'v':
        return draw(w, VIEWS);
    case 'r':
        return draw(w, REASONS);
    case 'h':
        return draw(w, WEATHERS);
    case 'c':
        return draw(w, LINKS);
    case 'f':
        return draw(w, DONE);
    default:
        assert(false && "unknown letter in a pattern");
        return "";
    }
}

static void sentence(struct writer *w, const char *pattern)
{
    unsigned i = below(&w->rng, 4), j = (i + 1 + below(&w->rng, 3)) % 4;
    size_t start = w->out.n;
    for (const char *p = pattern; *p; p++) {
        if (*p == '$')
            str_add(&w->out, slot(w, *++p, w->cast[i], w->cast[j]));
        else
            str_addc(&w->out, *p);
    }
    char *s = w->out.data + start;
    s += *s == '"';
    if (*s >= 'a' && *s <= 'z')
        *s = (char)(*s - 'a' + 'A');
    str_addc(&w->out, ' ');
}

static void end_paragraph(struct writer *w)
{
    w->out.data[--w->out.n] = '\0'; /* the blank after the last sentence */
    str_add(&w->out, "\n\n");
}

char *synthetic_essay(uint64_t seed, uint64_t index)
{
    struct writer w;
    writer_init(&w, seed, index);
    unsigned n_paragraphs = 4 + below(&w.rng, 4);
    for (unsigned p = 0; p < n_paragraphs; p++) {
        unsigned n_sentences = 4 + below(&w.rng, 5);
        if (p == 0)
            sentence(&w, draw(&w, OPENINGS));
        for (unsigned s = 0; s < n_sentences; s++)
            sentence(&w, draw(&w, PATTERNS));
        if (p + 1 == n_paragraphs)
            sentence(&w, draw(&w, CLOSINGS));
        end_paragraph(&w);
    }
    return w.out.data;
}
