/* Inside of an open model file: one table of tensors under Hugging Face's names, whatever the format. */
#ifndef KVS_MODEL_FILE_INT_H
#define KVS_MODEL_FILE_INT_H

#include "base/file.h"
#include "base/str.h"
#include "model/gguf.h"
#include "model/model.h"
#include "model/stop_ids.h"

struct file_tensor {
    char *name; /* owned */
    struct model_tensor t;
    int32_t heads; /* rows of this many heads are interleaved (GGUF of llama): 0 if they are not */
    int32_t map;   /* which mapping `t.data` lies in */
};

struct model_file {
    char *path;
    struct model_config cfg;
    struct gguf *gguf;    /* NULL for a folder */
    struct file_map *map; /* mapped files (GGUF: a copy of the header's, not owned) */
    int n_map, cap_map;
    struct file_tensor *t; /* sorted by name */
    int n, cap;
    struct stop_ids stop;
    struct str notes; /* see model_file_notes */
    char *missing;    /* the weights file that is not there, NULL if all are */
    uint64_t hash[2];
    uint64_t identity; /* of the very files (device, inode, size, time): what shared memory may rely on */
};

/* Reads config.json of `dir`; the checkpoint's dtype and tied head may be corrected by the weights later.
 * Lines about keys that were not used are added to `notes`. */
int config_read(struct model_config *cfg, const char *dir, struct str *notes);
/* The same for a prompt encoder (encoder.h). */
int encoder_config_read(struct model_config *cfg, const char *dir);
/* Maps the weights of f->path (a folder) and fills f->t: model.safetensors, else pytorch_model.bin, each
 * whole or in shards; a missing file is noted in f->missing. */
int weights_open_folder(struct model_file *f);
/* One file of each format over bytes that are already mapped. */
int torch_file_add(struct model_file *f, const struct file_map *m, int map, const char *path);
int safetensors_add(struct model_file *f, const struct file_map *m, int map, const char *path);
/* Maps the one file f->path of tensors alone (.pth) and fills f->t. */
int weights_open_file(struct model_file *f);
/* Opens f->gguf from f->path, reads the configuration and fills f->t. */
int gguf_model_open(struct model_file *f);

void file_tensor_add(struct model_file *f, const struct file_tensor *t);
/* Sorts by name; ERR_INPUT on duplicates. */
int file_tensor_sort(struct model_file *f);
const struct file_tensor *file_tensor_find(const struct model_file *f, const char *name);
/* Adds a weights file to f->identity. */
void file_identify(struct model_file *f, const char *path);
/* Foreign text for a message of one line: control characters replaced, cut. */
const char *file_shown(char out[80], const char *s);
/* The JSON object of a file, owned (json_decref); NULL on error. */
struct json_t;
int file_json(const char *path, struct json_t **root);
/* Lets go of the pages of one tensor after it was read. */
void file_tensor_release(const struct model_file *f, const char *name);

#endif
