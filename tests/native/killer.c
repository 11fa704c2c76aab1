/* Kills hfbuild at the N-th call that changes the disk. Made for tests/it/every_effect.rs, which compiles it:
 *
 *     cc -shared -fPIC -O1 -o killer.so killer.c
 *
 * Preloaded (LD_PRELOAD), it stands before the C library's calls that change the disk, and counts those that change
 * something below KILL_ROOT, and that really would: a mkdir of a folder that is there is none. The environment says what
 * it does:
 *
 *     KILL_ROOT=DIR    only paths below this folder count (canonical, no slash at the end)
 *     KILL_TRACE=FILE  a line an effect is added to this file: the call and its path
 *     KILL_AT=N        the N-th effect does not happen: SIGKILL stands in its place
 *     KILL_TORN=1      if the N-th effect is a write, half of its bytes are written first
 *     KILL_STOP=1      SIGSTOP instead: the process stands still before its N-th effect, and goes on after SIGCONT
 *
 * After the N-th effect no thread gets another one: each that tries waits for the end. Programs that hfbuild starts are
 * left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define CLONE_FILE 0x40049409 /* FICLONE */

static pid_t self;
static long at;
static int torn;
static int stop;
static int trace = -1;
static char root[PATH_MAX];
static size_t root_len;
static long count;
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *below = getenv("KILL_ROOT");
    unsetenv("LD_PRELOAD");
    if (!below || strcmp(program_invocation_short_name, "hfbuild") != 0)
        return;
    snprintf(root, sizeof root, "%s", below);
    root_len = strlen(root);
    at = getenv("KILL_AT") ? atol(getenv("KILL_AT")) : 0;
    torn = getenv("KILL_TORN") != NULL;
    stop = getenv("KILL_STOP") != NULL;
    if (getenv("KILL_TRACE"))
        trace = syscall(SYS_openat, AT_FDCWD, getenv("KILL_TRACE"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    self = getpid();
}

/* The path that an open file or folder has. */
static int path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = 0;
    return n > 0;
}

static int full_path(int dir, const char *path, char *out) {
    char base[PATH_MAX];
    if (!path)
        return 0;
    if (path[0] == '/')
        snprintf(out, PATH_MAX, "%s", path);
    else if (dir == AT_FDCWD ? getcwd(base, sizeof base) != NULL : path_of(dir, base))
        snprintf(out, PATH_MAX, "%.2000s/%.2000s", base, path);
    else
        return 0;
    return 1;
}

static int is_below(const char *full) {
    return strncmp(full, root, root_len) == 0 && (full[root_len] == '/' || full[root_len] == 0);
}

static int mine(void) {
    return root_len && getpid() == self;
}

static void end(void) {
    for (;;)
        kill(self, SIGKILL);
}

/* Counts an effect. Ends the process where it is the one; says 1 where half of it has to be done first, then end(). */
static int effect(const char *call, const char *full, int is_write) {
    char line[PATH_MAX + 64];
    pthread_mutex_lock(&one); /* kept locked from the N-th effect on */
    long n = ++count;
    if (trace >= 0) {
        int length = snprintf(line, sizeof line, "%s %s\n", call, full + root_len);
        syscall(SYS_write, trace, line, (size_t)length);
    }
    if (n == at && stop)
        kill(self, SIGSTOP);
    else if (n == at && torn && is_write)
        return 1;
    else if (n == at)
        end();
    pthread_mutex_unlock(&one);
    return 0;
}

/* Whether the folder is there that a path is to be made in. */
static int has_parent(const char *full) {
    char parent[PATH_MAX];
    struct stat st;
    snprintf(parent, sizeof parent, "%s", full);
    char *slash = strrchr(parent, '/');
    *slash = 0;
    return stat(slash == parent ? "/" : parent, &st) == 0;
}

/* An effect on a path. `want` says when it is one: 1 the path is there, 0 it is not, -1 always. */
static void on_path(const char *call, int dir, const char *path, int want) {
    char full[PATH_MAX];
    struct stat st;
    int before = errno;
    if (mine() && full_path(dir, path, full) && is_below(full)) {
        int there = lstat(full, &st) == 0;
        if ((want < 0 || want == there) && (there || has_parent(full)))
            effect(call, full, 0);
    }
    errno = before;
}

