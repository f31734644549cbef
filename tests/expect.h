/* What tests expect of calls that return an error code. */
#ifndef KVS_TESTS_EXPECT_H
#define KVS_TESTS_EXPECT_H

#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) < 0)                                                                                      \
            fail_msg("%s: %s", #call, err_text());                                                           \
    } while (0)
#define REFUSED(call, words)                                                                                 \
    do {                                                                                                     \
        assert_true((call) < 0);                                                                             \
        if (!strstr(err_text(), words))                                                                      \
            fail_msg("\"%s\" is not in: %s", words, err_text());                                             \
    } while (0)

#endif
