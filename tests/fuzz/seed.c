/* Writes the seeds of formats that the program itself writes, as they are now: seed DIR makes DIR/record,
 * DIR/journal and messages between ranks, DIR/wire_N for every kind N. */
#include "../records.h"

#include "base/str.h"
#include "sweep/wire.h"

#include <stdio.h>
#include <string.h>

#ifdef KVS_FUZZ_JOURNAL
#include "hdf5io/journal.h"

#include <fcntl.h>
#include <unistd.h>

/* Two entries, as journal_add writes them. */
static void put_journal(const char *dir, const struct str *small, const struct str *big)
{
    char path[512], beside[520];
    snprintf(path, sizeof path, "%s/journal", dir);
    snprintf(beside, sizeof beside, "%s.big", path);
    struct journal j = {.path = path,
                        .fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600),
                        .fd_big = open(beside, O_RDWR | O_CREAT | O_TRUNC, 0600)};
    struct journal_head head;
    uint64_t at;
    for (int i = 0; i < 2; i++)
        journal_add(&j, JOURNAL_RECORDS, small->data, small->n, big->data, big->n, &head, &at);
    journal_commit(&j);
    close(j.fd);
    close(j.fd_big);
    str_free(&j.buf);
}
#endif

static void put(const char *dir, const char *name, const struct str *s)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (f) {
        fwrite(s->data, 1, s->n, f);
        fclose(f);
    }
}

/* One of every kind, DIR/wire_0 and so on. */
static void put_messages(const char *dir, const struct str *small, const struct str *big)
{
    static const char text[] = "unit 7: out of memory";
    for (int32_t kind = 0; kind < MSG_N; kind++) {
        struct str s = {0};
        char name[16];
        struct wire_msg m = {.kind = kind, .job = 3, .loaded = 1, .s_step = 0.5, .weights = {5, 6}};
        if (kind == MSG_RESULT)
            m.n_small = small->n, m.n_big = big->n;
        else if (kind == MSG_ERROR)
            m.n_small = sizeof text - 1, m.rc = -1;
        else if (kind == MSG_WORK)
            m.work = (struct job){.n = 2, .unit = {4, 5}, .s_cost = 1};
        wire_put(&s, &m, kind == MSG_ERROR ? text : small->data, big->data);
        snprintf(name, sizeof name, "wire_%d", (int)kind);
        put(dir, name, &s);
        str_free(&s);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct rng g = {7};
    struct str small = {0}, big = {0}, all = {0};
    for (uint64_t i = 0; i < 3; i++) {
        struct record r;
        records_random(&r, &g, i);
        record_pack(&r, 1, &small, &big);
        record_free(&r);
    }
    const uint32_t n = (uint32_t)small.n;
    str_addn(&all, (const char *)&n, sizeof n);
    str_addn(&all, small.data, small.n);
    str_addn(&all, big.data, big.n);
    put(argv[1], "record", &all);
#ifdef KVS_FUZZ_JOURNAL
    put_journal(argv[1], &small, &big);
#endif
    put_messages(argv[1], &small, &big);
    str_free(&small);
    str_free(&big);
    str_free(&all);
    return 0;
}
