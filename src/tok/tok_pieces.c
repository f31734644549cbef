#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/tok_int.h"

void pieces_free(struct pieces *p)
{
    str_free(&p->text);
    free(p->span);
    *p = (struct pieces){0};
}

void pieces_clear(struct pieces *p)
{
    str_clear(&p->text);
    p->n = 0;
}

void pieces_cut(struct pieces *p, size_t at, size_t n)
{
    if (n)
        *MEM_PUSH(p->span, p->n, p->cap) = (struct span){at, n};
}

void pieces_add(struct pieces *p, const char *bytes, size_t n)
{
    *MEM_PUSH(p->span, p->n, p->cap) = (struct span){p->text.n, n};
    str_addn(&p->text, bytes, n);
}

void pieces_swap(struct pieces *a, struct pieces *b)
{
    struct pieces t = *a;
    *a = *b;
    *b = t;
}

struct step *steps_add(struct steps *s, enum step_kind kind)
{
    struct step *step = MEM_PUSH(s->v, s->n, s->cap);
    *step = (struct step){.kind = kind};
    return step;
}

void steps_free(struct steps *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->v[i].pattern);
        free(s->v[i].content);
        tok_regex_close(s->v[i].regex);
        charsmap_close(s->v[i].charsmap);
    }
    free(s->v);
    *s = (struct steps){0};
}

void step_set_pattern(struct step *s, const char *bytes, size_t n)
{
    s->pattern = mem_strndup(bytes, n);
    s->n_pattern = n;
}

void step_set_content(struct step *s, const char *bytes, size_t n)
{
    s->content = mem_strndup(bytes, n);
    s->n_content = n;
}

void steps_run_open(struct steps_run *r, const struct steps *s)
{
    *r = (struct steps_run){.steps = s};
    r->find = mem_alloc(s->n + 1, sizeof(struct tok_find *));
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i].regex)
            r->find[i] = tok_find_open(s->v[i].regex);
}

void steps_run_close(struct steps_run *r)
{
    for (size_t i = 0; r->find && i < r->steps->n; i++)
        tok_find_close(r->find[i]);
    free(r->find);
    pieces_free(&r->tmp);
    *r = (struct steps_run){0};
}
