// Launches wait in a queue until somebody looks: until sync, a copy that the host takes part in, a library
// call. So the arguments that many kernels read from memory travel in one copy, and a run of launches that
// was seen before goes as one CUDA graph. A graph is known by its kernels in their order. What differs from
// its last run, grids that grow with the context or scalar arguments, is put into its nodes; arguments in
// memory lie where they lay (cuda_args begins at the same place after every sync), so a decode step usually
// changes none. Methods and models know nothing of this.
//
// Inside a graph every kernel may begin when all blocks of the one ahead of it run (programmatic dependent
// launch, compute capability 9.0); grid_begin in the kernel waits for its end. A kernel without it would
// break the chain: the one behind it could then overtake the one ahead. So may_begin_early (device.cu) asks
// which code the GPU runs.
#include "kernels/cuda/cuda.h"

#if defined CUDART_VERSION && CUDART_VERSION < 13000 // the same function by its older name
#define cudaGraphAddDependencies cudaGraphAddDependencies_v2
#endif
#include <string.h>
#include <vector>

namespace
{
const size_t GRAPH_LEAST = 16; // launches: fewer gain nothing
const size_t GRAPH_MOST = 12;  // graphs that are kept
const size_t QUEUE_MOST = 2048;
const size_t ARG_SLOT = 16;
const int GRAPH_TRIES = 3; // failures after which launches go one by one from then on

struct launch {
    const void *kernel;
    const char *name;
    dim3 grid, block;
    size_t shared, at, bytes; // its arguments among the bytes of the list
    uint32_t n_arg;
};

// Launches with their arguments: every argument begins at a multiple of ARG_SLOT, `slot` says where.
struct list {
    std::vector<launch> launches;
    std::vector<char> bytes;
    std::vector<uint32_t> slot; // of all launches, one after the other
    std::vector<size_t> first;  // of a launch: its first slot
};

struct graph {
    uint64_t key, used;
    list as; // what its nodes hold
    cudaGraph_t graph;
    cudaGraphExec_t exec; // NULL: seen once
    std::vector<cudaGraphNode_t> node;
};
} // namespace

struct queue {
    list now;
    std::vector<graph> graphs;
    uint64_t clock;
    int failures; // of graphs
    bool running; // a flush is under way
};

struct queue *queue_open(void)
{
    return new queue();
}

static void graph_drop(graph *g)
{
    if (g->exec)
        (void)cudaGraphExecDestroy(g->exec);
    if (g->graph)
        (void)cudaGraphDestroy(g->graph);
    g->exec = NULL;
    g->graph = NULL;
}

void queue_close(struct queue *q)
{
    if (!q)
        return;
    for (graph &g : q->graphs)
        graph_drop(&g);
    delete q;
}

void queue_add(struct cuda *c, const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared)
{
    list *l = &c->queue->now;
    l->launches.push_back(launch{kernel, name, grid, block, shared, l->bytes.size(), 0, 0});
    l->first.push_back(l->slot.size());
}

void queue_arg(struct cuda *c, const void *arg, size_t bytes)
{
    list *l = &c->queue->now;
    launch *x = &l->launches.back();
    size_t at = l->bytes.size(), room = (bytes + ARG_SLOT - 1) / ARG_SLOT * ARG_SLOT;
    l->bytes.resize(at + room); // the padding is zero, so that bytes can be compared
    memcpy(&l->bytes[at], arg, bytes);
    l->slot.push_back((uint32_t)(at - x->at));
    x->bytes += room;
    x->n_arg++;
}

void queue_done(struct cuda *c)
{
    c->kernel = c->queue->now.launches.back().name;
    if (c->wait || c->queue->now.launches.size() >= QUEUE_MOST)
        cuda_flush(c);
}

/* ------------------------------------------------------------------ graphs */

const uint32_t ARGS_MOST = 32;

// Addresses of a launch's arguments, as the runtime wants them.
static void addresses(list *l, size_t i, void *at[ARGS_MOST])
{
    launch *x = &l->launches[i];
    for (uint32_t k = 0; k < x->n_arg && k < ARGS_MOST; k++)
        at[k] = &l->bytes[x->at + l->slot[l->first[i] + k]];
}

static void node_params(list *l, size_t i, void **args, struct cudaKernelNodeParams *p)
{
    launch *x = &l->launches[i];
    addresses(l, i, args);
    *p = cudaKernelNodeParams();
    p->func = (void *)(uintptr_t)x->kernel;
    p->gridDim = x->grid;
    p->blockDim = x->block;
    p->sharedMemBytes = (unsigned)x->shared;
    p->kernelParams = args;
}

static uint64_t key_of(const list *l)
{
    uint64_t h = 0xcbf29ce484222325U;
    for (const launch &x : l->launches)
        h = (h ^ (uint64_t)(uintptr_t)x.kernel) * 0x100000001b3U;
    return h;
}

static bool same_kernels(const list *a, const list *b)
{
    bool same = a->launches.size() == b->launches.size();
    for (size_t i = 0; same && i < a->launches.size(); i++)
        same = a->launches[i].kernel == b->launches[i].kernel;
    return same;
}

static bool equal(dim3 a, dim3 b)
{
    return a.x == b.x && a.y == b.y && a.z == b.z;
}

