/* The bench's small helper: a meter for one command, and the two floors that no build tool can go below.
 *
 *   engine meter CMD ARG...     runs CMD, its stdout to stderr, then prints: wall, user and system seconds, peak KiB, exit status
 *   engine stat LIST THREADS    one statx for each line of the file LIST, on THREADS threads
 *   engine spawn LINES JOBS     `sh -c LINE` for each line of the file LINES, JOBS at once
 *
 * The meter is here and not in Python because the peak memory of a child starts at that of the process it was forked
 * from: Python's 15 MB would hide what a small tool takes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

static int meter(char **command) {
    struct timespec begun, ended;
    struct rusage used;
    int status;
    pid_t pid;
    posix_spawn_file_actions_t files; /* stdout is the meter's own */
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, 2, 1);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    int error = posix_spawnp(&pid, command[0], &files, NULL, command, environ);
    if (error) return fprintf(stderr, "%s: %s\n", command[0], strerror(error)), 127;
    if (wait4(pid, &status, 0, &used) != pid) return perror("wait4"), 127;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double wall = ended.tv_sec - begun.tv_sec + (ended.tv_nsec - begun.tv_nsec) / 1e9;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    printf("%.6f %.6f %.6f %ld %d\n", wall, seconds(used.ru_utime), seconds(used.ru_stime), used.ru_maxrss, code);
    return 0;
}

static char **lines;
static long count, threads, missing;

static int read_lines(const char *list) {
    FILE *file = fopen(list, "r");
    if (!file) return perror(list), 1;
    char *line = NULL;
    size_t room = 0;
    for (ssize_t n; (n = getline(&line, &room, file)) > 0;) {
        if (line[n - 1] == '\n') line[n - 1] = 0;
        if (count % 1024 == 0) lines = realloc(lines, (count + 1024) * sizeof *lines);
        lines[count++] = strdup(line);
    }
    return 0;
}

static void *stat_some(void *first) {
    struct statx found;
    for (long i = (long)first; i < count; i += threads)
        if (statx(AT_FDCWD, lines[i], 0, STATX_BASIC_STATS, &found)) __sync_fetch_and_add(&missing, 1);
    return NULL;
}

static int stat_all(void) {
    pthread_t others[64];
    for (long i = 1; i < threads; i++) pthread_create(&others[i], NULL, stat_some, (void *)i);
    stat_some(0);
    for (long i = 1; i < threads; i++) pthread_join(others[i], NULL);
    return missing ? fprintf(stderr, "%ld files are not there\n", missing), 1 : 0;
}

static int spawn_all(long jobs) {
    long running = 0;
    int status, failed = 0;
    for (long i = 0; i < count || running;) {
        if (i < count && running < jobs) {
            pid_t pid;
            char *command[] = {"sh", "-c", lines[i], NULL};
            if (posix_spawnp(&pid, "sh", NULL, NULL, command, environ)) return 1;
            i++, running++;
        } else {
            if (wait(&status) < 0) return 1;
            failed |= status, running--;
        }
    }
    return failed != 0;
}

int main(int n, char **args) {
    if (n > 2 && !strcmp(args[1], "meter")) return meter(args + 2);
    if (n == 4 && (threads = atol(args[3])) >= 1 && threads <= 64 && !read_lines(args[2])) {
        if (!strcmp(args[1], "stat")) return stat_all();
        if (!strcmp(args[1], "spawn")) return spawn_all(threads);
    }
    return fputs("usage: engine meter CMD.. | stat LIST THREADS | spawn LINES JOBS\n", stderr), 2;
}
