/* Lets one call on a file below a directory fail, once, in one kind of process: a preload library.

   FAULT_BELOW    the directory
   FAULT_PROCESS  the kernel's name of the threads that are meant (`comm`)
   FAULT_CALL     which of their calls fails, from 1; each process counts its own
   FAULT_ERRNO    how
   FAULT_MARK     a file that is made by whoever fails first; it says what failed. While it is
                  there, nothing fails
   FAULT_TRACE    a file that gets a line for each call; not set: none
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static const char *below, *process, *mark, *trace;
static long wanted, number;
static size_t below_length;
static int counted, count_pid;

/* A copy: processes that name themselves write over their first environment. */
static const char *kept(const char *name) {
  const char *value = getenv(name);
  return value ? strdup(value) : NULL;
}

__attribute__((constructor)) static void begin(void) {
  below = kept("FAULT_BELOW");
  process = kept("FAULT_PROCESS");
  mark = kept("FAULT_MARK");
  trace = kept("FAULT_TRACE");
  wanted = atol(getenv("FAULT_CALL") ? getenv("FAULT_CALL") : "0");
  number = atol(getenv("FAULT_ERRNO") ? getenv("FAULT_ERRNO") : "5");
  below_length = below ? strlen(below) : 0;
}

static void note(const char *file, int flags, const char *call, const char *path) {
  char line[4400];
  int length = snprintf(line, sizeof line, "%d %s %d %s %s\n", (int)getpid(), process, counted, call, path);
  int to = syscall(SYS_openat, AT_FDCWD, file, flags, 0600);
  if (to >= 0) {
    syscall(SYS_write, to, line, (size_t)length);
    syscall(SYS_close, to);
  }
}

/* Whether this call on this path is the one that fails; sets errno then. */
static int fails(const char *call, const char *path) {
  char name[16], whole[4200];
  if (!below || !process || !mark || !path)
    return 0;
  if (path[0] != '/') {
    char here[2048];
    if (syscall(SYS_getcwd, here, sizeof here) < 0)
      return 0;
    snprintf(whole, sizeof whole, "%s/%s", here, path);
    path = whole;
  }
  if (strncmp(path, below, below_length) || (path[below_length] && path[below_length] != '/'))
    return 0;
  prctl(PR_GET_NAME, name);
  if (strcmp(name, process))
    return 0;
  if (count_pid != (int)getpid()) {
    count_pid = (int)getpid();
    counted = 0;
  }
  counted++;
  if (trace)
    note(trace, O_WRONLY | O_CREAT | O_APPEND, call, path);
  if (counted != wanted || syscall(SYS_faccessat, AT_FDCWD, mark, F_OK) == 0)
    return 0;
  note(mark, O_WRONLY | O_CREAT | O_EXCL, call, path);
  errno = (int)number;
  return 1;
}

static int fails_open(const char *call, int descriptor) {
  char link[64], path[4096];
  if (!below)
    return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (length <= 0 || path[0] != '/') /* a socket, a pipe */
    return 0;
  path[length] = 0;
  return fails(call, path);
}