/* An effect on an open regular file; 1: do half, then end(). */
static int on_file(const char *call, int fd, int is_write) {
    char full[PATH_MAX];
    struct stat st;
    int before = errno, half = 0;
    if (mine() && fd != trace && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && path_of(fd, full) && is_below(full))
        half = effect(call, full, is_write);
    errno = before;
    return half;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void on_open(const char *call, int dir, const char *path, int flags) {
    if (flags & O_TRUNC)
        on_path(call, dir, path, flags & O_CREAT ? -1 : 1);
    else if (flags & O_CREAT)
        on_path(call, dir, path, 0);
}

#define MODE                                     \
    mode_t mode = 0;                             \
    if (flags & (O_CREAT | __O_TMPFILE)) {       \
        va_list rest;                            \
        va_start(rest, flags);                   \
        mode = va_arg(rest, mode_t);             \
        va_end(rest);                            \
    }

int open(const char *path, int flags, ...) {
    MODE
    on_open("open", AT_FDCWD, path, flags);
    return NEXT(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE
    on_open("open", AT_FDCWD, path, flags);
    return NEXT(open64)(path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
    MODE
    on_open("open", dir, path, flags);
    return NEXT(openat)(dir, path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
    MODE
    on_open("open", dir, path, flags);
    return NEXT(openat64)(dir, path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t n) {
    int half = on_file("write", fd, 1);
    ssize_t done = NEXT(write)(fd, bytes, half ? n / 2 : n);
    if (half)
        end();
    return done;
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset) {
    int half = on_file("write", fd, 1);
    ssize_t done = NEXT(pwrite64)(fd, bytes, half ? n / 2 : n, offset);
    if (half)
        end();
    return done;
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) {
    return pwrite64(fd, bytes, n, offset);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    if (on_file("write", fd, 1)) {
        if (n > 0)
            NEXT(write)(fd, parts[0].iov_base, parts[0].iov_len / 2);
        end();
    }
    return NEXT(writev)(fd, parts, n);
}

/* Half of what is left of the source, at most. */
static size_t half_of(int from, size_t n) {
    struct stat st;
    if (fstat(from, &st) == 0 && (size_t)st.st_size < n)
        n = st.st_size;
    return n / 2;
}
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags) {
    if (on_file("copy", to, 1)) {
        NEXT(copy_file_range)(from, a, to, b, half_of(from, n), flags);
        end();
    }
    return NEXT(copy_file_range)(from, a, to, b, n, flags);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t n) {
    if (on_file("copy", to, 1)) {
        NEXT(sendfile64)(to, from, offset, half_of(from, n));
        end();
    }
    return NEXT(sendfile64)(to, from, offset, n);
}
ssize_t splice(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags) {
    if (on_file("copy", to, 1)) {
        NEXT(splice)(from, a, to, b, n / 2, flags);
        end();
    }
    return NEXT(splice)(from, a, to, b, n, flags);
}
int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (request == CLONE_FILE)
        on_file("clone", fd, 0);
    return NEXT(ioctl)(fd, request, argument);
}

int rename(const char *from, const char *to) {
    on_path("rename", AT_FDCWD, from, 1);
    return NEXT(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    on_path("rename", a, from, 1);
    return NEXT(renameat)(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    on_path("rename", a, from, 1);
    return NEXT(renameat2)(a, from, b, to, flags);
}
int mkdir(const char *path, mode_t mode) {
    on_path("mkdir", AT_FDCWD, path, 0);
    return NEXT(mkdir)(path, mode);
}
int mkdirat(int dir, const char *path, mode_t mode) {
    on_path("mkdir", dir, path, 0);
    return NEXT(mkdirat)(dir, path, mode);
}
int unlink(const char *path) {
    on_path("unlink", AT_FDCWD, path, 1);
    return NEXT(unlink)(path);
}
int unlinkat(int dir, const char *path, int flags) {
    on_path("unlink", dir, path, 1);
    return NEXT(unlinkat)(dir, path, flags);
}
int rmdir(const char *path) {
    on_path("rmdir", AT_FDCWD, path, 1);
    return NEXT(rmdir)(path);
}
int symlink(const char *target, const char *path) {
    on_path("symlink", AT_FDCWD, path, 0);
    return NEXT(symlink)(target, path);
}
int symlinkat(const char *target, int dir, const char *path) {
    on_path("symlink", dir, path, 0);
    return NEXT(symlinkat)(target, dir, path);
}
int link(const char *from, const char *to) {
    on_path("link", AT_FDCWD, to, 0);
    return NEXT(link)(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    on_path("link", b, to, 0);
    return NEXT(linkat)(a, from, b, to, flags);
}
int ftruncate64(int fd, off64_t size) {
    on_file("truncate", fd, 0);
    return NEXT(ftruncate64)(fd, size);
}
int ftruncate(int fd, off_t size) {
    return ftruncate64(fd, size);
}
int chmod(const char *path, mode_t mode) {
    on_path("chmod", AT_FDCWD, path, 1);
    return NEXT(chmod)(path, mode);
}
int fchmod(int fd, mode_t mode) {
    on_file("chmod", fd, 0);
    return NEXT(fchmod)(fd, mode);
}
int fchmodat(int dir, const char *path, mode_t mode, int flags) {
    on_path("chmod", dir, path, 1);
    return NEXT(fchmodat)(dir, path, mode, flags);
}
int fsync(int fd) {
    on_file("sync", fd, 0);
    return NEXT(fsync)(fd);
}
int fdatasync(int fd) {
    on_file("sync", fd, 0);
    return NEXT(fdatasync)(fd);
}
