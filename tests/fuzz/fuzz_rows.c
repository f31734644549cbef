/* JSON lines of a data set. */
#include "fuzz.h"

#include "task/row.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct rows r;
    const char *path;
    json_t *object;
    int32_t v;
    fuzz_file("rows.jsonl", data, n, &path);
    if (rows_open(&r, path) < 0)
        return 0;
    while (rows_next(&r, &object) == 1) {
        row_int(&r, object, "length", &v);
        json_decref(object);
    }
    rows_close(&r);
    return 0;
}
