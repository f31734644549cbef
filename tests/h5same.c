/* h5same A.h5 B.h5: exit status 0 if their content is equal (hdf5io/equal.h), 1 with the first difference, 2
 * if one cannot be read. For the farm tests. */
#include "base/err.h"
#include "hdf5io/equal.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    struct str difference = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: h5same A.h5 B.h5\n");
        return 2;
    }
    if (equal_files(argv[1], argv[2], &difference) < 0) {
        fprintf(stderr, "%s\n", err_text());
        return 2;
    }
    if (difference.n)
        printf("%s\n", difference.data);
    int rc = difference.n ? 1 : 0;
    str_free(&difference);
    return rc;
}
