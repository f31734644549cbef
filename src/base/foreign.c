#include "base/err.h"
#include "base/file.h"

#include <string.h>
#include <strings.h>

static bool begins(const char *s, size_t n, const char *with)
{
    size_t m = strlen(with);
    return n >= m && strncasecmp(s, with, m) == 0;
}

int file_stand_in(const char *path, const void *data, size_t bytes)
{
    const char *s = data;
    size_t n = bytes;
    if (n == 0)
        return err_set(ERR_INPUT, "%s is empty (0 bytes)", path);
    if (begins(s, n, "version https://git-lfs.github.com/spec/"))
        return err_set(ERR_INPUT,
                       "%s is a Git LFS pointer and not the file itself: fetch it with `git lfs pull`, or "
                       "download it",
                       path);
    if (begins(s, n, "\xef\xbb\xbf"))
        s += 3, n -= 3;
    while (n && memchr(" \t\r\n", *s, 4))
        s++, n--;
    if (begins(s, n, "<!doctype html") || begins(s, n, "<html") || begins(s, n, "<head"))
        return err_set(ERR_INPUT,
                       "%s is an HTML page and not the file itself: download it again (a page to log "
                       "in, or an error page, was saved)",
                       path);
    return 0;
}
