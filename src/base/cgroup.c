/* Control groups (kernel: Documentation/admin-guide/cgroup-v1, cgroup-v2.rst). */
#include "base/cgroup.h"

#include "base/file.h"
#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One hierarchy of groups that this process is in. */
struct hierarchy {
    const char *root;   /* as in cgroup_limits */
    const char *wanted; /* controller of version 1; NULL: version 2 */
    char *mount;        /* where it is mounted, without the root in front; owned */
    char *from;         /* the group that is seen there: "/" but in some containers; owned */
};

/* The whole of a text file of the kernel, owned; NULL if it cannot be read. Its size is not known before. */
static char *text_of(const char *root, const char *path)
{
    char *full = mem_printf("%s%s", root, path);
    FILE *f = fopen(full, "r");
    free(full);
    if (!f)
        return NULL;
    size_t n = 0, room = 4096;
    char *text = mem_alloc(room, 1);
    for (size_t got; (got = fread(text + n, 1, room - n - 1, f)) > 0;) {
        n += got;
        if (n + 1 == room)
            text = mem_grow(text, room *= 2, 1);
    }
    fclose(f);
    text[n] = 0;
    return text;
}

/* Whether `list`, up to `end`, holds the word between its commas. */
static bool has_word(const char *list, const char *end, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; at < end;) {
        const char *comma = memchr(at, ',', (size_t)(end - at)), *stop = comma ? comma : end;
        if ((size_t)(stop - at) == n && memcmp(at, word, n) == 0)
            return true;
        at = stop + 1;
    }
    return false;
}

/* Octal escapes of mountinfo (a space is \040) undone in place. */
static void unescape(char *s)
{
    char *to = s;
    for (; *s; to++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
            s[3] <= '7') {
            *to = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + s[3] - '0');
            s += 4;
        } else {
            *to = *s++;
        }
    }
    *to = 0;
}

/* A line of mountinfo: "36 35 98:0 FROM MOUNT options optional… - TYPE source superoptions". */
static bool mount_line(struct hierarchy *h, char *line)
{
    char *tail = strstr(line, " - "), *field[5], *save = NULL, *type, *super;
    if (!tail)
        return false;
    *tail = 0;
    field[0] = strtok_r(line, " ", &save);
    for (int i = 1; i < 5 && field[i - 1]; i++)
        field[i] = strtok_r(NULL, " ", &save);
    type = strtok_r(tail + 3, " ", &save);
    if (!field[0] || !field[1] || !field[2] || !field[3] || !field[4] || !type || !strtok_r(NULL, " ", &save))
        return false;
    super = strtok_r(NULL, " ", &save);
    super = super ? super : "";
    if (h->wanted ? strcmp(type, "cgroup") != 0 || !has_word(super, super + strlen(super), h->wanted)
                  : strcmp(type, "cgroup2") != 0)
        return false;
    unescape(field[3]);
    unescape(field[4]);
    h->from = mem_strdup(field[3]);
    h->mount = mem_strdup(field[4]);
    return true;
}

static bool find_mount(struct hierarchy *h)
{
    char *text = text_of(h->root, "/proc/self/mountinfo"), *save = NULL;
    bool found = false;
    for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && !found;
         line = strtok_r(NULL, "\n", &save))
        found = mount_line(h, line);
    free(text);
    return found;
}

/* The process's group in a hierarchy, from its line "NUMBER:controllers:PATH"; owned, NULL if it is in none.
 */
static char *own_group(const struct hierarchy *h)
{
    char *text = text_of(h->root, "/proc/self/cgroup"), *save = NULL, *path = NULL;
    for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && !path;
         line = strtok_r(NULL, "\n", &save)) {
        char *list = strchr(line, ':'), *end = list ? strchr(list + 1, ':') : NULL;
        if (!end)
            continue;
        if (h->wanted ? has_word(list + 1, end, h->wanted) : strncmp(line, "0::", 3) == 0)
            path = mem_strdup(end + 1);
    }
    free(text);
    return path;
}

/* The group's folder below the mount: what lies outside of the part that is mounted (a container sees its own
 * group alone) cannot be read, so the mount itself stands for it. */
