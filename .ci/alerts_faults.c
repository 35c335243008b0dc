/* Faults for .ci/alerts, preloaded into one gateway: what no test machine's disk does when it is asked to.
 *
 * While $SCANGATE_FAULTS/slow exists, fdatasync of a journal's file takes half a second longer; while
 * $SCANGATE_FAULTS/fail exists, it returns EIO without syncing. With $SCANGATE_FAULTS_NO_SPAWN set, no process can be
 * started, as on a system that refuses them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int asked_for(const char *fault) {
    const char *directory = getenv("SCANGATE_FAULTS");
    char path[512];
    if (!directory || snprintf(path, sizeof path, "%s/%s", directory, fault) >= (int)sizeof path) return 0;
    return access(path, F_OK) == 0;
}

static int is_journal(int descriptor) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "/data/journal/") != NULL;
}

int fdatasync(int descriptor) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (is_journal(descriptor)) {
        if (asked_for("fail")) {
            errno = EIO;
            return -1;
        }
        if (asked_for("slow")) nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    }
    return real(descriptor);
}

static int refused(void) { return getenv("SCANGATE_FAULTS_NO_SPAWN") != NULL; }

int execvp(const char *file, char *const arguments[]) {
    static int (*real)(const char *, char *const[]);
    if (!real) real = (int (*)(const char *, char *const[]))dlsym(RTLD_NEXT, "execvp");
    if (!refused()) return real(file, arguments);
    errno = EPERM;
    return -1;
}

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
    typedef int spawn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                      char *const[], char *const[]);
    static spawn *real;
    if (!real) real = (spawn *)dlsym(RTLD_NEXT, "posix_spawnp");
    return refused() ? EPERM : real(pid, file, actions, attributes, arguments, environment);
}
