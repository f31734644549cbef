/* Writes the seeds of formats that the program itself writes, as they are now: seed DIR makes DIR/record,
 * DIR/journal and messages between ranks, DIR/wire_result and DIR/wire_work. */
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

static void put_messages(const char *dir, const struct str *small, const struct str *big)
{
    struct str s = {0};
    struct wire_msg m = {.kind = MSG_RESULT, .job = 3, .n_small = small->n, .n_big = big->n};
    wire_put(&s, &m, small->data, big->data);
    put(dir, "wire_result", &s);
    str_clear(&s);
    m = (struct wire_msg){.kind = MSG_WORK, .job = 1, .work = {.n = 2, .unit = {4, 5}, .s_cost = 1}};
    wire_put(&s, &m, NULL, NULL);
    put(dir, "wire_work", &s);
    str_free(&s);
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
