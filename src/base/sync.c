/* What must be on the disk before it counts: files, and the folders that name them. */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/poll.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int file_sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* some network file systems answer EINVAL for folders and sync them anyway */
    bool ok = fd >= 0 && (fsync(fd) == 0 || errno == EINVAL);
    int e = errno;
    if (fd >= 0)
        close(fd);
    return ok ? 0 : err_set(ERR_IO, "cannot sync folder %s: %s", dir, strerror(e));
}

int file_sync_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? mem_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : mem_strdup(".");
    int rc = file_sync_dir(dir);
    free(dir);
    return rc;
}

int file_sync(const char *path, const struct poll *poll)
{
    enum { PART = 256 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    for (off_t at = 0; at < size && rc == 0; at += PART) {
        (void)!sync_file_range(
            fd, at, PART, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        rc = poll_call(poll);
    }
    if (rc == 0 && (fd < 0 || fsync(fd) != 0))
        rc = err_set(err_of_errno(errno), "cannot sync %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

int file_take_place(const char *tmp, const char *path)
{
    if (rename(tmp, path) != 0)
        return err_set(err_of_errno(errno), "cannot rename %s to %s: %s", tmp, path, strerror(errno));
    return file_sync_parent(path);
}
