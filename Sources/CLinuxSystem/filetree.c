// Files and directories relative to descriptors, never through symbolic links.
#define _GNU_SOURCE
#include "FileTree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

int cs_open_beneath(int directory, const char *path, int flags, mode_t mode) {
    struct open_how how = {
        .flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    return (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
}

int cs_open_unnamed(int directory, mode_t mode) {
    return openat(directory, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
}

int cs_link_unnamed(int file, int descriptors, int directory, const char *name) {
    if (linkat(file, "", directory, name, AT_EMPTY_PATH) == 0) return 0;
    // Older kernels allow that only to a process that may search every directory.
    if ((errno != ENOENT && errno != EPERM) || descriptors < 0) return -1;
    char number[16];
    snprintf(number, sizeof number, "%d", file);
    return linkat(descriptors, number, directory, name, AT_SYMLINK_FOLLOW);
}

static void keep(struct cs_file_status *out, const struct stat *in) {
    out->device = in->st_dev;
    out->inode = in->st_ino;
    out->mode = in->st_mode;
    out->user = in->st_uid;
    out->size = (uint64_t)in->st_size;
    out->allocated = (uint64_t)in->st_blocks * 512;
    out->accessed_seconds = in->st_atim.tv_sec;
    out->accessed_nanoseconds = (uint32_t)in->st_atim.tv_nsec;
    out->modified_seconds = in->st_mtim.tv_sec;
    out->modified_nanoseconds = (uint32_t)in->st_mtim.tv_nsec;
}

int cs_file_status(int file, struct cs_file_status *status) {
    struct stat s;
    if (fstat(file, &s) < 0) return -1;
    keep(status, &s);
    return 0;
}

int cs_file_status_at(int directory, const char *name, int follow, struct cs_file_status *status) {
    struct stat s;
    if (fstatat(directory, name, &s, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) return -1;
    keep(status, &s);
    return 0;
}

int cs_set_times(int directory, const char *name, int64_t accessed, uint32_t accessed_nanoseconds,
                 int64_t modified, uint32_t modified_nanoseconds) {
    struct timespec times[2] = {
        {.tv_sec = accessed, .tv_nsec = accessed_nanoseconds},
        {.tv_sec = modified, .tv_nsec = modified_nanoseconds},
    };
    if (!name) return futimens(directory, times);
    return utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW);
}

ssize_t cs_read_directory(int directory, void *buffer, size_t length) {
    return syscall(SYS_getdents64, directory, buffer, length);
}

int64_t cs_seek(int file, int64_t offset, int whence) { return lseek(file, offset, whence); }
int cs_sync_file_system(int file) { return syncfs(file); }

int cs_free_space(int file, uint64_t *bytes) {
    struct statvfs s;
    if (fstatvfs(file, &s) < 0) return -1;
    *bytes = (uint64_t)s.f_bavail * s.f_frsize;
    return 0;
}

int cs_is_readable(int fd, int milliseconds) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int count = poll(&p, 1, milliseconds);
    return count < 0 ? -1 : count > 0;
}

size_t cs_leading_zeros(const void *bytes, size_t length) {
    const unsigned char *b = bytes;
    size_t i = 0;
    for (; length - i >= 64; i += 64) {
        uint64_t words[8];
        memcpy(words, b + i, sizeof words);
        if (words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7])
            break;
    }
    while (i < length && b[i] == 0) i++;
    return i;
}

int cs_wait_for_either(int first, int second, int milliseconds) {
    struct pollfd p[2] = {{.fd = first, .events = POLLIN}, {.fd = second, .events = POLLIN}};
    if (poll(p, 2, milliseconds) < 0) return -1;
    return (p[0].revents != 0) | (p[1].revents != 0) << 1;
}

int cs_raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -1;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit);
}

int cs_close_standard_output(void) {
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null < 0) return close(1);
    int result = dup2(null, 1) < 0 ? -1 : 0;
    close(null);
    return result;
}
