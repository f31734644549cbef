// The shim's products: plain loops in f32, the twin of kernels/cuda/products.cu. Rows of an odd number of
// 16-bit values it cannot multiply, as a library may not: the backend's own kernel is used then.
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <vector>

struct product {
    int unused;
};

void product_version(char *text, size_t size)
{
    snprintf(text, size, "plain products");
}

struct product *product_open(struct cuda *)
{
    return new product;
}

void product_close(struct product *p)
{
    delete p;
}

bool product_run(struct cuda *c, void *out, enum dtype out_dtype, const void *x, const void *w, enum dtype in,
                 int64_t T, int64_t n_out, int64_t n_in, bool add)
{
    if (out_dtype != DT_F32 && out_dtype != in) {
        cuda_fail(c, ERR_INTERNAL, "cuBLASLt has no such product");
        return true;
    }
    if (in != DT_F32 && n_in % 2)
        return false;
    shim_device_begin();
    std::vector<float> a((size_t)(T * n_in));
    std::vector<float> b((size_t)n_in);
    for (size_t i = 0; i < a.size(); i++)
        a[i] = load(x, in, (int64_t)i);
    for (int64_t n = 0; n < n_out; n++) {
        for (int64_t k = 0; k < n_in; k++)
            b[(size_t)k] = load(w, in, n * n_in + k);
        for (int64_t t = 0; t < T; t++) {
            const float *row = a.data() + t * n_in;
            float sum = 0.0f;
            for (int64_t k = 0; k < n_in; k++)
                sum += row[k] * b[(size_t)k];
            sum += add ? load(out, out_dtype, t * n_out + n) : 0.0f;
            store(out, out_dtype, t * n_out + n, sum);
        }
    }
    shim_device_end();
    return true;
}
