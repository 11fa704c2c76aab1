/* Another time of day for hfbuild. Made for tests/it/damage.rs, which compiles it:
 *
 *     cc -shared -fPIC -O1 -o clock.so clock.c
 *
 * Preloaded (LD_PRELOAD), it adds CLOCK_OFFSET seconds to the real-time clock of a process called hfbuild. The times of
 * files stay the kernel's own, as on a machine whose clock was set while nothing ran.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long offset;

__attribute__((constructor)) static void begin(void) {
    unsetenv("LD_PRELOAD");
    if (getenv("CLOCK_OFFSET") && strcmp(program_invocation_short_name, "hfbuild") == 0)
        offset = atol(getenv("CLOCK_OFFSET"));
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    long failed = syscall(SYS_clock_gettime, clock, out);
    if (!failed && clock == CLOCK_REALTIME)
        out->tv_sec += offset;
    return (int)failed;
}
