// Recurrent layers (kernels/mix.h): states stay in registers while a call's rows pass. Rows are loaded some
// ahead, since every step waits for the one before.
//
// Counted for a prompt of 2048 rows on 132 multiprocessors: scan has 16 lanes a channel (Mamba-2.8B: 82,000
// threads, one exponential, two products and four shuffles a row), ssd 32 lanes a channel of a head, wkv a
// thread for every column of a head's state; some 100 to 400 cycles a row, 0.1 to 0.5 ms a layer, where the
// layer's products take 0.3 to 1.3 ms.
#include "kernels/cuda/cuda.h"

#define THREADS 128
#define AHEAD   8 // rows whose loads are under way together

DEVICE float strip_load(const struct strip *s, enum dtype t, int64_t row, int64_t c)
{
    return load(s->data, t, row * s->ld + c);
}
DEVICE void strip_store(const struct strip *s, enum dtype t, int64_t row, int64_t c, float x)
{
    store(s->data, t, row * s->ld + c, x);
}
DEVICE float state_load(const struct tensor *s, int64_t i)
{
    return load(s->data, s->dtype, i);
}
DEVICE void state_store(const struct tensor *s, int64_t i, float x)
{
    store(s->data, s->dtype, i, x);
}
DEVICE float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}
DEVICE float silu(float x)
{
    return x / (1.0f + expf(-x));
}
DEVICE float softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}
// Rows [t, t + AHEAD) of one column; 0 behind the last.
DEVICE void rows_ahead(float v[AHEAD], const struct strip *s, enum dtype t, int64_t row, int64_t T, int64_t c)
{
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        v[i] = row + i < T ? strip_load(s, t, row + i, c) : 0.0f;
}

// Grid (channels, sequences): a thread per channel.
KERNEL conv_kernel(const struct conv_args *args, enum dtype act)
{
    grid_begin();
    const struct conv_args *a = &args[blockIdx.y];
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float x[8], w[8], in[AHEAD]; // the inputs that a row sees and their weights, the newest last
    if (c >= a->C)
        return;
#pragma unroll
    for (int k = 0; k < 8; k++) { // places before the first are zeros with weight 0
        const int at = k - (8 - a->width);
        w[k] = at >= 0 ? a->w[c * a->width + at] : 0.0f;
        x[k] = at >= 0 && k < 7 ? state_load(&a->tail, at * a->C + c) : 0.0f;
    }
    const float bias = a->bias ? a->bias[c] : 0.0f;
    for (int64_t t = 0; t < a->T; t += AHEAD) {
        rows_ahead(in, &a->x, act, t, a->T, c);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (t + i >= a->T)
                break;
            float sum = bias;
            x[7] = in[i];
#pragma unroll
            for (int k = 0; k < 8; k++)
                sum += w[k] * x[k];
            strip_store(&a->out, act, t + i, c, a->silu ? silu(sum) : sum);
#pragma unroll
            for (int k = 0; k < 7; k++)
                x[k] = x[k + 1];
        }
    }
#pragma unroll
    for (int k = 0; k < 7; k++)
        if (k >= 8 - a->width)
            state_store(&a->tail, (k - (8 - a->width)) * a->C + c, x[k]);
}

// Grid (channels / 8, sequences): 16 lanes a channel, up to 16 states a lane.
#define SCAN_LANES  16
#define SCAN_STATES 16
DEVICE float sum16(float v)
{
#pragma unroll
    for (int step = SCAN_LANES / 2; step > 0; step /= 2)
        v += lane_xor(v, step);
    return v;
}
KERNEL scan_kernel(const struct scan_args *args, enum dtype act)
{
    grid_begin();
    const struct scan_args *a = &args[blockIdx.y];
    const int lane = (int)threadIdx.x % SCAN_LANES, per = (a->N + SCAN_LANES - 1) / SCAN_LANES;
    const int64_t e = (int64_t)blockIdx.x * (THREADS / SCAN_LANES) + threadIdx.x / SCAN_LANES;
    const bool mine = e < a->E; // all lanes go along, for the shuffles
    float h[SCAN_STATES], rate[SCAN_STATES];
    for (int k = 0; k < per; k++) {
        const int n = k * SCAN_LANES + lane;
        h[k] = mine && n < a->N ? state_load(&a->state, e * a->N + n) : 0.0f;
        rate[k] = mine && n < a->N ? a->a[e * a->N + n] : 0.0f;
    }
    const float bias = mine ? a->dt_bias[e] : 0.0f, d = mine ? a->d[e] : 0.0f;
    for (int64_t t = 0; t < a->T; t++) {
        const float x = mine ? strip_load(&a->x, act, t, e) : 0.0f;
        const float dt = softplus((mine ? strip_load(&a->dt, act, t, e) : 0.0f) + bias);
        const float z = mine && a->z.data ? strip_load(&a->z, act, t, e) : 0.0f;
        float y = 0.0f;
        for (int k = 0; k < per; k++) {
            const int n = k * SCAN_LANES + lane;
            const float b = n < a->N ? strip_load(&a->b, act, t, n) : 0.0f,
                        c = n < a->N ? strip_load(&a->c, act, t, n) : 0.0f;
            h[k] = expf(dt * rate[k]) * h[k] + dt * b * x;
            y += c * h[k];
        }
        y = sum16(y) + d * x;
        if (mine && lane == 0)
            strip_store(&a->out, act, t, e, a->z.data ? y * silu(z) : y);
    }
    for (int k = 0; k < per; k++)
        if (mine && k * SCAN_LANES + lane < a->N)
            state_store(&a->state, e * a->N + k * SCAN_LANES + lane, h[k]);
}

