#include "sweep/stop.h"

#include "base/file.h"
#include "base/mem.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* Only lock-free atomics and constant buffers are touched inside handlers. */
static atomic_int wish, first_signal;
static struct {
    char dir[1024], path[1200];
    int attempt;
    atomic_bool armed;
} crash;

static void say(const char *text)
{
    ssize_t n = write(STDERR_FILENO, text, strlen(text));
    (void)n;
}

static void on_stop(int sig)
{
    const int before = atomic_load(&wish), now = sig == SIGUSR1 ? STOP_SOON : STOP_NOW;
    if (before == STOP_NOW && now == STOP_NOW) {
        say("kvsweep: stopped at once by a second signal; finished work is kept, the same command resumes\n");
        _exit(EX_TEMPFAIL);
    }
    if (!atomic_load(&first_signal))
        atomic_store(&first_signal, sig);
    if (now > before)
        atomic_store(&wish, now);
}

void stop_install(void)
{
    struct sigaction act = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGUSR1, &act, NULL);
    struct sigaction hup;
    if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN) /* nohup means it */
        sigaction(SIGHUP, &act, NULL);
}

enum stop_wish stop_wished(void)
{
    return (enum stop_wish)atomic_load(&wish);
}

const char *stop_signal_name(void)
{
    switch (atomic_load(&first_signal)) {
    case SIGINT:
        return "SIGINT";
    case SIGTERM:
        return "SIGTERM";
    case SIGHUP:
        return "SIGHUP";
    case SIGUSR1:
        return "SIGUSR1";
    default:
        return "";
    }
}

/* About the armed bundle; in signal handlers too. */
static void leave_note(const char *text, size_t n_text)
{
    if (!atomic_exchange(&crash.armed, false))
        return;
    mkdir(crash.dir, 0777);
    int fd = open(crash.path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return;
    ssize_t n = write(fd, text, n_text);
    (void)n;
    fsync(fd);
    close(fd);
}

static void on_crash(int sig)
{
    char text[] = "signal 00\n";
    text[7] = (char)('0' + sig / 10 % 10);
    text[8] = (char)('0' + sig % 10);
    leave_note(text, sizeof text - 1);
    signal(sig, SIG_DFL); /* the blocked signal comes again when this returns, or by raise for abort() */
    raise(sig);
}

void crash_install(const char *dir, int attempt)
{
    static char stack[65536]; /* a handler for stack overflow needs a stack of its own */
    snprintf(crash.dir, sizeof crash.dir, "%s", dir);
    crash.attempt = attempt;
    stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alt, NULL);
    struct sigaction act = {.sa_handler = on_crash, .sa_flags = SA_ONSTACK};
    sigemptyset(&act.sa_mask);
    static const int sigs[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE};
    for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++)
        sigaction(sigs[i], &act, NULL);
}

void crash_arm(uint64_t bundle)
{
    snprintf(crash.path, sizeof crash.path, "%s/%016llx.%d.%ld", crash.dir, (unsigned long long)bundle,
             crash.attempt, (long)getpid());
    atomic_store(&crash.armed, true);
}

void crash_note(const char *text)
{
    if (crash.dir[0])
        leave_note(text, strlen(text));
}

void crash_disarm(void)
{
    atomic_store(&crash.armed, false);
}

int crash_notes(const char *dir, uint64_t bundle)
{
    char name[20], **names = NULL;
    int n = 0, count = 0;
    snprintf(name, sizeof name, "%016llx.", (unsigned long long)bundle);
    if (!file_is_dir(dir) || file_list(dir, &names, &n) < 0)
        return 0;
    for (int i = 0; i < n; i++)
        count += !strncmp(names[i], name, 17);
    file_list_free(names, n);
    return count;
}

char *crash_why(const char *dir, uint64_t bundle)
{
    char name[20], **names = NULL, line[512] = "";
    int n = 0;
    snprintf(name, sizeof name, "%016llx.", (unsigned long long)bundle);
    if (!file_is_dir(dir) || file_list(dir, &names, &n) < 0)
        return mem_strdup("");
    for (int i = 0; i < n && !line[0]; i++) {
        char *path = file_join(dir, names[i]);
        FILE *f = strncmp(names[i], name, 17) ? NULL : fopen(path, "r");
        if (f && fgets(line, sizeof line, f))
            line[strcspn(line, "\n")] = 0;
        if (f)
            fclose(f);
        free(path);
    }
    file_list_free(names, n);
    return mem_strdup(line);
}

void crash_clear(const char *dir)
{
    char **names = NULL;
    int n = 0;
    if (!file_is_real_dir(dir) || file_list(dir, &names, &n) < 0) /* what a link leads to is not ours */
        return;
    for (int i = 0; i < n; i++) {
        char *path = file_join(dir, names[i]);
        unlink(path);
        free(path);
    }
    file_list_free(names, n);
    rmdir(dir);
}
