// Tiled attention on matrix units.
#include "kernels/cuda/attend.h"

enum tile_form tile_form_of(const struct attend_args *a)
{
    (void)a;
    return TILE_NONE;
}

void tile_attend(struct cuda *c, enum tile_form form, const struct attend_args *a, int n)
{
    (void)form, (void)a, (void)n;
    cuda_fail(c, ERR_INTERNAL, "no tiled attention");
}
