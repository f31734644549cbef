/* Files: mapping, whole reads, atomic replacement. Errors name the path. */
#ifndef KVS_BASE_FILE_H
#define KVS_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct poll;
struct file_map {
    const unsigned char *data; /* read-only; NULL for an empty file */
    size_t bytes;
};

int file_map(struct file_map *m, const char *path);
void file_unmap(struct file_map *m);
/* Tells the kernel that the pages of [at, at+bytes) are not needed any more (they can be read again). */
void file_release(const struct file_map *m, size_t at, size_t bytes);
/* Tells the kernel that these bytes will be read soon, so that it fetches them without waiting. */
void file_want(const struct file_map *m, size_t at, size_t bytes);
/* Whole file as owned, NUL-terminated bytes. */
int file_read(const char *path, char **data, size_t *bytes);
/* Refuses what downloads leave in place of a file: nothing at all, the pointer of Git LFS, a page of HTML.
 * The line says which, and what to do. `data`: the file's bytes. ERR_INPUT. */
int file_stand_in(const char *path, const void *data, size_t bytes);
/* Where `path` leads if its last part is a symbolic link (also to nothing yet), else `path`; owned. */
char *file_resolve(const char *path);
/* PATH.WHAT, or the first of PATH.WHAT.2, PATH.WHAT.3, … where nothing is yet: what is damaged is kept under
 * such a name. Owned. */
char *file_aside(const char *path, const char *what);
/* Whether something is there that is neither a regular file nor a folder: a device, a FIFO, a socket. */
bool file_is_special(const char *path);
/* Whether both paths lead to one existing file. */
bool file_is_same(const char *a, const char *b);
/* Writes to a temporary name beside `path`, fsyncs, renames, fsyncs the directory. Symbolic links stay: what
 * they lead to is replaced. Devices and FIFOs are written to as they are. */
int file_write_atomic(const char *path, const void *data, size_t bytes);
/* Returns when the file's bytes are on the disk. One of many gigabytes goes in parts, with a sign of life
 * after each. */
int file_sync(const char *path, const struct poll *poll);
int file_sync_dir(const char *dir);     /* a folder's names */
int file_sync_parent(const char *path); /* the names of the folder that holds `path` */
/* Renames `tmp` to `path` and syncs the folder. */
int file_take_place(const char *tmp, const char *path);
int file_mkdirs(const char *path);
bool file_exists(const char *path);
bool file_is_dir(const char *path);
bool file_is_real_dir(const char *path); /* and no symbolic link to one */
/* Makes a new file PATH.tmp.HOST-BOOT.PID.RANDOM, whatever lies there (links included); its name is owned,
 * *fd open for writing. NULL with the error set. */
char *file_temp(const char *path, int *fd);
/* Removes such files of processes that are gone. Process ids say something on this machine alone: files of
 * others go when nothing was written to them for a day. */
void file_temp_clean(const char *path);
/* dir + "/" + name, owned. */
char *file_join(const char *dir, const char *name);
/* Regular files of a folder, names sorted by bytes; owned array of owned strings. */
int file_list(const char *dir, char ***names, int *n);
void file_list_free(char **names, int n);
/* How many regular files of a folder have names that end with `end`; *one: the name of a single one with the
 * folder before it, owned, else NULL. */
int file_only(const char *dir, const char *end, char **one);
bool file_ends_with(const char *path, const char *end);
/* Lower-case hex SHA-256 of bytes. */
void file_sha256(const void *data, size_t bytes, char hex[65]);

#endif
