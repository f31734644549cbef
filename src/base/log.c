#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static enum log_level current = LOG_INFO;
static char prefix[32];

void log_set_level(enum log_level level)
{
    current = level;
}

enum log_level log_get_level(void)
{
    return current;
}

void log_set_prefix(const char *text)
{
    snprintf(prefix, sizeof prefix, "%s", text);
}

static void say(enum log_level level, const char *mark, const char *fmt, va_list ap)
{
    if (level > current)
        return;
    char line[2048];
    int n = snprintf(line, sizeof line, "kvsweep%s%s: %s", *prefix ? " " : "", prefix, mark);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    size_t end = (size_t)(n + (m > 0 ? m : 0));
    if (end > sizeof line - 2)
        end = sizeof line - 2;
    line[end] = '\n';
    fwrite(line, 1, end + 1, stderr); /* one write, so that lines of several ranks do not mix */
}

void log_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(LOG_WARN, "warning: ", fmt, ap);
    va_end(ap);
}

void log_info(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(LOG_INFO, "", fmt, ap);
    va_end(ap);
}

void log_debug(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(LOG_DEBUG, "", fmt, ap);
    va_end(ap);
}
