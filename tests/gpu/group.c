/* A group of one rank on the CUDA backend: NCCL is found, starts, and its broadcast leaves the bytes as they
 * are. What one GPU can say about kernels/comm_nccl.cu. A host without NCCL is an error if the argument
 * "must" is given. */
#include "base/err.h"
#include "kernels/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int alone(struct comm *c, const void *mine, void *all, size_t bytes)
{
    (void)c;
    memcpy(all, mine, bytes);
    return 0;
}

static int broadcast(struct ops *o, struct comm *c)
{
    const size_t n = (3U << 20) + 5;
    unsigned char *host = malloc(n), *dev = o->alloc(o, n, MEM_WEIGHTS, PLACE_DEVICE);
    if (!host || !dev)
        return err_set(ERR_NOMEM, "no memory");
    for (size_t i = 0; i < n; i++)
        host[i] = (unsigned char)(i * 7 + i / 251);
    o->copy(o, dev, host, n);
    TRY(c->broadcast(c, dev, n, 0));
    memset(host, 0, n);
    o->copy(o, host, dev, n);
    TRY(o->sync(o));
    for (size_t i = 0; i < n; i++)
        if (host[i] != (unsigned char)(i * 7 + i / 251))
            return err_set(ERR_INTERNAL, "byte %zu is another after the broadcast", i);
    o->free(o, dev);
    free(host);
    return 0;
}

static int run(struct ops *o, bool must)
{
    struct comm c = {.n_rank = 1, .s_wait = 60, .ops = o, .exchange = alone};
    int rc = o->join ? o->join(o, &c) : err_set(ERR_DEVICE, "this module was built without nccl.h");
    if (rc < 0 && !must)
        printf("nothing checked: %s\n", err_text());
    if (rc < 0)
        return must ? rc : 0;
    rc = broadcast(o, &c);
    c.wire_close(&c);
    if (rc == 0)
        printf("a group of one on %s (%s): NCCL's broadcast is the identity\n", o->device, o->gpu);
    return rc;
}

int main(int argc, char **argv)
{
    struct ops *o;
    int rc = ops_open(&o, "cuda", NULL);
    if (rc == 0)
        rc = run(o, argc > 1 && !strcmp(argv[1], "must"));
    if (rc < 0) {
        printf("%s\n", err_text());
        return 1;
    }
    ops_close(o);
    return 0;
}
