/* Arguments of the entries that mix tokens without attention: convolutions, scans and gates of recurrent
 * layers. Letters as in ops.h; E channels, N states of a channel, P channels of a head, G groups, S channels
 * of a WKV head. Activations have the backend's dtype, states f32 or f16; all arithmetic is f32. A state
 * holds what the rows before have left, is zero before the first token of a sequence, and is brought up to
 * the last row of the call: a call of T rows means T calls of one (but that a state in f16 is rounded at the
 * end of each call only). */
#ifndef KVS_KERNELS_MIX_H
#define KVS_KERNELS_MIX_H

#include <stdbool.h>
#include <stdint.h>

/* Columns of a wider matrix of activations: element (t, c) is data[t * ld + c]. data NULL: absent. */
struct strip {
    void *data;
    int64_t ld;
};

/* Causal depthwise convolution: out[t,c] = f(bias[c] + sum_k w[c,k] x[t - (width-1) + k, c]), f the identity
 * or silu; rows before the first come from `tail`, oldest first. out may be x. */
struct conv_args {
    int64_t T, C;
    struct strip x, out;
    const float *w, *bias; /* [C,width], [C] or NULL */
    int32_t width;         /* 2 to 8 */
    bool silu;
    struct tensor tail; /* [width-1,C] */
};

/* Selective scan of Mamba (arXiv 2312.00752, state-spaces/mamba selective_scan_ref), with D = softplus(dt +
 * dt_bias): h[e,n] = exp(D a[e,n]) h[e,n] + D b[n] x[e];  out[e] = (sum_n c[n] h[e,n] + d[e] x[e]) *
 * silu(z[e]). out may be x or z. */
struct scan_args {
    int64_t T, E;
    int32_t N;                    /* at most 256 */
    struct strip x, dt, z, out;   /* [T,E]; z absent: no gate */
    struct strip b, c;            /* [T,N] */
    const float *dt_bias, *a, *d; /* [E], [E,N] (negative), [E] */
    struct tensor state;          /* [E,N] */
};

/* Scan of Mamba-2 (arXiv 2405.21060, ssd_minimal_discrete), head by head, with D = clamp(softplus(dt +
 * dt_bias)): s[p,n] = exp(D a) s[p,n] + D x[p] b[n];  out[p] = sum_n s[p,n] c[n] + d x[p]. Heads of a group
 * of H/G share b and c. */
struct ssd_args {
    int64_t T;
    int32_t H, P, N, G;
    struct strip x, out, b, c, dt; /* [T,H*P], [T,G*N], [T,H]; out may be x */
    const float *dt_bias, *a, *d;  /* [H]; a negative */
    float dt_min, dt_max;
    struct tensor state; /* [H,P,N] */
};

/* WKV of RWKV-5.2 (BlinkDL/ChatRWKV): o[j] = sum_i r[i] (bonus[i] k[i] v[j] + s[i,j]), with the state before
 * this row; then s[i,j] = decay[i] s[i,j] + k[i] v[j]. out may be r, k or v. */
struct wkv_args {
    int64_t T;
    int32_t H, S;               /* S at most 128 */
    struct strip r, k, v, out;  /* [T,H*S] */
    const float *decay, *bonus; /* [H,S]; decay = exp(-exp(w)) */
    struct tensor state;        /* [H,S,S] */
};

/* RG-LRU of Griffin (arXiv 2402.19427, recurrentgemma layers.py): i, r = sigmoid of the gates with their
 * biases, l = -a[c] r, h = exp(l) h + sqrt(1 - exp(2 l)) i x, but h = i x at position 0; out = h * y (y
 * absent: h). */
struct lru_args {
    int64_t T, D, pos;                      /* pos: position of the first row */
    struct strip x, gate_i, gate_r, y, out; /* [T,D]; out may be any of them */
    const float *bias_i, *bias_r, *a;       /* [D]; a = 8 softplus(a_param) */
    struct tensor state;                    /* [D] */
};

/* Token shift of RWKV: out[i][t] = x[t] mix[i] + x[t-1] (1 - mix[i]); before the first row stands `prev`. No
 * out may be x. */
struct shift_args {
    int64_t T, C;
    struct strip x, out[4];
    const float *mix[4]; /* [C] each */
    int32_t n_out;
    struct tensor prev; /* [C] */
};

/* out = f(x) * y, or out += f(x) * y. y absent: f(x) alone. out may be x or y. */
enum gate_fn { GATE_SILU, GATE_GELU_TANH, GATE_SIGMOID, GATE_RELU2, GATE_N };
struct gate_args {
    enum gate_fn
        fn; /* gelu_tanh(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); relu2(x) = max(x, 0)^2 */
    int64_t T, F;
    struct strip x, y, out;
    bool add;
};

/* Norm over each of G groups of D/G neighbouring channels: with `center` as layernorm (biased variance), else
 * as rmsnorm; times w, plus b. z: times silu(z), before the norm (gate_first, Mamba-2) or after it (RWKV).
 * out may be x or z. */
struct group_norm_args {
    int64_t T, D;
    int32_t G;
    struct strip x, z, out;
    const float *w, *b; /* [D]; b NULL: none */
    float eps;
    bool center, gate_first;
};

#endif
