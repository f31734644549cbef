#include "scratch.h"

#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Noreturn static void give_up(const char *path)
{
    perror(path);
    abort();
}

char *scratch_make(void)
{
    const char *tmp = getenv("TMPDIR");
    char *dir = mem_printf("%s/kvs-test.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        give_up(dir);
    return dir;
}

static void remove_tree(const char *dir, int depth)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char *p = mem_printf("%s/%s", dir, e->d_name);
        if (unlink(p) != 0 && depth > 0)
            remove_tree(p, depth - 1);
        free(p);
    }
    if (d)
        closedir(d);
    rmdir(dir);
}

void scratch_remove(char *dir)
{
    remove_tree(dir, 16);
    free(dir);
}

void scratch_put(const char *dir, const char *name, const void *data, size_t n)
{
    char *path = file_join(dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0)
        give_up(path);
    free(path);
}

void scratch_text(const char *dir, const char *name, const char *text)
{
    scratch_put(dir, name, text, strlen(text));
}