static char *group_dir(const struct hierarchy *h, const char *group)
{
    size_t n = strcmp(h->from, "/") == 0 ? 0 : strlen(h->from);
    bool inside = strncmp(group, h->from, n) == 0 && (group[n] == '/' || !group[n]) && !strstr(group, "/..");
    char *dir = mem_printf("%s%s", h->mount, inside ? group + n : "");
    for (size_t end = strlen(dir); end > strlen(h->mount) && dir[end - 1] == '/';)
        dir[--end] = 0;
    return dir;
}

/* A number in a file of a group: after `key` at the beginning of a line, the first one if key is "". "max" is
 * none. */
static bool number(const struct hierarchy *h, const char *dir, const char *name, const char *key, uint64_t *v)
{
    char *path = file_join(dir, name), *text = text_of(h->root, path);
    const char *at = text;
    while (at && strncmp(at, key, strlen(key)) != 0)
        at = (at = strchr(at, '\n')) ? at + 1 : NULL;
    bool found = at && sscanf(at + strlen(key), "%" SCNu64, v) == 1 && at[strlen(key)] != '-';
    free(text);
    free(path);
    return found;
}

/* The page cache belongs to the group, but is given up when memory is asked for. */
static uint64_t file_pages(const struct hierarchy *h, const char *dir)
{
    uint64_t idle = 0, active = 0;
    number(h, dir, "memory.stat", h->wanted ? "total_inactive_file " : "inactive_file ", &idle);
    number(h, dir, "memory.stat", h->wanted ? "total_active_file " : "active_file ", &active);
    return idle + active;
}

static void memory_limit(const struct hierarchy *h, const char *dir, struct cgroup_limits *l)
{
    uint64_t most = UINT64_MAX, high, used = 0;
    bool limited = number(h, dir, h->wanted ? "memory.limit_in_bytes" : "memory.max", "", &most);
    /* Above memory.high nobody is killed, but put to sleep until others give up memory. */
    if (!h->wanted && number(h, dir, "memory.high", "", &high)) {
        most = high < most ? high : most;
        limited = true;
    }
    if (!limited || !number(h, dir, h->wanted ? "memory.usage_in_bytes" : "memory.current", "", &used))
        return;
    uint64_t files = file_pages(h, dir);
    used -= files < used ? files : used;
    uint64_t left = most > used ? most - used : 0;
    l->memory = left < l->memory ? left : l->memory;
}

static void cpu_limit(const struct hierarchy *h, const char *dir, struct cgroup_limits *l)
{
    uint64_t quota, period = 0;
    if (h->wanted) {
        if (!number(h, dir, "cpu.cfs_quota_us", "", &quota) ||
            !number(h, dir, "cpu.cfs_period_us", "", &period))
            return;
    } else {
        char *path = file_join(dir, "cpu.max"), *text = text_of(h->root, path);
        int n = text ? sscanf(text, "%" SCNu64 " %" SCNu64, &quota, &period) : 0;
        free(text);
        free(path);
        if (n != 2)
            return;
    }
    if (quota && period && (double)quota / (double)period < l->cpus)
        l->cpus = (double)quota / (double)period;
}

/* All groups from the process's own up to the mount. */
static void read_groups(struct hierarchy h,
                        void (*limit)(const struct hierarchy *, const char *, struct cgroup_limits *),
                        struct cgroup_limits *l)
{
    char *group = find_mount(&h) ? own_group(&h) : NULL;
    if (group) {
        char *dir = group_dir(&h, group);
        size_t top = strlen(h.mount);
        for (size_t end = strlen(dir);; dir[end] = 0) {
            limit(&h, dir, l);
            if (end <= top)
                break;
            while (end > top && dir[--end] != '/') {
            }
        }
        free(dir);
    }
    free(group);
    free(h.mount);
    free(h.from);
}

void cgroup_limits(struct cgroup_limits *l, const char *root)
{
    *l = (struct cgroup_limits){.memory = UINT64_MAX, .cpus = INFINITY};
    read_groups((struct hierarchy){.root = root}, memory_limit, l);
    read_groups((struct hierarchy){.root = root}, cpu_limit, l);
    read_groups((struct hierarchy){.root = root, .wanted = "memory"}, memory_limit, l);
    read_groups((struct hierarchy){.root = root, .wanted = "cpu"}, cpu_limit, l);
}

int cgroup_threads(double cpus, int most)
{
    return !(cpus < (double)most) ? most : cpus < 1 ? 1 : (int)cpus;
}