static bool same_launch(const list *a, const list *b, size_t i)
{
    const launch *x = &a->launches[i], *y = &b->launches[i];
    return equal(x->grid, y->grid) && equal(x->block, y->block) && x->shared == y->shared &&
           x->bytes == y->bytes && memcmp(a->bytes.data() + x->at, b->bytes.data() + y->at, x->bytes) == 0;
}

// A chain: every node follows the one before it.
static cudaError_t graph_chain(graph *g, bool early)
{
    void *args[ARGS_MOST];
    struct cudaKernelNodeParams p;
    cudaGraphEdgeData edge = {};
    if (early) {
        edge.from_port = cudaGraphKernelNodePortProgrammatic;
        edge.type = cudaGraphDependencyTypeProgrammatic;
    }
    cudaError_t rc = cudaGraphCreate(&g->graph, 0);
    g->node.resize(g->as.launches.size());
    for (size_t i = 0; rc == cudaSuccess && i < g->node.size(); i++) {
        node_params(&g->as, i, args, &p);
        rc = cudaGraphAddKernelNode(&g->node[i], g->graph, NULL, 0, &p);
        if (rc == cudaSuccess && i)
            rc = cudaGraphAddDependencies(g->graph, &g->node[i - 1], &g->node[i], &edge, 1);
    }
    return rc == cudaSuccess ? cudaGraphInstantiate(&g->exec, g->graph, 0) : rc;
}

// A driver that refuses early launches gets chains without them from then on.
static cudaError_t graph_make(struct cuda *c, graph *g)
{
    cudaError_t rc = graph_chain(g, c->early);
    if (rc != cudaSuccess && c->early) {
        (void)cudaGetLastError();
        graph_drop(g);
        rc = graph_chain(g, false);
        c->early = rc != cudaSuccess; // refused without them as well: it was something else
    }
    return rc;
}

// The nodes that differ get what the queue holds.
static cudaError_t graph_update(graph *g, list *now)
{
    void *args[ARGS_MOST];
    struct cudaKernelNodeParams p;
    cudaError_t rc = cudaSuccess;
    for (size_t i = 0; rc == cudaSuccess && i < g->node.size(); i++) {
        if (same_launch(&g->as, now, i))
            continue;
        node_params(now, i, args, &p);
        rc = cudaGraphExecKernelNodeSetParams(g->exec, g->node[i], &p);
    }
    g->as = *now;
    return rc;
}

static graph *graph_find(struct queue *q)
{
    uint64_t key = key_of(&q->now);
    for (graph &g : q->graphs)
        if (g.key == key && same_kernels(&g.as, &q->now))
            return &g;
    return NULL;
}

// Remembers a run that was not seen yet, in the place of the one that was not needed for longest.
static void graph_note(struct queue *q)
{
    size_t at = 0;
    if (q->graphs.size() < GRAPH_MOST) {
        at = q->graphs.size();
        q->graphs.push_back(graph());
    } else {
        for (size_t i = 1; i < q->graphs.size(); i++)
            at = q->graphs[i].used < q->graphs[at].used ? i : at;
        graph_drop(&q->graphs[at]);
    }
    q->graphs[at] = graph();
    q->graphs[at].key = key_of(&q->now);
    q->graphs[at].used = ++q->clock;
    q->graphs[at].as = q->now;
}

/* ------------------------------------------------------------------ running */

static void run_plain(struct cuda *c, list *l)
{
    void *args[ARGS_MOST];
    for (size_t i = 0; i < l->launches.size(); i++) {
        launch *x = &l->launches[i];
        addresses(l, i, args);
        cudaError_t rc = cudaLaunchKernel(x->kernel, x->grid, x->block, args, x->shared, c->stream);
        cuda_launched(c, x->name, rc);
    }
}

// True if the queue went as a graph. One that cannot be made, changed or started (it wants memory of its own)
// is no loss: launches one by one do the same, and say what is wrong if it is not the graph.
static bool run_graph(struct cuda *c)
{
    struct queue *q = c->queue;
    if (c->wait || q->now.launches.size() < GRAPH_LEAST || q->failures >= GRAPH_TRIES)
        return false;
    graph *g = graph_find(q);
    if (!g) {
        graph_note(q);
        return false;
    }
    g->used = ++q->clock;
    cudaError_t rc;
    if (g->exec) {
        rc = graph_update(g, &q->now);
    } else {
        g->as = q->now;
        rc = graph_make(c, g);
    }
    if (rc == cudaSuccess)
        rc = cudaGraphLaunch(g->exec, c->stream);
    if (rc != cudaSuccess) {
        (void)cudaGetLastError();
        graph_drop(g);
        q->failures++;
        return false;
    }
    cuda_launched(c, q->now.launches.back().name, rc);
    return true;
}

void cuda_flush(struct cuda *c)
{
    struct queue *q = c->queue;
    if (!q || q->now.launches.empty() || q->running)
        return;
    q->running = true;
    cuda_send_args(c);
    if (!run_graph(c))
        run_plain(c, &q->now);
    q->now.launches.clear();
    q->now.bytes.clear();
    q->now.slot.clear();
    q->now.first.clear();
    q->running = false;
}
