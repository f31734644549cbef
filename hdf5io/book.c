#include "hdf5io/book_int.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N(a)            (int)(sizeof(a) / sizeof *(a))
#define M(type, member) offsetof(struct type, member)

void book_free(struct book *b)
{
    for (size_t i = 0; i < b->n_text; i++)
        free(b->text[i]);
    free(b->text);
    free(b->setting);
    free(b->task);
    free(b->example);
    *b = (struct book){0};
}

const char *book_keep(struct book *b, const char *text, size_t n)
{
    char *copy = mem_strndup(text, n);
    *MEM_PUSH(b->text, b->n_text, b->cap_text) = copy;
    return copy;
}

/* Replaces the text members of a row by copies that the book owns. */
static void own(struct book *b, void *row, const size_t *offset, int n)
{
    for (int i = 0; i < n; i++) {
        const char *p = text_get(row, offset[i]);
        text_set(row, offset[i], book_keep(b, p, strlen(p)));
    }
}

static void own_fields(struct book *b, void *row, const struct field *f, int n)
{
    for (int i = 0; i < n; i++)
        if (f[i].type == FIELD_TEXT)
            own(b, row, &f[i].offset, 1);
}

void book_add_setting(struct book *b, const struct sink_setting *s)
{
    struct sink_setting *d = MEM_PUSH(b->setting, b->n_setting, b->cap_setting);
    *d = *s;
    own_fields(b, d, book_setting_fields.f, book_setting_fields.n);
}

void book_add_task(struct book *b, const struct sink_task *s)
{
    struct sink_task *d = MEM_PUSH(b->task, b->n_task, b->cap_task);
    *d = *s;
    own_fields(b, d, book_task_fields.f, book_task_fields.n);
}

static void add_example(struct book *b, const struct sink_example *s, int32_t task)
{
    struct sink_example *d = MEM_PUSH(b->example, b->n_example, b->cap_example);
    *d = *s;
    d->task = task;
    own(b, d, book_example_text.at, book_example_text.n);
}

static void take_run(struct book *b, const struct sink_run *run, const char *created)
{
    b->run = *run;
    own(b, &b->run, book_run_text.at, book_run_text.n);
    b->created = book_keep(b, created, strlen(created));
}

/* ---- where units were computed ---- */
static const size_t origin_text[] = {
    M(sink_run, kvsweep_version), M(sink_run, git_commit), M(sink_run, host),
    M(sink_run, device),          M(sink_run, isa),        M(sink_run, driver),
    M(sink_run, libraries)};

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void split_list(const char *list, char ***item, int *n, int *cap)
{
    while (*list) {
        const char *end = strstr(list, "; ");
        size_t len = end ? (size_t)(end - list) : strlen(list);
        if (len)
            *MEM_PUSH(*item, *n, *cap) = mem_strndup(list, len);
        list += len + (end ? 2 : 0);
    }
}

/* The items of both lists, each once. */
static const char *unite(struct book *b, const char *x, const char *y)
{
    char **item = NULL;
    int n = 0, cap = 0;
    struct str all = {0};
    split_list(x, &item, &n, &cap);
    split_list(y, &item, &n, &cap);
    if (n)
        qsort(item, (size_t)n, sizeof *item, by_bytes);
    for (int i = 0; i < n; i++)
        if (!i || strcmp(item[i], item[i - 1]) != 0)
            str_printf(&all, "%s%s", all.n ? "; " : "", item[i]);
    const char *text = book_keep(b, str_c(&all), all.n);
    for (int i = 0; i < n; i++)
        free(item[i]);
    free(item);
    str_free(&all);
    return text;
}

void book_origin(struct book *b, const struct sink_run *from, bool together)
{
    for (int i = 0; i < N(origin_text); i++) {
        const char *have = together ? text_get(&b->run, origin_text[i]) : "";
        text_set(&b->run, origin_text[i], unite(b, have, text_get(from, origin_text[i])));
    }
}

void book_from_plan(struct book *b, const struct sink_plan *plan)
{
    *b = (struct book){.version = SCHEMA_VERSION, .n_unit = plan->n_unit};
    char now[32];
    time_t t = time(NULL);
    struct tm tm;
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
    take_run(b, &plan->run, now);
    for (int i = 0; i < plan->n_setting; i++)
        book_add_setting(b, &plan->setting[i]);
    for (int i = 0; i < plan->n_task; i++)
        book_add_task(b, &plan->task[i]);
    for (int64_t i = 0; i < plan->n_example; i++)
        add_example(b, &plan->example[i], plan->example[i].task);
    book_sort(b);
}