static int fails_at(const char *call, int directory, const char *path) {
  char whole[8400], link[64];
  if (!below)
    return 0;
  if (path[0] == '/' || directory == AT_FDCWD)
    return fails(call, path);
  snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
  long length = syscall(SYS_readlinkat, AT_FDCWD, link, whole, (size_t)4096);
  if (length <= 0)
    return 0;
  snprintf(whole + length, sizeof whole - (size_t)length, "/%s", path);
  return fails(call, whole);
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) \
    real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list more; \
    va_start(more, flags); \
    mode = va_arg(more, mode_t); \
    va_end(more); \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    MODE(flags) \
    REAL(name); \
    return fails(#name, path) ? -1 : real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int directory, const char *path, int flags, ...) { \
    MODE(flags) \
    REAL(name); \
    return fails_at(#name, directory, path) ? -1 : real(directory, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define ON_PATH(name, kind, failed, parameters, arguments) \
  kind name parameters { \
    REAL(name); \
    return fails(#name, path) ? failed : real arguments; \
  }
ON_PATH(fopen, FILE *, NULL, (const char *path, const char *how), (path, how))
ON_PATH(fopen64, FILE *, NULL, (const char *path, const char *how), (path, how))
ON_PATH(opendir, DIR *, NULL, (const char *path), (path))
ON_PATH(stat, int, -1, (const char *path, struct stat *to), (path, to))
ON_PATH(lstat, int, -1, (const char *path, struct stat *to), (path, to))
ON_PATH(stat64, int, -1, (const char *path, struct stat64 *to), (path, to))
ON_PATH(lstat64, int, -1, (const char *path, struct stat64 *to), (path, to))
ON_PATH(access, int, -1, (const char *path, int mode), (path, mode))
ON_PATH(mkdir, int, -1, (const char *path, mode_t mode), (path, mode))
ON_PATH(rmdir, int, -1, (const char *path), (path))
ON_PATH(unlink, int, -1, (const char *path), (path))
ON_PATH(chmod, int, -1, (const char *path, mode_t mode), (path, mode))
ON_PATH(truncate, int, -1, (const char *path, off_t size), (path, size))
ON_PATH(rename, int, -1, (const char *path, const char *to), (path, to))
ON_PATH(link, int, -1, (const char *path, const char *to), (path, to))
ON_PATH(readlink, ssize_t, -1, (const char *path, char *to, size_t size), (path, to, size))

int fstatat(int directory, const char *path, struct stat *to, int flags) {
  REAL(fstatat);
  return fails_at("fstatat", directory, path) ? -1 : real(directory, path, to, flags);
}
int fstatat64(int directory, const char *path, struct stat64 *to, int flags) {
  REAL(fstatat64);
  return fails_at("fstatat64", directory, path) ? -1 : real(directory, path, to, flags);
}
int renameat(int from, const char *path, int to, const char *other) {
  REAL(renameat);
  return fails_at("renameat", from, path) ? -1 : real(from, path, to, other);
}
int unlinkat(int directory, const char *path, int flags) {
  REAL(unlinkat);
  return fails_at("unlinkat", directory, path) ? -1 : real(directory, path, flags);
}

#define ON_OPEN(name, kind, parameters, arguments) \
  kind name parameters { \
    REAL(name); \
    return fails_open(#name, descriptor) ? -1 : real arguments; \
  }
ON_OPEN(read, ssize_t, (int descriptor, void *to, size_t size), (descriptor, to, size))
ON_OPEN(write, ssize_t, (int descriptor, const void *from, size_t size), (descriptor, from, size))
ON_OPEN(pread, ssize_t, (int descriptor, void *to, size_t size, off_t at), (descriptor, to, size, at))
ON_OPEN(pread64, ssize_t, (int descriptor, void *to, size_t size, off64_t at), (descriptor, to, size, at))
ON_OPEN(pwrite, ssize_t, (int descriptor, const void *from, size_t size, off_t at), (descriptor, from, size, at))
ON_OPEN(pwrite64, ssize_t, (int descriptor, const void *from, size_t size, off64_t at), (descriptor, from, size, at))
ON_OPEN(fsync, int, (int descriptor), (descriptor))
ON_OPEN(fdatasync, int, (int descriptor), (descriptor))
ON_OPEN(fstat, int, (int descriptor, struct stat *to), (descriptor, to))
ON_OPEN(fstat64, int, (int descriptor, struct stat64 *to), (descriptor, to))
ON_OPEN(ftruncate, int, (int descriptor, off_t size), (descriptor, size))
ON_OPEN(ftruncate64, int, (int descriptor, off64_t size), (descriptor, size))
ON_OPEN(fchmod, int, (int descriptor, mode_t mode), (descriptor, mode))

/* A file system may tell an error of what was written before; the descriptor is closed all the same. */
int close(int descriptor) {
  REAL(close);
  int failed = fails_open("close", descriptor), told = errno;
  int done = real(descriptor);
  if (failed)
    errno = told;
  return failed ? -1 : done;
}
