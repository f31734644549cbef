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

struct plan {
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
    if (rc != CUBLAS_STATUS_SUCCESS)
        cuda_fail(c, rc == CUBLAS_STATUS_ALLOC_FAILED ? ERR_NOMEM : ERR_DEVICE, "cuBLASLt, %s: %s", what,
                  cublasLtGetStatusName(rc));
    return rc == CUBLAS_STATUS_SUCCESS;
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

static bool want_alignment(struct cuda *c, cublasLtMatmulPreference_t pref, uint32_t bytes)
{
    const cublasLtMatmulPreferenceAttributes_t of[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (cublasLtMatmulPreferenceAttributes_t a : of)
        if (!lt_ok(c, cublasLtMatmulPreferenceSetAttribute(pref, a, &bytes, sizeof bytes), "alignment"))
            return false;
    return true;
}

// Column-major in the library's words: out^T [n_out,T] = (w^T [n_in,n_out])^T x^T [n_in,T].
static bool plan_make(struct cuda *c, plan *p, enum dtype out, enum dtype in, uint32_t align, int64_t T,
                      int64_t N, int64_t K)
{
    *p = plan();
    cublasOperation_t turned = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t best;
    size_t room = WORKSPACE;
    int found = 0;
    bool ok =
        lt_ok(c, cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description") &&
        lt_ok(c, cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned),
              "description") &&
        lt_ok(c, cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain),
              "description") &&
        lt_ok(c, cublasLtMatrixLayoutCreate(&p->w, type_of(in), (uint64_t)K, (uint64_t)N, K), "layout") &&
        lt_ok(c, cublasLtMatrixLayoutCreate(&p->x, type_of(in), (uint64_t)K, (uint64_t)T, K), "layout") &&
        lt_ok(c, cublasLtMatrixLayoutCreate(&p->out, type_of(out), (uint64_t)N, (uint64_t)T, N), "layout") &&
        lt_ok(c, cublasLtMatmulPreferenceCreate(&pref), "preference") &&
        lt_ok(c,
              cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
                                                   sizeof room),
              "preference") &&
        want_alignment(c, pref, align) &&
        lt_ok(c,
              cublasLtMatmulAlgoGetHeuristic(c->product->lt, p->op, p->w, p->x, p->out, p->out, pref, 1,
                                             &best, &found),
              "choice");
    if (ok && !found) {
        cuda_fail(c, ERR_DEVICE, "cuBLASLt has no product of %lld x %lld x %lld", (long long)T, (long long)N,
                  (long long)K);
        ok = false;
    }
    if (ok)
        p->algo = best.algo;
    if (pref)
        (void)cublasLtMatmulPreferenceDestroy(pref);
    if (!ok)
        plan_drop(p);
    return ok;
}

void product_run(struct cuda *c, void *out, enum dtype out_dtype, const void *x, const void *w, enum dtype in,
                 int64_t T, int64_t n_out, int64_t n_in, bool add)
{
    uint32_t align = alignment(out, x, w);
    shape key((int)out_dtype, (int)in, align, T, n_out, n_in);
    auto at = c->product->plans.find(key);
    if (at == c->product->plans.end()) {
        plan p;
        if (!plan_make(c, &p, out_dtype, in, align, T, n_out, n_in))
            return;
        at = c->product->plans.emplace(key, p).first;
    }
    const plan *p = &at->second;
    const float one = 1.0f, zero = 0.0f;
    lt_ok(c,
          cublasLtMatmul(c->product->lt, p->op, &one, w, p->w, x, p->x, add ? &one : &zero, out, p->out, out,
                         p->out, &p->algo, c->product->workspace, WORKSPACE, c->stream),
          "product");
    cuda_launched(c, "product", cudaGetLastError());
}
