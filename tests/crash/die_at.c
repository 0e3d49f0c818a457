/* Kills the process before its k-th call that changes a file or tells a client something.
 *
 * Loaded by LD_PRELOAD. DIE_AT names a file of three 64-bit numbers, shared with the test:
 * whether calls count, how many did, and which one kills (0: none). Threads share the count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct shared { _Atomic int64_t armed, count, die_at; };

static struct shared *state(void) {
    static _Atomic(struct shared *) mapped;
    struct shared *found = mapped;
    const char *path = found ? NULL : getenv("DIE_AT");
    if (path) {
        int file = open(path, O_RDWR | O_CLOEXEC);
        if (file < 0)
            return NULL;
        found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        mapped = found = found == MAP_FAILED ? NULL : found;
    }
    return found;
}

static void step(void) {
    struct shared *shared = state();
    if (shared && shared->armed && atomic_fetch_add(&shared->count, 1) + 1 == shared->die_at)
        kill(getpid(), SIGKILL);
}

/* What is written to a pipe is a thread waking another one, or a log; only files and sockets count. */
static int counts(int descriptor) {
    struct stat status;
    return fstat(descriptor, &status) == 0 && (S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode))
        && !(fcntl(descriptor, F_GETFL) & O_APPEND);
}

#define REAL(result, name, ...)                                        \
    static result (*real)(__VA_ARGS__);                                \
    if (!real)                                                         \
        real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define ON_FILE(result, name, declared, given, ...)                    \
    result name declared {                                             \
        REAL(result, name, __VA_ARGS__);                               \
        if (counts(fd))                                                \
            step();                                                    \
        return real given;                                             \
    }

#define ON_NAME(result, name, declared, given, ...)                    \
    result name declared {                                             \
        REAL(result, name, __VA_ARGS__);                               \
        step();                                                        \
        return real given;                                             \
    }

ON_FILE(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), int, const void *, size_t)
ON_FILE(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), int, const void *, size_t, off_t)
ON_FILE(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), int, const void *, size_t, off64_t)
ON_FILE(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), int, const struct iovec *, int)
ON_FILE(ssize_t, send, (int fd, const void *b, size_t n, int f), (fd, b, n, f), int, const void *, size_t, int)
ON_FILE(ssize_t, sendto, (int fd, const void *b, size_t n, int f, const struct sockaddr *a, socklen_t l), (fd, b, n, f, a, l), int, const void *, size_t, int, const struct sockaddr *, socklen_t)
ON_FILE(ssize_t, sendmsg, (int fd, const struct msghdr *m, int f), (fd, m, f), int, const struct msghdr *, int)
ON_NAME(int, fsync, (int fd), (fd), int)
ON_NAME(int, fdatasync, (int fd), (fd), int)
ON_FILE(int, ftruncate, (int fd, off_t n), (fd, n), int, off_t)
ON_FILE(int, ftruncate64, (int fd, off64_t n), (fd, n), int, off64_t)
ON_FILE(int, fallocate, (int fd, int m, off_t o, off_t n), (fd, m, o, n), int, int, off_t, off_t)
ON_FILE(int, posix_fallocate, (int fd, off_t o, off_t n), (fd, o, n), int, off_t, off_t)
ON_NAME(int, rename, (const char *a, const char *b), (a, b), const char *, const char *)
ON_NAME(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), int, const char *, int, const char *)
ON_NAME(int, unlink, (const char *a), (a), const char *)
ON_NAME(int, unlinkat, (int d, const char *a, int f), (d, a, f), int, const char *, int)
ON_NAME(int, mkdir, (const char *a, mode_t m), (a, m), const char *, mode_t)
ON_NAME(int, mkdirat, (int d, const char *a, mode_t m), (d, a, m), int, const char *, mode_t)
ON_NAME(int, link, (const char *a, const char *b), (a, b), const char *, const char *)
