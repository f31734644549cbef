/* A configuration as YAML. */
#include "fuzz.h"

#include "base/mem.h"
#include "sweep/node.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static char *const env[] = {"HOME=/h", NULL};
    const struct vars vars = {.cache = "/c", .data = "/d", .models = "/m", .env = env};
    char *text = mem_strndup((const char *)data, n);
    struct node *root = NULL;
    if (node_load(&root, "fuzz.yaml", text, &vars) == 0) {
        struct node *copy = node_copy(root);
        node_set(root, "memory", "1GiB", &vars);
        node_free(copy);
    }
    node_free(root);
    free(text);
    return 0;
}