// Grid (channels / 4, sequences): a warp per channel of a head, up to 8 states a lane.
#define SSD_STATES 8
KERNEL ssd_kernel(const struct ssd_args *args, enum dtype act)
{
    grid_begin();
    const struct ssd_args *a = &args[blockIdx.y];
    const int lane = (int)threadIdx.x % WARP, per = (a->N + WARP - 1) / WARP;
    const int64_t c = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (c >= (int64_t)a->H * a->P) // the whole warp
        return;
    const int64_t head = c / a->P, bc = head / (a->H / a->G) * a->N;
    const float rate = a->a[head], bias = a->dt_bias[head], d = a->d[head];
    float s[SSD_STATES];
    for (int k = 0; k < per; k++)
        s[k] = k * WARP + lane < a->N ? state_load(&a->state, c * a->N + k * WARP + lane) : 0.0f;
    for (int64_t t = 0; t < a->T; t++) {
        const float dt =
            fminf(fmaxf(softplus(strip_load(&a->dt, act, t, head) + bias), a->dt_min), a->dt_max);
        const float x = strip_load(&a->x, act, t, c), decay = expf(dt * rate), in = dt * x;
        float y = 0.0f;
        for (int k = 0; k < per; k++) {
            const int n = k * WARP + lane;
            if (n < a->N) {
                s[k] = decay * s[k] + in * strip_load(&a->b, act, t, bc + n);
                y += s[k] * strip_load(&a->c, act, t, bc + n);
            }
        }
        y = warp_sum(y) + d * x;
        if (lane == 0)
            strip_store(&a->out, act, t, c, y);
    }
    for (int k = 0; k < per; k++)
        if (k * WARP + lane < a->N)
            state_store(&a->state, c * a->N + k * WARP + lane, s[k]);
}

// Grid (heads, sequences): thread j holds column j of the head's state, MAX rows at most; r, k and the head's
// constants are shared.
template <int MAX> KERNEL wkv_kernel(const struct wkv_args *args, enum dtype act)
{
    grid_begin();
    __shared__ float r[MAX], k[MAX], bonus[MAX], decay[MAX];
    const struct wkv_args *a = &args[blockIdx.y];
    const int S = MAX == 64 ? 64 : a->S, j = (int)threadIdx.x;
    const int64_t c = (int64_t)blockIdx.x * S, from = c * S;
    float s[MAX];
    const bool mine = j < S;
#pragma unroll
    for (int i = 0; i < MAX; i++)
        s[i] = mine && i < S ? state_load(&a->state, from + (int64_t)i * S + j) : 0.0f;
    if (mine) {
        bonus[j] = a->bonus[c + j];
        decay[j] = a->decay[c + j];
    }
    for (int64_t t = 0; t < a->T; t++) {
        const float v = mine ? strip_load(&a->v, act, t, c + j) : 0.0f;
        float o = 0.0f;
        __syncthreads(); // the row before is done with r and k
        if (mine) {
            r[j] = strip_load(&a->r, act, t, c + j);
            k[j] = strip_load(&a->k, act, t, c + j);
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < MAX; i++)
            if (i < S) {
                const float kv = k[i] * v;
                o += r[i] * (bonus[i] * kv + s[i]);
                s[i] = decay[i] * s[i] + kv;
            }
        if (mine)
            strip_store(&a->out, act, t, c + j, o);
    }
#pragma unroll
    for (int i = 0; i < MAX; i++)
        if (mine && i < S)
            state_store(&a->state, from + (int64_t)i * S + j, s[i]);
}

