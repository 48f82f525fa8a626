/* Records what a process writes to files under $RECORD_DIR, and when it syncs, to $RECORD_LOG. Loaded by LD_PRELOAD.

   A record: operation (1 byte), length of the path (4), offset (8), length of the data (8), path, data; little-endian.
   Operations: 'w' write, 's' sync, 't' truncate to offset, 'r' rename (data: the new path), 'u' unlink. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int inside(const char *path) {
    const char *directory = getenv("RECORD_DIR");
    return directory && strncmp(path, directory, strlen(directory)) == 0 && !strstr(path, "-shm");
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4000);
    if (n < 0) return 0;
    path[n] = 0;
    return inside(path);
}

static void record(char what, const char *path, uint64_t offset, const void *data, uint64_t length) {
    static int (*real_open)(const char *, int, ...);
    static ssize_t (*real_write)(int, const void *, size_t);
    static int log = -1;
    pthread_mutex_lock(&lock);
    if (log < 0) {
        real_open = dlsym(RTLD_NEXT, "open");
        real_write = dlsym(RTLD_NEXT, "write");
        log = real_open(getenv("RECORD_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    }
    uint32_t named = strlen(path);
    char head[21];
    head[0] = what;
    memcpy(head + 1, &named, 4);
    memcpy(head + 5, &offset, 8);
    memcpy(head + 13, &length, 8);
    if (real_write(log, head, 21) != 21 || real_write(log, path, named) != named) abort();
    if (length && real_write(log, data, length) != (ssize_t)length) abort();
    pthread_mutex_unlock(&lock);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    ssize_t done = real(fd, data, n, at);
    char path[4096];
    if (done > 0 && path_of(fd, path)) record('w', path, at, data, done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }

ssize_t write(int fd, const void *data, size_t n) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    ssize_t done = real(fd, data, n);
    char path[4096];
    if (done > 0 && path_of(fd, path)) {
        off_t end = lseek(fd, 0, SEEK_CUR);
        record('w', path, end - done, data, done);
    }
    return done;
}

static int synced(int fd, const char *name) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    int done = real(fd);
    char path[4096];
    if (done == 0 && path_of(fd, path)) record('s', path, 0, NULL, 0);
    return done;
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

int ftruncate64(int fd, off64_t length) {
    static int (*real)(int, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "ftruncate64");
    int done = real(fd, length);
    char path[4096];
    if (done == 0 && path_of(fd, path)) record('t', path, length, NULL, 0);
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int rename(const char *old, const char *new) {
    static int (*real)(const char *, const char *);
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    int done = real(old, new);
    if (done == 0 && inside(new)) record('r', old, 0, new, strlen(new));
    return done;
}

int unlink(const char *path) {
    static int (*real)(const char *);
    if (!real) real = dlsym(RTLD_NEXT, "unlink");
    int done = real(path);
    if (done == 0 && inside(path)) record('u', path, 0, NULL, 0);
    return done;
}
