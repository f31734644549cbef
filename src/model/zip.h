/* Zip archives of stored (not compressed) entries, as torch.save writes them: read in place, from the central
 * directory (PKWARE APPNOTE 4.3, with zip64). Errors are ERR_INPUT and name the archive. */
#ifndef KVS_MODEL_ZIP_H
#define KVS_MODEL_ZIP_H

#include "base/file.h"

#include <stdint.h>

struct zip_entry {
    char *name;                /* owned by the archive */
    const unsigned char *data; /* in the mapping */
    uint64_t bytes;
};

struct zip {
    struct zip_entry *entry; /* sorted by name */
    int n, cap;
};

/* Every entry is checked against the file; two of one name, encrypted or compressed ones are refused. */
int zip_open(struct zip *z, const struct file_map *m, const char *path);
void zip_close(struct zip *z);                                           /* accepts a zeroed one */
const struct zip_entry *zip_find(const struct zip *z, const char *name); /* NULL if absent */

#endif