// Grid (channels, sequences): a thread per channel.
KERNEL lru_kernel(const struct lru_args *args, enum dtype act)
{
    grid_begin();
    const struct lru_args *a = &args[blockIdx.y];
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= a->D)
        return;
    float h = state_load(&a->state, c), x[AHEAD], gi[AHEAD], gr[AHEAD], y[AHEAD];
    const float bi = a->bias_i[c], br = a->bias_r[c], rate = a->a[c];
    for (int64_t t = 0; t < a->T; t += AHEAD) {
        rows_ahead(x, &a->x, act, t, a->T, c);
        rows_ahead(gi, &a->gate_i, act, t, a->T, c);
        rows_ahead(gr, &a->gate_r, act, t, a->T, c);
        if (a->y.data)
            rows_ahead(y, &a->y, act, t, a->T, c);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (t + i >= a->T)
                break;
            const float in = sigmoid(gi[i] + bi) * x[i], l = -rate * sigmoid(gr[i] + br);
            h = a->pos + t + i == 0 ? in : expf(l) * h + sqrtf(-expm1f(2.0f * l)) * in;
            strip_store(&a->out, act, t + i, c, a->y.data ? h * y[i] : h);
        }
    }
    state_store(&a->state, c, h);
}

// Grid (channels, rows, sequences); then the last row becomes the state.
KERNEL shift_kernel(const struct shift_args *args, enum dtype act)
{
    grid_begin();
    const struct shift_args *a = &args[blockIdx.z];
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= a->C)
        return;
    for (int64_t t = blockIdx.y; t < a->T; t += gridDim.y) {
        const float x = strip_load(&a->x, act, t, c);
        const float before = t ? strip_load(&a->x, act, t - 1, c) : state_load(&a->prev, c);
        for (int k = 0; k < a->n_out; k++)
            strip_store(&a->out[k], act, t, c, x * a->mix[k][c] + before * (1.0f - a->mix[k][c]));
    }
}
KERNEL shift_state_kernel(const struct shift_args *args, enum dtype act)
{
    grid_begin();
    const struct shift_args *a = &args[blockIdx.y];
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c < a->C && a->T > 0)
        state_store(&a->prev, c, strip_load(&a->x, act, a->T - 1, c));
}

DEVICE float gate_value(enum gate_fn fn, float x)
{
    if (fn == GATE_SIGMOID)
        return sigmoid(x);
    if (fn == GATE_RELU2)
        return x > 0.0f ? x * x : 0.0f;
    if (fn == GATE_SILU)
        return silu(x);
    return x * sigmoid(2.0f * 0.79788456080286536f * (x + 0.044715f * x * x * x));
}
// Grid (columns, rows).
KERNEL gate_kernel(struct gate_args a, enum dtype act)
{
    grid_begin();
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.F)
        return;
    for (int64_t t = blockIdx.y; t < a.T; t += gridDim.y) {
        float v = gate_value(a.fn, strip_load(&a.x, act, t, i));
        v = a.y.data ? v * strip_load(&a.y, act, t, i) : v;
        strip_store(&a.out, act, t, i, a.add ? strip_load(&a.out, act, t, i) + v : v);
    }
}

DEVICE float norm_input(const struct group_norm_args *a, enum dtype act, int64_t t, int64_t i)
{
    const float x = strip_load(&a->x, act, t, i);
    return a->z.data && a->gate_first ? x * silu(strip_load(&a->z, act, t, i)) : x;
}
// Grid (groups, rows).
KERNEL group_norm_kernel(struct group_norm_args a, enum dtype act)
{
    grid_begin();
    __shared__ float part[32];
    const int64_t n = a.D / a.G, from = (int64_t)blockIdx.x * n, t = blockIdx.y;
    float sum = 0.0f, square = 0.0f;
    for (int64_t i = from + threadIdx.x; a.center && i < from + n; i += blockDim.x)
        sum += norm_input(&a, act, t, i);
    const float mean = a.center ? block_sum(sum, part) / (float)n : 0.0f;
    for (int64_t i = from + threadIdx.x; i < from + n; i += blockDim.x) {
        const float v = norm_input(&a, act, t, i) - mean;
        square += v * v;
    }
    const float r = 1.0f / sqrtf(block_sum(square, part) / (float)n + a.eps);
    for (int64_t i = from + threadIdx.x; i < from + n; i += blockDim.x) {
        float v = (norm_input(&a, act, t, i) - mean) * r * a.w[i] + (a.b ? a.b[i] : 0.0f);
        strip_store(&a.out, act, t, i, a.z.data && !a.gate_first ? v * silu(strip_load(&a.z, act, t, i)) : v);
    }
}

KERNEL softcap_kernel(float *x, float cap, int64_t n)
{
    grid_begin();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        x[i] = cap * tanhf(x[i] / cap);
}

// ------------------------------------------------------------------ members of the backend

// Sequences of one launch belong to one model: they differ in their rows and states alone.
#define SEND(type, c, a, n) (const struct type *)cuda_args(c, a, (size_t)(n) * sizeof *(a))