/* ---- joining ---- */
static bool same_texts(const void *a, const void *b, const size_t *offset, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(text_get(a, offset[i]), text_get(b, offset[i])) != 0)
            return false;
    return true;
}

static bool same_real(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static bool same_field(const struct field *f, const void *a, const void *b)
{
    double x, y;
    const char *p = (const char *)a + f->offset, *q = (const char *)b + f->offset;
    if (f->type == FIELD_TEXT)
        return !strcmp(text_get(a, f->offset), text_get(b, f->offset));
    if (f->type != FIELD_F64)
        return !memcmp(p, q, f->bytes);
    memcpy(&x, p, sizeof x);
    memcpy(&y, q, sizeof y);
    return same_real(x, y);
}

/* Whether two rows agree in all that tells rows apart. */
static bool same_identity(const void *a, const void *b, const struct field *f, int n)
{
    for (int i = 0; i < n; i++)
        if (f[i].role == FIELD_ID && !same_field(&f[i], a, b))
            return false;
    return true;
}

const char *book_template_texts(const struct sink_setting *s)
{
    const char *texts = s->template ? strchr(s->template, '{') : NULL;
    return texts ? texts : s->template ? s->template : "";
}

static bool same_setting(const struct sink_setting *a, const struct sink_setting *b)
{
    return !strcmp(book_template_texts(a), book_template_texts(b)) &&
           same_identity(a, b, book_setting_fields.f, book_setting_fields.n);
}

bool book_same_setting(const struct sink_setting *a, const struct sink_setting *b)
{
    size_t n = book_plain_id(a);
    return book_plain_id(b) == n && !memcmp(a->id, b->id, n) && same_setting(a, b);
}

bool book_same_base(const struct sink_setting *a, const struct sink_setting *b)
{
    struct sink_setting x = *a;
    x.method = b->method;
    x.params = b->params;
    x.prompt_method = b->prompt_method;
    x.overrides = b->overrides;
    x.nominal_ratio = b->nominal_ratio;
    return same_setting(&x, b);
}

static int32_t find_setting(const struct book *b, const struct sink_setting *s)
{
    for (int i = 0; i < b->n_setting; i++)
        if (book_same_setting(&b->setting[i], s))
            return i;
    return -1;
}

/* The number of examples may differ: a longer `limit` adds examples to the same task. */
static int32_t find_task(const struct book *b, const struct sink_task *t)
{
    for (int i = 0; i < b->n_task; i++)
        if (same_identity(&b->task[i], t, book_task_fields.f, book_task_fields.n))
            return i;
    return -1;
}

static int by_task(const void *a, const void *b)
{
    const struct sink_example *x = a, *y = b;
    if (x->task != y->task)
        return x->task < y->task ? -1 : 1;
    return x->example < y->example ? -1 : x->example > y->example;
}

void book_sort(struct book *b)
{
    if (b->n_example)
        qsort(b->example, (size_t)b->n_example, sizeof *b->example, by_task);
}

const struct sink_example *book_example(const struct book *b, int32_t task, int32_t example)
{
    struct sink_example key = {.task = task, .example = example};
    return b->n_example ? bsearch(&key, b->example, (size_t)b->n_example, sizeof key, by_task) : NULL;
}

/* dst stays sorted up to its first n_sorted rows, which are searched; rows of src differ among themselves. */
static int join_examples(struct book *dst, const struct book *src, const int32_t *task_map)
{
    struct book sorted = {.example = dst->example, .n_example = dst->n_example};
    for (int64_t i = 0; i < src->n_example; i++) {
        const struct sink_example *e = &src->example[i];
        int32_t task = task_map[e->task];
        sorted.example = dst->example; /* it may have moved */
        const struct sink_example *have = book_example(&sorted, task, e->example);
        if (!have)
            add_example(dst, e, task);
        else if (!same_texts(have, e, book_example_text.at, book_example_text.n))
            return err_set(ERR_INPUT, "example %d of task %s is \"%s\" in one run and \"%s\" in another",
                           e->example, dst->task[task].id, have->id, e->id);
    }
    book_sort(dst);
    return 0;
}

/* The joined rows have the logits of whichever run kept more. */
static void join_logits(struct book *dst, const struct sink_run *src)
{
    struct sink_run *run = &dst->run;
    int more = src->logits_first != run->logits_first ? src->logits_first - run->logits_first
               : src->topk != run->topk               ? src->topk - run->topk
                                                      : strcmp(src->plan_text, run->plan_text);
    if (more > 0)
        run->plan_text = book_keep(dst, src->plan_text, strlen(src->plan_text));
    run->logits_first = src->logits_first > run->logits_first ? src->logits_first : run->logits_first;
    run->topk = src->topk > run->topk ? src->topk : run->topk;
}

/* What a row says beside its identity: what is known is kept. Where a setting could run once, it can. */
static void join_notes(struct book *b, struct sink_setting *dst, const struct sink_setting *src)
{
    const char *refused = *src->refused ? dst->refused : "";
    for (int i = 0; i < book_setting_fields.n; i++) {
        const struct field *f = &book_setting_fields.f[i];
        if (f->role != FIELD_NOTE || f->type != FIELD_TEXT || *text_get(dst, f->offset))
            continue;
        text_set(dst, f->offset, text_get(src, f->offset));
        own(b, dst, &f->offset, 1);
    }
    dst->refused = refused;
}

int book_weights(struct book *b, const char *model_hash, const char *xxh3)
{
    for (int i = 0; i < b->n_setting && *xxh3; i++) {
        struct sink_setting *s = &b->setting[i];
        if (strcmp(s->model_hash, model_hash) != 0 || !strcmp(s->weights_xxh3, xxh3))
            continue;
        if (*s->weights_xxh3)
            return err_set(ERR_INPUT,
                           "model %s has other weights than those recorded under the same model hash %s "
                           "(weights_xxh3 %s, recorded %s): write another results file for it",
                           s->model, model_hash, xxh3, s->weights_xxh3);
        s->weights_xxh3 = book_keep(b, xxh3, strlen(xxh3));
    }
    return 0;
}

int book_join(struct book *dst, const struct book *src, int32_t **setting_map, int32_t **task_map)
{
    *setting_map = mem_alloc((size_t)src->n_setting, sizeof **setting_map);
    *task_map = mem_alloc((size_t)src->n_task, sizeof **task_map);
    if (!dst->created) {
        dst->version = src->version;
        take_run(dst, &src->run, src->created);
        dst->n_unit = src->n_unit;
    }
    if (src->run.plan_text)
        join_logits(dst, &src->run);
    if (strcmp(src->created, dst->created) < 0)
        dst->created = book_keep(dst, src->created, strlen(src->created));
    if (src->version != dst->version)
        return err_set(
            ERR_INPUT,
            "results of schema versions %d and %d do not go together: their unit ids mean different things",
            src->version, dst->version);
    int n_before = dst->n_setting;
    for (int i = 0; i < src->n_setting; i++) {
        int32_t at = find_setting(dst, &src->setting[i]);
        if (at < 0) {
            book_add_setting(dst, &src->setting[i]);
            at = dst->n_setting - 1;
        }
        join_notes(dst, &dst->setting[at], &src->setting[i]);
        TRY(book_weights(dst, src->setting[i].model_hash,
                         text_get(&src->setting[i], M(sink_setting, weights_xxh3))));
        (*setting_map)[i] = at;
    }
    if (dst->n_setting > n_before)
        book_name(dst);
    for (int i = 0; i < src->n_task; i++) {
        int32_t at = find_task(dst, &src->task[i]);
        if (at < 0) {
            book_add_task(dst, &src->task[i]);
            at = dst->n_task - 1;
        }
        if (dst->task[at].n_examples < src->task[i].n_examples)
            dst->task[at].n_examples = src->task[i].n_examples;
        (*task_map)[i] = at;
    }
    return join_examples(dst, src, *task_map);
}

int book_same_plan(const struct book *old, const struct sink_run *now, const char *where)
{
    const char *a = old->run.plan_text, *b = now->plan_text ? now->plan_text : "";
    while (*a || *b) {
        size_t na = strcspn(a, "\n"), nb = strcspn(b, "\n");
        if (na != nb || memcmp(a, b, na) != 0)
            return err_set(ERR_INPUT,
                           "%s belongs to another plan (\"%.*s\" there, \"%.*s\" now): choose another output",
                           where, (int)(na < 300 ? na : 300), a, (int)(nb < 300 ? nb : 300), b);
        a += na + (a[na] == '\n');
        b += nb + (b[nb] == '\n');
    }
    if (old->run.topk != now->topk && old->run.topk > 0 && now->topk > 0)
        return err_set(ERR_INPUT, "%s belongs to another plan: logits.topk is %d there and %d now", where,
                       old->run.topk, now->topk);
    return 0;
}
