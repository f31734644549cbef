#include "task/mt19937.h"

enum { N = 624, M = 397 };

static void seed_linear(struct mt19937 *g, uint32_t s)
{
    g->state[0] = s;
    for (uint32_t i = 1; i < N; i++)
        g->state[i] = 1812433253U * (g->state[i - 1] ^ (g->state[i - 1] >> 30)) + i;
}

void mt19937_seed(struct mt19937 *g, uint64_t seed)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t n_key = key[1] ? 2 : 1;
    uint32_t *s = g->state;
    seed_linear(g, 19650218U);
    uint32_t i = 1;
    for (uint32_t k = 0, j = 0; k < N; k++) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1664525U)) + key[j] + j;
        j = (j + 1) % n_key;
        if (++i == N) {
            s[0] = s[N - 1];
            i = 1;
        }
    }
    for (uint32_t k = 0; k < N - 1; k++) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1566083941U)) - i;
        if (++i == N) {
            s[0] = s[N - 1];
            i = 1;
        }
    }
    s[0] = 0x80000000U;
    g->at = N;
}

static void refill(struct mt19937 *g)
{
    uint32_t *s = g->state;
    for (int i = 0; i < N; i++) {
        uint32_t y = (s[i] & 0x80000000U) | (s[(i + 1) % N] & 0x7FFFFFFFU);
        s[i] = s[(i + M) % N] ^ (y >> 1) ^ (y & 1 ? 0x9908B0DFU : 0);
    }
    g->at = 0;
}

uint32_t mt19937_next(struct mt19937 *g)
{
    if (g->at == N)
        refill(g);
    uint32_t y = g->state[g->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680U;
    y ^= (y << 15) & 0xEFC60000U;
    return y ^ (y >> 18);
}

uint32_t mt19937_below(struct mt19937 *g, uint32_t n)
{
    int bits = 0;
    while (bits < 32 && (n >> bits) != 0)
        bits++;
    for (;;) {
        uint32_t r = mt19937_next(g) >> (32 - bits);
        if (r < n)
            return r;
    }
}