static void mix_conv(struct ops *o, const struct conv_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    const struct conv_args *dev = n ? SEND(conv_args, c, a, n) : NULL;
    if (dev)
        LAUNCH(c, conv_kernel, dim3(blocks_of(a[0].C, THREADS), (unsigned)n), THREADS, 0, dev, o->act);
}

static void mix_scan(struct ops *o, const struct scan_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    const struct scan_args *dev = n ? SEND(scan_args, c, a, n) : NULL;
    if (dev)
        LAUNCH(c, scan_kernel, dim3(blocks_of(a[0].E, THREADS / SCAN_LANES), (unsigned)n), THREADS, 0, dev,
               o->act);
}

static void mix_ssd(struct ops *o, const struct ssd_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    const struct ssd_args *dev = n ? SEND(ssd_args, c, a, n) : NULL;
    if (dev)
        LAUNCH(c, ssd_kernel, dim3(blocks_of((int64_t)a[0].H * a[0].P, THREADS / WARP), (unsigned)n), THREADS,
               0, dev, o->act);
}

static void mix_wkv(struct ops *o, const struct wkv_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    const struct wkv_args *dev = n ? SEND(wkv_args, c, a, n) : NULL;
    if (dev && a[0].S == 64)
        LAUNCH(c, wkv_kernel<64>, dim3((unsigned)a[0].H, (unsigned)n), 64, 0, dev, o->act);
    else if (dev)
        LAUNCH(c, wkv_kernel<128>, dim3((unsigned)a[0].H, (unsigned)n), 128, 0, dev, o->act);
}

static void mix_lru(struct ops *o, const struct lru_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    const struct lru_args *dev = n ? SEND(lru_args, c, a, n) : NULL;
    if (dev)
        LAUNCH(c, lru_kernel, dim3(blocks_of(a[0].D, THREADS), (unsigned)n), THREADS, 0, dev, o->act);
}

static unsigned rows_of(int64_t T)
{
    return (unsigned)(T < 1 ? 1 : T < 65535 ? T : 65535);
}

static int64_t most_rows(const struct shift_args *a, int n)
{
    int64_t most = 0;
    for (int i = 0; i < n; i++)
        most = a[i].T > most ? a[i].T : most;
    return most;
}

static void mix_shift(struct ops *o, const struct shift_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    const struct shift_args *dev = n ? SEND(shift_args, c, a, n) : NULL;
    if (!dev)
        return;
    const unsigned channels = blocks_of(a[0].C, THREADS);
    LAUNCH(c, shift_kernel, dim3(channels, rows_of(most_rows(a, n)), (unsigned)n), THREADS, 0, dev, o->act);
    dev = SEND(shift_args, c, a, n); // arguments are good for one launch
    if (dev)
        LAUNCH(c, shift_state_kernel, dim3(channels, (unsigned)n), THREADS, 0, dev, o->act);
}

static void mix_gate(struct ops *o, const struct gate_args *a)
{
    if (a->T)
        LAUNCH(cuda_of(o), gate_kernel, dim3(blocks_of(a->F, THREADS), rows_of(a->T)), THREADS, 0, *a,
               o->act);
}

static void mix_group_norm(struct ops *o, const struct group_norm_args *a)
{
    struct group_norm_args part = *a;
    const size_t each = dtype_bytes(o->act);
    for (int64_t t = 0; t < a->T; t += 65535) { // rows of a grid
        struct strip *s[3] = {&part.x, &part.z, &part.out};
        const struct strip *from[3] = {&a->x, &a->z, &a->out};
        part.T = a->T - t < 65535 ? a->T - t : 65535;
        for (int i = 0; i < 3; i++)
            if (from[i]->data)
                s[i]->data = (char *)from[i]->data + (size_t)(t * from[i]->ld) * each;
        LAUNCH(cuda_of(o), group_norm_kernel, dim3((unsigned)a->G, (unsigned)part.T), THREADS, 0, part,
               o->act);
    }
}

static void mix_softcap(struct ops *o, struct tensor x, float cap)
{
    const int64_t n = tensor_count(&x);
    const unsigned blocks = blocks_of(n, THREADS);
    if (n)
        LAUNCH(cuda_of(o), softcap_kernel, blocks < 8192 ? blocks : 8192, THREADS, 0, (float *)x.data, cap,
               n);
}

void mix_backend(struct ops *o)
{
    o->conv = mix_conv;
    o->scan = mix_scan;
    o->ssd = mix_ssd;
    o->wkv = mix_wkv;
    o->lru = mix_lru;
    o->shift = mix_shift;
    o->gate = mix_gate;
    o->group_norm = mix_group_norm;
    o->softcap = mix_softcap;
}
