#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static _Thread_local char text[1024];

/* One line to read, whatever pieces of files were quoted in it. */
static void keep_one_line(void)
{
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) /* a terminal would obey them */
            *p = *p == '\n' || *p == '\r' || *p == '\t' ? ' ' : '?';
}

int err_set(int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    keep_one_line();
    return code;
}

int err_prefix(int code, const char *fmt, ...)
{
    char old[sizeof text];
    memcpy(old, text, sizeof text);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : (size_t)n < sizeof text - 3 ? (size_t)n : sizeof text - 3;
    size_t room = sizeof text - 3 - at, len = strlen(old);
    memcpy(text + at, ": ", 2);
    memcpy(text + at + 2, old, len < room ? len : room);
    text[at + 2 + (len < room ? len : room)] = 0;
    keep_one_line();
    return code;
}

int err_of_errno(int e)
{
    return e == ENOSPC || e == EDQUOT || e == EFBIG ? ERR_AGAIN : ERR_IO;
}

int err_status(int code)
{
    return code == ERR_AGAIN ? EX_TEMPFAIL : code < 0;
}

const char *err_text(void)
{
    return text;
}

const char *err_name(int code)
{
    static const char *const names[] = {"ok",
                                        "bad input",
                                        "input/output error",
                                        "out of memory",
                                        "prompt too long",
                                        "not a number",
                                        "device error",
                                        "internal error",
                                        "stopped",
                                        [-ERR_DAMAGED] = "damaged file"};
    int i = -code;
    return i >= 0 && i < (int)(sizeof names / sizeof *names) && names[i] ? names[i] : "unknown error";
}
