#include "hdf5io/keep.h"

#include "hdf5io/h5file.h"

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct keep {
    hid_t from, to; /* files */
    const char *path;
    struct known { /* objects that have a place in the new file, by their place in the old one */
        haddr_t addr;
        char *path;
    } * known;
    size_t n_known, cap_known;
};
enum owner { USERS, OUR_DATASET, OUR_GROUP };

/* Whose the object /PATH is; depth 0: below the file itself, 1: below /logits, 2: below one of its groups. */
static enum owner owner_of(int depth, const char *name, hid_t parent)
{
    if (depth == 0) {
        for (int i = 0; i < T_N; i++)
            if (strcmp(name, schema_table((enum table_id)i)->name) == 0)
                return OUR_DATASET;
        return strcmp(name, "text") == 0 || strcmp(name, "tokens") == 0 ? OUR_DATASET
               : strcmp(name, "logits") == 0                            ? OUR_GROUP
                                                                        : USERS;
    }
    if (depth == 1)
        return H5Aexists_by_name(parent, name, "model_hash", H5P_DEFAULT) > 0 ? OUR_GROUP : USERS;
    for (int p = 0; depth == 2 && p < PART_N; p++)
        if (strcmp(name, part_name((enum part)p)) == 0)
            return OUR_DATASET;
    return USERS;
}

static int cannot(const struct keep *k, const char *what)
{
    return h5_error(
        ERR_INPUT, "cannot keep %s, which somebody added to %s (copy it out of the file and delete it there)",
        what, k->path);
}

/* ---- attributes ---- */
struct attributes {
    const struct keep *keep;
    hid_t to;
    const char *path;
    int rc;
};

static int copy_attribute(hid_t from, hid_t to, const char *name)
{
    hid_t a = H5Aopen(from, name, H5P_DEFAULT), named = H5Aget_type(a), space = H5Aget_space(a);
    hid_t type = H5Tcopy(named); /* a named type belongs to its file */
    hid_t b = H5Acreate2(to, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    size_t bytes = H5Tget_size(type);
    void *value = n > 0 && bytes ? calloc((size_t)n, bytes) : NULL;
    bool ok = a >= 0 && b >= 0 && n >= 0;
    if (ok && value) {
        ok = H5Aread(a, type, value) >= 0 && H5Awrite(b, type, value) >= 0;
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, value);
    }
    free(value);
    H5Sclose(space);
    H5Tclose(type);
    H5Tclose(named);
    H5Aclose(a);
    return b >= 0 && H5Aclose(b) >= 0 && ok ? 0 : -1;
}

/* References to objects (dimension scales are made of them) hold places in the old file. */
static bool has_references(hid_t object, const char *name)
{
    hid_t a = H5Aopen(object, name, H5P_DEFAULT), type = H5Aget_type(a);
    bool yes = H5Tdetect_class(type, H5T_REFERENCE) > 0;
    H5Tclose(type);
    H5Aclose(a);
    return yes;
}

static herr_t see_attribute(hid_t object, const char *name, const H5A_info_t *info, void *ctx)
{
    struct attributes *x = ctx;
    (void)info;
    if (H5Aexists(x->to, name) != 0)
        return 0;
    if (has_references(object, name)) {
        log_warn("attribute %s of /%s refers to other objects of %s and is not kept", name, x->path,
                 x->keep->path);
        return 0;
    }
    if (copy_attribute(object, x->to, name) == 0)
        return 0;
    char *what = mem_printf("attribute %s of /%s", name, x->path);
    x->rc = cannot(x->keep, what);
    free(what);
    return -1;
}

static int keep_attributes(const struct keep *k, hid_t from, hid_t to, const char *path)
{
    struct attributes x = {k, to, path, 0};
    if (H5Aiterate2(from, H5_INDEX_NAME, H5_ITER_INC, NULL, see_attribute, &x) < 0 && x.rc == 0)
        return cannot(k, path);
    return x.rc;
}

/* ---- objects ---- */
static int keep_group(struct keep *k, hid_t from, const char *path, int depth);

static void remember(struct keep *k, haddr_t addr, const char *path)
{
    *MEM_PUSH(k->known, k->n_known, k->cap_known) = (struct known){addr, mem_strdup(path)};
}

static const char *known_path(const struct keep *k, haddr_t addr)
{
    for (size_t i = 0; i < k->n_known; i++)
        if (k->known[i].addr == addr)
            return k->known[i].path;
    return NULL;
}

/* A link that only names something. */
static int copy_soft(hid_t group, const char *name, const H5L_info_t *info, const struct keep *k,
                     const char *path)
{
    char *value = mem_grow(NULL, info->u.val_size + 1, 1);
    const char *file, *object;
    bool ok = H5Lget_val(group, name, value, info->u.val_size, H5P_DEFAULT) >= 0;
    value[info->u.val_size] = 0;
    if (ok && info->type == H5L_TYPE_SOFT)
        ok = H5Lcreate_soft(value, k->to, path, H5P_DEFAULT, H5P_DEFAULT) >= 0;
    else if (ok)
        ok = info->type == H5L_TYPE_EXTERNAL &&
             H5Lunpack_elink_val(value, info->u.val_size, NULL, &file, &object) >= 0 &&
             H5Lcreate_external(file, object, k->to, path, H5P_DEFAULT, H5P_DEFAULT) >= 0;
    free(value);
    return ok ? 0 : cannot(k, path);
}

