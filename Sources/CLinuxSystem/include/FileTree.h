// File trees: checksums, files relative to descriptors, confinement. Every function returns -1 with
// errno set on failure unless its comment says otherwise; none allocates.
#ifndef CLINUXSYSTEM_FILETREE_H
#define CLINUXSYSTEM_FILETREE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// Checksums (crc32.c).

/// CRC-32 of zip and zlib; `crc` is that of the bytes before these, 0 at the start. The second form
/// never uses the processor's instructions. Neither fails.
uint32_t cs_crc32(uint32_t crc, const void *bytes, size_t length);
uint32_t cs_crc32_table(uint32_t crc, const void *bytes, size_t length);
int cs_crc32_has_instructions(void);

// Files and directories relative to descriptors (filetree.c).

struct cs_file_status {
    uint64_t device;
    uint64_t inode;
    uint32_t mode;
    uint32_t user;
    uint64_t size;
    uint64_t allocated;  ///< bytes that the file system keeps for it
    int64_t accessed_seconds;
    int64_t modified_seconds;
    uint32_t accessed_nanoseconds;
    uint32_t modified_nanoseconds;
};

/// Opens a path that must stay beneath the directory and pass no symbolic link (openat2); ENOSYS
/// where the kernel has no such call.
int cs_open_beneath(int directory, const char *path, int flags, mode_t mode);
/// A file without a name in the file system of a directory, for writing.
int cs_open_unnamed(int directory, mode_t mode);
/// Gives such a file its name; `descriptors` is /proc/self/fd or -1.
int cs_link_unnamed(int file, int descriptors, int directory, const char *name);
int cs_file_status(int file, struct cs_file_status *status);
int cs_file_status_at(int directory, const char *name, int follow, struct cs_file_status *status);
/// Times of an entry of a directory, or of the descriptor itself when `name` is NULL.
int cs_set_times(int directory, const char *name, int64_t accessed, uint32_t accessed_nanoseconds,
                 int64_t modified, uint32_t modified_nanoseconds);
/// Records of getdents64; 0 at the end.
ssize_t cs_read_directory(int directory, void *buffer, size_t length);
int64_t cs_seek(int file, int64_t offset, int whence);
int cs_sync_file_system(int file);
/// Bytes that this user may still write.
int cs_free_space(int file, uint64_t *bytes);
/// How many of the first bytes are zero.
size_t cs_leading_zeros(const void *bytes, size_t length);
/// 1 when there is something to read or the end, 0 when the time (-1: for ever) has passed.
int cs_is_readable(int fd, int milliseconds);
/// Waits for one of two (-1: for ever; a negative descriptor never comes). Bit 0 for the first, bit
/// 1 for the second.
int cs_wait_for_either(int first, int second, int milliseconds);
/// Closes descriptor 1 and keeps its number in use.
int cs_close_standard_output(void);
/// Raises the number of files that may be open to the hard limit.
int cs_raise_descriptor_limit(void);

// Confinement (landlock.c, seccomp.c, confine.c).

/// From now on this thread creates and writes files only beneath the directory, and reaches neither
/// other files nor the network (Landlock).
int cs_landlock_only(int directory);
/// Makes the directory the root, through a mount of its own without devices, set-uid programs or
/// execution. Returns a descriptor of it. Needs root.
int cs_enter_root(int directory);
/// From now on this thread makes only the system calls that writing files needs; others are EPERM.
/// EINVAL where the kernel has no filters.
int cs_only_file_calls(void);
/// Gives up every other identity for good.
int cs_become_user(uid_t uid, gid_t gid);

#endif
