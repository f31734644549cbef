#include "base/host.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void host_name(char *name, size_t size)
{
    memset(name, 0, size);
    if (gethostname(name, size - 1) != 0 || !name[0])
        snprintf(name, size, "?");
}

void host_boot(char id[HOST_BOOT])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    size_t n = f ? fread(id, 1, 36, f) : 0;
    id[n] = 0;
    if (f)
        fclose(f);
}
