/* Errors: functions return 0 or a negative enum kvs_err; the facts are kept as one line of text per thread.
 */
#ifndef KVS_BASE_ERR_H
#define KVS_BASE_ERR_H

enum kvs_err {
    ERR_INPUT = -1,    /* what the user gave (file, key, value) cannot be used */
    ERR_IO = -2,       /* the system refused to read or write */
    ERR_NOMEM = -3,    /* host or device memory ran out: on one unit it is a result, not a failure */
    ERR_TOO_LONG = -4, /* more tokens than the model can index */
    ERR_NAN = -5,      /* a logit was not finite */
    ERR_DEVICE = -6,   /* a kernel or the device failed */
    ERR_INTERNAL = -7, /* a state that should not exist */
    ERR_AGAIN =
        -8, /* what is finished is kept and the same command goes on: stopped, a lost rank, a full disk */
    ERR_DAMAGED = -9,  /* a results file is not what was written */
};

/* Stores the text (printf format, cut at 1023 bytes) for this thread and returns `code`. */
int err_set(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Puts "<prefix>: " before the stored text and returns `code`: callers add which file or setting it was. */
int err_prefix(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The code for a failed system call of this errno: ERR_AGAIN where room can be made (disk full, quota, limit
 * of the file size), else ERR_IO. */
int err_of_errno(int e);
/* The process's exit status for what a command returned: 0, 75 (EX_TEMPFAIL) for ERR_AGAIN, else 1. */
int err_status(int code);
const char *err_text(void);
const char *err_name(int code); /* "bad input", "out of memory", ... */

#define TRY(call)                                                                                            \
    do {                                                                                                     \
        int try_rc_ = (call);                                                                                \
        if (try_rc_ < 0)                                                                                     \
            return try_rc_;                                                                                  \
    } while (0)

/* The same with a clean-up label; needs `int rc` in scope. */
#define TRY_GOTO(call, label)                                                                                \
    do {                                                                                                     \
        rc = (call);                                                                                         \
        if (rc < 0)                                                                                          \
            goto label;                                                                                      \
    } while (0)

#endif