/* A second name of one object stays that; what else there is is copied whole. */
static int copy_object(struct keep *k, hid_t group, const char *name, haddr_t addr, const char *path)
{
    const char *same = known_path(k, addr);
    herr_t rc = same ? H5Lcreate_hard(k->to, same, k->to, path, H5P_DEFAULT, H5P_DEFAULT)
                     : H5Ocopy(group, name, k->to, path, H5P_DEFAULT, H5P_DEFAULT);
    if (!same)
        remember(k, addr, path);
    return rc < 0 ? cannot(k, path) : 0;
}

/* A group that stands in both files or is ours. Where the new file has none (logits are left out while a run
 * goes on) it gets an empty one, as the place for what the user has in it. */
static int merge_groups(struct keep *k, hid_t from, const char *path, int depth)
{
    hid_t to = H5Lexists(k->to, path, H5P_DEFAULT) > 0
                   ? H5Gopen2(k->to, path, H5P_DEFAULT)
                   : H5Gcreate2(k->to, path, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    int rc = to < 0 ? cannot(k, path) : keep_attributes(k, from, to, path);
    if (to >= 0)
        H5Gclose(to);
    return rc < 0 ? rc : keep_group(k, from, path, depth + 1);
}

/* One of ours: its own content is in the new file, or is left out there; the user's parts of it are kept. */
static int keep_ours(struct keep *k, hid_t group, const char *name, const char *path, int depth)
{
    hid_t from = H5Oopen(group, name, H5P_DEFAULT), to = -1;
    int rc = from < 0 ? cannot(k, path) : 0;
    if (rc == 0 && H5Iget_type(from) == H5I_GROUP)
        rc = merge_groups(k, from, path, depth);
    else if (rc == 0 && H5Lexists(k->to, path, H5P_DEFAULT) > 0) {
        to = H5Oopen(k->to, path, H5P_DEFAULT);
        rc = to < 0 ? cannot(k, path) : keep_attributes(k, from, to, path);
    }
    if (to >= 0)
        H5Oclose(to);
    if (from >= 0)
        H5Oclose(from);
    return rc;
}

/* A link that is not ours and whose name is free in the new file. */
static int keep_link(struct keep *k, hid_t group, const char *name, const H5L_info_t *link, const char *path)
{
    H5O_info_t info;
    if (link->type != H5L_TYPE_HARD)
        return copy_soft(group, name, link, k, path);
    if (H5Oget_info_by_name2(group, name, &info, H5O_INFO_BASIC, H5P_DEFAULT) < 0)
        return cannot(k, path);
    return copy_object(k, group, name, info.addr, path);
}

struct walk {
    struct keep *keep;
    const char *path;
    int depth, rc;
};

static herr_t see_link(hid_t group, const char *name, const H5L_info_t *link, void *ctx)
{
    struct walk *w = ctx;
    struct keep *k = w->keep;
    char *path = *w->path ? mem_printf("%s/%s", w->path, name) : mem_strdup(name);
    enum owner owner = link->type == H5L_TYPE_HARD ? owner_of(w->depth, name, group) : USERS;
    if (owner != USERS)
        w->rc = keep_ours(k, group, name, path, w->depth);
    else if (H5Lexists(k->to, path, H5P_DEFAULT) <= 0)
        w->rc = keep_link(k, group, name, link, path);
    free(path);
    return w->rc;
}

static int keep_group(struct keep *k, hid_t from, const char *path, int depth)
{
    struct walk w = {k, path, depth, 0};
    if (H5Literate(from, H5_INDEX_NAME, H5_ITER_INC, NULL, see_link, &w) < 0 && w.rc == 0)
        return cannot(k, path);
    return w.rc;
}

/* Where our tables and arrays are in the old file, so that a user's second name for one is not taken for an
 * object of its own. */
static void know_ours(struct keep *k)
{
    for (int i = 0; i < T_N + 2; i++) {
        const char *name = i < T_N ? schema_table((enum table_id)i)->name : i == T_N ? "text" : "tokens";
        H5O_info_t info;
        if (H5Lexists(k->from, name, H5P_DEFAULT) > 0 && H5Lexists(k->to, name, H5P_DEFAULT) > 0 &&
            H5Oget_info_by_name2(k->from, name, &info, H5O_INFO_BASIC, H5P_DEFAULT) >= 0)
            remember(k, info.addr, name);
    }
}

int keep_users(hid_t to, const char *from)
{
    struct keep k = {.to = to, .path = from};
    if (!file_exists(from))
        return 0;
    TRY(h5_open(&k.from, from));
    know_ours(&k);
    int rc = keep_attributes(&k, k.from, to, "");
    if (rc == 0)
        rc = keep_group(&k, k.from, "", 0);
    for (size_t i = 0; i < k.n_known; i++)
        free(k.known[i].path);
    free(k.known);
    H5Fclose(k.from);
    return rc;
}

int keep_damaged(const char *path)
{
    char *to = file_aside(path, "damaged");
    int rc =
        rename(path, to) == 0 ? 0 : err_set(ERR_IO, "cannot rename %s to %s: %s", path, to, strerror(errno));
    if (rc == 0)
        log_warn("the damaged file is kept as %s: remove it when you no longer want to look into it", to);
    free(to);
    return rc;
}
