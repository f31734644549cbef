// Products by cuBLASLt; the one file that knows it. Plans (layouts and the chosen algorithm) are kept by
// shape.
#include "kernels/cuda/cuda.h"

#include <cublasLt.h>
#include <map>
#include <stdio.h>
#include <tuple>

namespace
{
const size_t WORKSPACE = (size_t)32 << 20;

const int CHOICES = 8; // the library is asked for: some of them may not do

struct plan {
    bool none; // the library cannot do it
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algo;
};
typedef std::tuple<int, int, uint32_t, int64_t, int64_t, int64_t>
    shape; // out, in dtype, alignment, T, n_out, n_in
} // namespace

struct product {
    cublasLtHandle_t lt;
    void *workspace;
    std::map<shape, plan> plans;
};

static cudaDataType_t type_of(enum dtype t)
{
    return t == DT_F32 ? CUDA_R_32F : t == DT_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static bool lt_ok(struct cuda *c, cublasStatus_t rc, const char *what)
{
    if (rc == CUBLAS_STATUS_SUCCESS)
        return true;
    (void)cudaGetLastError(); // what the runtime said to the library is not for the next launch
    cuda_fail(c, rc == CUBLAS_STATUS_ALLOC_FAILED ? ERR_NOMEM : ERR_DEVICE, "cuBLASLt, %s: %s", what,
              cublasLtGetStatusName(rc));
    return false;
}

void product_version(char *text, size_t size)
{
    size_t v = cublasLtGetVersion();
    snprintf(text, size, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

struct product *product_open(struct cuda *c)
{
    product *p = new product;
    p->workspace = NULL;
    if (!lt_ok(c, cublasLtCreate(&p->lt), "opening")) {
        delete p;
        return NULL;
    }
    if (!cuda_ok(c, cudaMalloc(&p->workspace, WORKSPACE), "workspace of cuBLASLt")) {
        product_close(p);
        return NULL;
    }
    return p;
}

static void plan_drop(plan *p)
{
    if (p->op)
        (void)cublasLtMatmulDescDestroy(p->op);
    cublasLtMatrixLayout_t layouts[] = {p->w, p->x, p->out};
    for (cublasLtMatrixLayout_t l : layouts)
        if (l)
            (void)cublasLtMatrixLayoutDestroy(l);
}

void product_close(struct product *p)
{
    if (!p)
        return;
    for (auto &x : p->plans)
        plan_drop(&x.second);
    if (p->workspace)
        (void)cudaFree(p->workspace);
    (void)cublasLtDestroy(p->lt);
    delete p;
}

// What all addresses are multiples of, up to 256: the library would otherwise take 256 for granted.
static uint32_t alignment(const void *a, const void *b, const void *c)
{
    uintptr_t bits = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | 256;
    return (uint32_t)(bits & (~bits + 1));
}

// Algorithms within the workspace, for addresses that are multiples of `align`; parts of sums are added in
// f32, not in the dtype of the output.
static bool want(struct cuda *c, cublasLtMatmulPreference_t pref, uint32_t align)
{
    size_t room = WORKSPACE;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } of[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room},
              {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &scheme, sizeof scheme},
              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align},
              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align},
              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align, sizeof align},
              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof align}};
    for (const auto &a : of)
        if (!lt_ok(c, cublasLtMatmulPreferenceSetAttribute(pref, a.name, a.value, a.bytes), "preference"))
            return false;
    return true;
}

// The library's first choice that it says it can run; p->none if it has none.
static bool choose(struct cuda *c, plan *p, cublasLtMatmulPreference_t pref)
{
    cublasLtMatmulHeuristicResult_t best[CHOICES];
    int found = 0;
    cublasStatus_t rc = cublasLtMatmulAlgoGetHeuristic(c->product->lt, p->op, p->w, p->x, p->out, p->out,
                                                       pref, CHOICES, best, &found);
    p->none = true;
    if (rc == CUBLAS_STATUS_NOT_SUPPORTED)
        return true;
    for (int i = 0; rc == CUBLAS_STATUS_SUCCESS && i < found && p->none; i++) {
        p->none = best[i].state != CUBLAS_STATUS_SUCCESS;
        p->algo = best[i].algo;
    }
    return lt_ok(c, rc, "choice");
}

// Column-major in the library's words: out^T [n_out,T] = (w^T [n_in,n_out])^T x^T [n_in,T].
static bool plan_make(struct cuda *c, plan *p, enum dtype out, enum dtype in, uint32_t align, int64_t T,
                      int64_t N, int64_t K)
{
    *p = plan();
    cublasOperation_t turned = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    cublasLtMatmulPreference_t pref = NULL;
    bool ok =
        lt_ok(c, cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description") &&
        lt_ok(c, cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned),
              "description") &&
        lt_ok(c, cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain),
              "description") &&
        lt_ok(c, cublasLtMatrixLayoutCreate(&p->w, type_of(in), (uint64_t)K, (uint64_t)N, K), "layout") &&
        lt_ok(c, cublasLtMatrixLayoutCreate(&p->x, type_of(in), (uint64_t)K, (uint64_t)T, K), "layout") &&
        lt_ok(c, cublasLtMatrixLayoutCreate(&p->out, type_of(out), (uint64_t)N, (uint64_t)T, N), "layout") &&
        lt_ok(c, cublasLtMatmulPreferenceCreate(&pref), "preference") && want(c, pref, align) &&
        choose(c, p, pref);
    if (pref)
        (void)cublasLtMatmulPreferenceDestroy(pref);
    if (!ok)
        plan_drop(p);
    return ok;
}

static cublasStatus_t multiply(struct cuda *c, const plan *p, void *out, const void *x, const void *w,
                               bool add)
{
    const float one = 1.0f, zero = 0.0f;
    return cublasLtMatmul(c->product->lt, p->op, &one, w, p->w, x, p->x, add ? &one : &zero, out, p->out, out,
                          p->out, &p->algo, c->product->workspace, WORKSPACE, c->stream);
}

bool product_run(struct cuda *c, void *out, enum dtype out_dtype, const void *x, const void *w, enum dtype in,
                 int64_t T, int64_t n_out, int64_t n_in, bool add)
{
    uint32_t align = alignment(out, x, w);
    shape key((int)out_dtype, (int)in, align, T, n_out, n_in);
    auto at = c->product->plans.find(key);
    if (at == c->product->plans.end()) {
        plan p;
        if (!plan_make(c, &p, out_dtype, in, align, T, n_out, n_in))
            return true;
        at = c->product->plans.emplace(key, p).first;
    }
    if (at->second.none)
        return false;
    cublasStatus_t rc = multiply(c, &at->second, out, x, w, add);
    if (rc == CUBLAS_STATUS_ALLOC_FAILED) { // its code is loaded when it is first used
        (void)cudaGetLastError();
        pool_trim(c->pool[PLACE_DEVICE]);
        rc = multiply(c, &at->second, out, x, w, add);
    }
    if (lt_ok(c, rc, "product"))
        cuda_launched(c, "product", cudaSuccess);
    return true;
}
