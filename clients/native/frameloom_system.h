/* What the ring needs of an operating system: names, locks, files, mappings, sleeping. Included by frameloom_ring.h.
 *
 * Linux: files in /dev/shm, open-file-description byte locks, futex. Other POSIX systems: files in $TMPDIR, flock,
 * polling. Windows: named sections, named mutexes, named events; file-backed: LockFileEx, polling. Knows the rendezvous
 * record, nothing of what a segment holds.
 */
#ifndef FRAMELOOM_SYSTEM_H
#define FRAMELOOM_SYSTEM_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#include <ntsecapi.h>
#ifdef _MSC_VER
#pragma comment(lib, "advapi32")
#endif
#else
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/random.h>
#include <sys/syscall.h>
#ifndef F_OFD_SETLK
#error "include frameloom.h before all other headers, or define _GNU_SOURCE: open-file-description locks are needed"
#endif
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Atomics. Aligned words only; on the machines that can take part these are single instructions. */

#if defined(_MSC_VER) && !defined(__clang__)
static inline uint32_t frameloom_i_get32(const void *at) { return (uint32_t)ReadAcquire((const volatile LONG *)at); }
static inline uint64_t frameloom_i_get64(const void *at) { return (uint64_t)ReadAcquire64((const volatile LONG64 *)at); }
static inline void frameloom_i_put32(void *at, uint32_t v) { WriteRelease((volatile LONG *)at, (LONG)v); }
static inline void frameloom_i_put64(void *at, uint64_t v) { WriteRelease64((volatile LONG64 *)at, (LONG64)v); }
static inline void frameloom_i_fence(void) { MemoryBarrier(); }
static inline void frameloom_i_acquire_fence(void) { MemoryBarrier(); }
#else
static inline uint32_t frameloom_i_get32(const void *at) {
    return __atomic_load_n((const uint32_t *)at, __ATOMIC_ACQUIRE);
}
static inline uint64_t frameloom_i_get64(const void *at) {
    return __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE);
}
static inline void frameloom_i_put32(void *at, uint32_t v) { __atomic_store_n((uint32_t *)at, v, __ATOMIC_RELEASE); }
static inline void frameloom_i_put64(void *at, uint64_t v) { __atomic_store_n((uint64_t *)at, v, __ATOMIC_RELEASE); }
static inline void frameloom_i_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void frameloom_i_acquire_fence(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
#endif

/* Plain words of private bytes. */

static inline uint32_t frameloom_i_load32(const uint8_t *at) {
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return v;
}
static inline uint64_t frameloom_i_load64(const uint8_t *at) {
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return v;
}
static inline void frameloom_i_store32(uint8_t *at, uint32_t v) { memcpy(at, &v, sizeof v); }
static inline void frameloom_i_store64(uint8_t *at, uint64_t v) { memcpy(at, &v, sizeof v); }

/* Errors. */

#if defined(__GNUC__) && !defined(_WIN32)
__attribute__((format(printf, 3, 4)))
#endif
static inline frameloom_status frameloom_i_fail(frameloom_error *error, frameloom_status status, const char *format, ...) {
    if (error) {
        va_list words;
        va_start(words, format);
        error->status = status;
        vsnprintf(error->message, sizeof error->message, format, words);
        va_end(words);
    }
    return status;
}

/* Time. */

static inline uint64_t frameloom_i_now_ns(void) {
#ifdef _WIN32
    LARGE_INTEGER count, per_second;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&per_second);
    uint64_t c = (uint64_t)count.QuadPart, f = (uint64_t)per_second.QuadPart;
    return c / f * 1000000000u + c % f * 1000000000u / f;
#elif defined(__APPLE__)
    return clock_gettime_nsec_np(CLOCK_UPTIME_RAW);
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
}

static inline void frameloom_i_nap_ms(uint32_t ms) {
#ifdef _WIN32
    Sleep(ms);
#else
    struct timespec t;
    t.tv_sec = (time_t)(ms / 1000);
    t.tv_nsec = (long)(ms % 1000) * 1000000;
    nanosleep(&t, NULL);
#endif
}

static inline uint64_t frameloom_i_pid(void) {
#ifdef _WIN32
    return GetCurrentProcessId();
#else
    return (uint64_t)getpid();
#endif
}

static inline uint64_t frameloom_i_random(void) {
    uint64_t number = 0;
    while (number == 0) {
#ifdef _WIN32
        if (!RtlGenRandom(&number, sizeof number)) number = frameloom_i_now_ns() ^ frameloom_i_pid() << 40;
#elif defined(__linux__)
        if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
            number = frameloom_i_now_ns() ^ frameloom_i_pid() << 40;
#else
        arc4random_buf(&number, sizeof number);
#endif
    }
    return number;
}

/* Names (section 1). Paths are UTF-8. */

#define FRAMELOOM_I_PATH 1024

typedef struct frameloom_i_place {
    char folder[FRAMELOOM_I_PATH - 256];
    char prefix[192];
    char channel[FRAMELOOM_MAX_CHANNEL_BYTES + 1];
    int named;        /* Windows objects instead of files */
    int segment_byte; /* the lock of a reader entry is a byte of the segment file, else byte 0 of a file of its own */
} frameloom_i_place;

#ifdef _WIN32
static inline void frameloom_i_wide(const char *text, wchar_t *out) {
    if (!MultiByteToWideChar(CP_UTF8, 0, text, -1, out, FRAMELOOM_I_PATH)) out[0] = 0;
}
#endif

/* What the record's file is called, with a suffix such as ".ring". */
static inline void frameloom_i_file(const frameloom_i_place *p, char *out, const char *suffix) {
#ifdef _WIN32
    snprintf(out, FRAMELOOM_I_PATH, "%s\\%s%s", p->folder, p->prefix, suffix);
#else
    snprintf(out, FRAMELOOM_I_PATH, "%s/%s%s", p->folder, p->prefix, suffix);
#endif
}

static inline void frameloom_i_segment_file(const frameloom_i_place *p, char *out, uint64_t generation) {
    char suffix[32];
    snprintf(suffix, sizeof suffix, "-%016llx.seg", (unsigned long long)generation);
    frameloom_i_file(p, out, suffix);
}

/* Name of a Windows object of a generation; `who` such as "-r3-wake". */
static inline void frameloom_i_object(const frameloom_i_place *p, char *out, uint64_t generation, const char *who) {
    snprintf(out, FRAMELOOM_I_PATH, "Local\\%s-%016llx%s", p->prefix, (unsigned long long)generation, who);
}

static inline int frameloom_i_plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static inline frameloom_status frameloom_i_place_of(frameloom_i_place *p, const char *channel, const char *directory,
                                                    frameloom_error *error) {
    memset(p, 0, sizeof *p);
    size_t length = channel ? strlen(channel) : 0, good = 0;
    while (good < length && (frameloom_i_plain(channel[good]) || (good && strchr("._-", channel[good])))) good++;
    if (length == 0 || length > FRAMELOOM_MAX_CHANNEL_BYTES || good != length)
        return frameloom_i_fail(error, FRAMELOOM_INVALID_CHANNEL,
                                "channel '%.60s': use 1 to %u letters, digits, dots, dashes or underscores, the first a "
                                "letter or digit",
                                channel ? channel : "", FRAMELOOM_MAX_CHANNEL_BYTES);
    memcpy(p->channel, channel, length);
    if (directory && directory[0]) {
        if (strlen(directory) >= sizeof p->folder)
            return frameloom_i_fail(error, FRAMELOOM_ACCESS_DENIED, "%.80s...: the folder's name is too long; give a shorter one",
                                    directory);
        memcpy(p->folder, directory, strlen(directory));
        snprintf(p->prefix, sizeof p->prefix, "frameloom-%s", p->channel);
#ifdef _WIN32
        /* Under Wine LockFileEx is a byte lock of the Linux file, so such a process takes part as Linux programs do. */
        p->segment_byte = GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "wine_get_version") != NULL;
#elif defined(__linux__)
        p->segment_byte = 1;
#endif
        return FRAMELOOM_OK;
    }
#ifdef _WIN32
    wchar_t name[257], folder[FRAMELOOM_I_PATH];
    char user[65];
    DWORD count = 257, filled = 0;
    if (!GetUserNameW(name, &count)) name[0] = 0;
    for (const wchar_t *c = name; *c && filled < sizeof user - 1; c++)
        if (*c < 0xDC00 || *c > 0xDFFF) user[filled++] = *c < 128 && frameloom_i_plain((char)*c) ? (char)*c : '_';
    user[filled] = 0;
    DWORD got = GetEnvironmentVariableW(L"LOCALAPPDATA", folder, 512);
    if (got == 0 || got >= 512)
        return frameloom_i_fail(error, FRAMELOOM_ACCESS_DENIED,
                                "the environment variable LOCALAPPDATA names no folder; set it or give a directory");
    memcpy(folder + got, L"\\frameloom", 11 * sizeof(wchar_t));
    CreateDirectoryW(folder, NULL);
    WideCharToMultiByte(CP_UTF8, 0, folder, -1, p->folder, (int)sizeof p->folder - 1, NULL, NULL);
    snprintf(p->prefix, sizeof p->prefix, "frameloom-%s-%s", user, p->channel);
    p->named = 1;
#else
#ifdef __linux__
    const char *home = "/dev/shm";
    p->segment_byte = 1;
#else
    const char *home = getenv("TMPDIR");
    if (!home || !home[0]) home = "/tmp";
#endif
    snprintf(p->folder, sizeof p->folder, "%s", home);
    snprintf(p->prefix, sizeof p->prefix, "frameloom-%llu-%s", (unsigned long long)getuid(), p->channel);
#endif
    return FRAMELOOM_OK;
}

/* Files. A handle of -1 (INVALID_HANDLE_VALUE) is none. */

#ifdef _WIN32
typedef HANDLE frameloom_i_handle;
#define FRAMELOOM_I_NONE INVALID_HANDLE_VALUE
#else
typedef int frameloom_i_handle;
#define FRAMELOOM_I_NONE (-1)
#endif

enum { FRAMELOOM_I_EXISTING, FRAMELOOM_I_NEW, FRAMELOOM_I_ANY };

/* Open for reading and writing; how: must exist, must not exist, either. */
static inline frameloom_i_handle frameloom_i_open(const char *path, int how) {
#ifdef _WIN32
    wchar_t wide[FRAMELOOM_I_PATH];
    frameloom_i_wide(path, wide);
    return CreateFileW(wide, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                       how == FRAMELOOM_I_NEW ? CREATE_NEW : how == FRAMELOOM_I_ANY ? OPEN_ALWAYS : OPEN_EXISTING,
                       FILE_ATTRIBUTE_NORMAL, NULL);
#else
    int flags = how == FRAMELOOM_I_NEW ? O_CREAT | O_EXCL : how == FRAMELOOM_I_ANY ? O_CREAT : 0;
    /* O_NONBLOCK: a pipe under this name must not hold us up. */
    return open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0600);
#endif
}

static inline void frameloom_i_close(frameloom_i_handle file) {
    if (file == FRAMELOOM_I_NONE) return;
#ifdef _WIN32
    CloseHandle(file);
#else
    close(file);
#endif
}

/* Whether the last failed open failed because there is no such file. */
static inline int frameloom_i_absent(void) {
#ifdef _WIN32
    DWORD why = GetLastError();
    return why == ERROR_FILE_NOT_FOUND || why == ERROR_PATH_NOT_FOUND;
#else
    return errno == ENOENT || errno == ENOTDIR;
#endif
}

/* The error of the last failed open or write, with the mend. */
static inline frameloom_status frameloom_i_denied(frameloom_error *error, const char *path) {
    if (frameloom_i_absent())
        return frameloom_i_fail(error, FRAMELOOM_ACCESS_DENIED,
                                "%.300s: no such file or folder; make the folder first or give an existing one", path);
#ifdef _WIN32
    if (GetLastError() == ERROR_TOO_MANY_OPEN_FILES || GetLastError() == ERROR_NOT_ENOUGH_MEMORY)
        return frameloom_i_fail(error, FRAMELOOM_OUT_OF_RESOURCES, "%.300s: Windows error %lu; close other programs", path,
                                (unsigned long)GetLastError());
    return frameloom_i_fail(error, FRAMELOOM_ACCESS_DENIED,
                            "%.300s: Windows error %lu; run as the user who owns it, or remove it, or use another channel",
                            path, (unsigned long)GetLastError());
#else
    if (errno == EMFILE || errno == ENFILE)
        return frameloom_i_fail(error, FRAMELOOM_OUT_OF_RESOURCES, "%.300s: %s; close some files or raise the limit (ulimit -n)",
                                path, strerror(errno));
    if (errno == ENOSPC || errno == EDQUOT)
        return frameloom_i_fail(error, FRAMELOOM_NO_SPACE, "%.300s: %s; free some room there", path, strerror(errno));
    if (errno == ENXIO) /* a socket; a pipe that nobody reads says so, too */
        return frameloom_i_fail(error, FRAMELOOM_NOT_A_RING, "%.300s is not a file; remove it and start the writer again", path);
    return frameloom_i_fail(error, FRAMELOOM_ACCESS_DENIED,
                            "%.300s: %s; run as the user who owns it, or remove it, or use another channel", path,
                            strerror(errno));
#endif
}

/* Length of an open file in bytes. */
static inline uint64_t frameloom_i_length(frameloom_i_handle file) {
#ifdef _WIN32
    LARGE_INTEGER size;
    return GetFileSizeEx(file, &size) ? (uint64_t)size.QuadPart : 0;
#else
    off_t end = lseek(file, 0, SEEK_END);
    return end < 0 ? 0 : (uint64_t)end;
#endif
}

/* Bytes of a segment that have memory behind them. On Linux, where every writer reserves its segment, a hole does not count:
 * reading one would allocate it. */
static inline uint64_t frameloom_i_true_size(frameloom_i_handle file) {
#ifdef __linux__
    struct stat status;
    if (fstat(file, &status)) return 0;
    uint64_t reserved = (uint64_t)status.st_blocks * 512, size = (uint64_t)status.st_size;
    return reserved < size ? reserved : size;
#else
    return frameloom_i_length(file);
#endif
}

/* Up to `count` bytes from the start of an open file; returns how many. */
static inline size_t frameloom_i_read(frameloom_i_handle file, void *out, size_t count) {
#ifdef _WIN32
    DWORD got = 0;
    SetFilePointer(file, 0, NULL, FILE_BEGIN);
    return ReadFile(file, out, (DWORD)count, &got, NULL) ? got : 0;
#else
    ssize_t got = pread(file, out, count, 0);
    return got < 0 ? 0 : (size_t)got;
#endif
}

static inline int frameloom_i_append(frameloom_i_handle file, const void *data, size_t count) {
#ifdef _WIN32
    DWORD done = 0;
    return WriteFile(file, data, (DWORD)count, &done, NULL) && done == count;
#else
    return write(file, data, count) == (ssize_t)count;
#endif
}

static inline int frameloom_i_delete(const char *path) {
#ifdef _WIN32
    wchar_t wide[FRAMELOOM_I_PATH];
    frameloom_i_wide(path, wide);
    return DeleteFileW(wide) != 0;
#else
    return unlink(path) == 0;
#endif
}

/* A regular file of ours, or the error. */
static inline frameloom_status frameloom_i_owned(frameloom_i_handle file, const char *path, frameloom_error *error) {
#ifdef _WIN32
    (void)file, (void)path, (void)error;
#else
    struct stat status;
    if (fstat(file, &status)) return frameloom_i_denied(error, path);
    if (status.st_uid != getuid() && status.st_uid != 0)
        return frameloom_i_fail(error, FRAMELOOM_ACCESS_DENIED,
                                "%.300s: belongs to user id %lu; ask for its removal or use another channel", path,
                                (unsigned long)status.st_uid);
    if (!S_ISREG(status.st_mode))
        return frameloom_i_fail(error, FRAMELOOM_NOT_A_RING, "%.300s is not a file; remove it and start the writer again",
                                path);
#endif
    return FRAMELOOM_OK;
}

/* Locks (section 1): held as long as the holder lives. */

typedef struct frameloom_i_lock {
    char path[FRAMELOOM_I_PATH]; /* or the name of a mutex */
    uint64_t offset;
    int named;
    int create; /* make the file; else it must be there */
    int held;
    uint64_t pid; /* who opened `file`; a forked child finds it closed */
    frameloom_i_handle file;
} frameloom_i_lock;

static inline void frameloom_i_lock_writer(frameloom_i_lock *lock, const frameloom_i_place *p) {
    char path[FRAMELOOM_I_PATH];
    memset(lock, 0, sizeof *lock);
    lock->file = FRAMELOOM_I_NONE;
    lock->create = 1;
    lock->named = p->named;
    if (p->named)
        snprintf(path, sizeof path, "Local\\%s-writer", p->prefix);
    else
        frameloom_i_file(p, path, ".lock");
    memcpy(lock->path, path, sizeof path);
}

/* A lock that belongs to one generation. `who`: "writer", or "r3" for reader entry 3; `offset`: its byte of the segment file,
 * where locks are such bytes. */
static inline void frameloom_i_lock_in(frameloom_i_lock *lock, const frameloom_i_place *p, uint64_t generation, const char *who,
                                       uint64_t offset) {
    char suffix[64], path[FRAMELOOM_I_PATH];
    memset(lock, 0, sizeof *lock);
    lock->file = FRAMELOOM_I_NONE;
    lock->named = p->named;
    if (p->named) {
        snprintf(suffix, sizeof suffix, "-%s", who);
        frameloom_i_object(p, path, generation, suffix);
    } else if (p->segment_byte) {
        lock->offset = offset;
        frameloom_i_segment_file(p, path, generation);
    } else {
        lock->create = 1;
        snprintf(suffix, sizeof suffix, "-%016llx.seg.%s", (unsigned long long)generation, strcmp(who, "writer") ? who : "w");
        frameloom_i_file(p, path, suffix);
    }
    memcpy(lock->path, path, sizeof path);
}

/* What the writer of a generation holds while it lives. */
static inline void frameloom_i_lock_generation(frameloom_i_lock *lock, const frameloom_i_place *p, uint64_t generation) {
    frameloom_i_lock_in(lock, p, generation, "writer", FRAMELOOM_WRITER_LOCK_OFFSET);
}

static inline void frameloom_i_lock_entry(frameloom_i_lock *lock, const frameloom_i_place *p, uint64_t generation,
                                          uint32_t index, uint64_t offset) {
    char who[16];
    snprintf(who, sizeof who, "r%u", index);
    frameloom_i_lock_in(lock, p, generation, who, offset);
}

#ifndef _WIN32
/* Both kinds of lock belong to the open file, which a forked child shares: without closing its copies a child would keep
 * its dead parent's locks alive. The descriptors of all locks of this process, plus one; 0: free. */
#define FRAMELOOM_I_FORK_FILES 256
static int frameloom_i_fork_files[FRAMELOOM_I_FORK_FILES];

static inline void frameloom_i_forked(void) {
    for (int i = 0; i < FRAMELOOM_I_FORK_FILES; i++) {
        int file = __atomic_exchange_n(&frameloom_i_fork_files[i], 0, __ATOMIC_ACQ_REL);
        if (file) close(file - 1);
    }
}

/* Put `now` in the place of `before`. */
static inline void frameloom_i_fork_note(int before, int now) {
    static int watching;
    if (!__atomic_exchange_n(&watching, 1, __ATOMIC_ACQ_REL)) pthread_atfork(NULL, NULL, frameloom_i_forked);
    for (int i = 0; i < FRAMELOOM_I_FORK_FILES; i++) {
        int expected = before;
        if (__atomic_compare_exchange_n(&frameloom_i_fork_files[i], &expected, now, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return;
    }
}
#endif

/* Close the descriptor. In a forked child this leaves the parent its lock. */
static inline void frameloom_i_lock_drop(frameloom_i_lock *lock) {
#ifdef _WIN32
    frameloom_i_close(lock->file);
#else
    if (lock->file != FRAMELOOM_I_NONE && lock->pid == frameloom_i_pid()) {
        frameloom_i_fork_note(lock->file + 1, 0);
        frameloom_i_close(lock->file);
    }
#endif
    lock->file = FRAMELOOM_I_NONE;
    lock->held = 0;
}

/* Open the lock's file. Only a plain file of ours or root's: in a shared folder another user may have planted it. */
static inline int frameloom_i_lock_open(frameloom_i_lock *lock, int how) {
    lock->file = frameloom_i_open(lock->path, how);
#ifndef _WIN32
    struct stat status;
    if (lock->file == FRAMELOOM_I_NONE) {
        if (errno == ENXIO) errno = EPERM;
        return 0;
    }
    lock->pid = frameloom_i_pid();
    frameloom_i_fork_note(0, lock->file + 1);
    if (fstat(lock->file, &status) || !S_ISREG(status.st_mode) || (status.st_uid != getuid() && status.st_uid != 0)) {
        frameloom_i_lock_drop(lock);
        errno = EPERM;
    }
#endif
    return lock->file != FRAMELOOM_I_NONE;
}

/* 1: got it, 0: another has it, -1: cannot tell. shared: a test, which other tests do not disturb. */
static inline int frameloom_i_lock_try(frameloom_i_lock *lock, int shared) {
#ifdef _WIN32
    OVERLAPPED at;
    memset(&at, 0, sizeof at);
    at.Offset = (DWORD)lock->offset;
    at.OffsetHigh = (DWORD)(lock->offset >> 32);
    DWORD how = LOCKFILE_FAIL_IMMEDIATELY | (shared ? 0u : (DWORD)LOCKFILE_EXCLUSIVE_LOCK);
    if (LockFileEx(lock->file, how, 0, 1, 0, &at)) return 1;
    return GetLastError() == ERROR_LOCK_VIOLATION || GetLastError() == ERROR_IO_PENDING ? 0 : -1;
#elif defined(__linux__)
    struct flock at;
    memset(&at, 0, sizeof at);
    at.l_type = F_WRLCK;
    at.l_whence = SEEK_SET;
    at.l_start = (off_t)lock->offset;
    at.l_len = 1;
    if (fcntl(lock->file, shared ? F_OFD_GETLK : F_OFD_SETLK, &at) == 0) return !shared || at.l_type == F_UNLCK;
    return errno == EACCES || errno == EAGAIN ? 0 : -1;
#else
    if (flock(lock->file, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return 1;
    return errno == EWOULDBLOCK ? 0 : -1;
#endif
}

static inline void frameloom_i_lock_undo(frameloom_i_lock *lock) {
#ifdef _WIN32
    OVERLAPPED at;
    memset(&at, 0, sizeof at);
    at.Offset = (DWORD)lock->offset;
    at.OffsetHigh = (DWORD)(lock->offset >> 32);
    UnlockFileEx(lock->file, 0, 1, 0, &at);
#elif defined(__linux__)
    struct flock at;
    memset(&at, 0, sizeof at);
    at.l_type = F_UNLCK;
    at.l_whence = SEEK_SET;
    at.l_start = (off_t)lock->offset;
    at.l_len = 1;
    fcntl(lock->file, F_OFD_SETLK, &at);
#else
    flock(lock->file, LOCK_UN);
#endif
}

/* Give it back and keep its file open: the name may be gone before the file is of no more use. */
static inline void frameloom_i_lock_release(frameloom_i_lock *lock) {
    if (lock->named) {
        frameloom_i_lock_drop(lock);
        return;
    }
    frameloom_i_lock_undo(lock);
    lock->held = 0;
}

/* Whether the name still leads to the file that is open: its owner may delete it in leaving. */
static inline int frameloom_i_lock_current(const frameloom_i_lock *lock) {
    if (lock->named) return 1;
#ifdef _WIN32
    BY_HANDLE_FILE_INFORMATION ours, named;
    frameloom_i_handle other = frameloom_i_open(lock->path, FRAMELOOM_I_EXISTING);
    if (other == FRAMELOOM_I_NONE) return 0;
    int same = GetFileInformationByHandle(lock->file, &ours) && GetFileInformationByHandle(other, &named) &&
               ours.nFileIndexLow == named.nFileIndexLow && ours.nFileIndexHigh == named.nFileIndexHigh &&
               ours.dwVolumeSerialNumber == named.dwVolumeSerialNumber;
    CloseHandle(other);
    return same;
#else
    struct stat ours, named;
    return !lock->create || (fstat(lock->file, &ours) == 0 && stat(lock->path, &named) == 0 &&
                             ours.st_ino == named.st_ino && ours.st_dev == named.st_dev);
#endif
}

/* Take the lock: 1 got it, 0 another holds it, -1 its file cannot be opened. */
static inline int frameloom_i_lock_take(frameloom_i_lock *lock) {
#ifdef _WIN32
    if (lock->named) {
        wchar_t name[FRAMELOOM_I_PATH];
        frameloom_i_wide(lock->path, name);
        HANDLE mutex = CreateMutexW(NULL, FALSE, name);
        if (!mutex) return -1;
        if (GetLastError() == ERROR_ALREADY_EXISTS) {
            CloseHandle(mutex);
            return 0;
        }
        lock->file = mutex;
        return lock->held = 1;
    }
#endif
    for (;;) {
        if (lock->file == FRAMELOOM_I_NONE && !frameloom_i_lock_open(lock, lock->create ? FRAMELOOM_I_ANY : FRAMELOOM_I_EXISTING))
            return -1;
        int got = frameloom_i_lock_try(lock, 0);
        if (got != 1) return got;
        if (frameloom_i_lock_current(lock)) return lock->held = 1;
        frameloom_i_lock_drop(lock);
    }
}

/* Take it, looking again for 250 ms, so that a passing test does not count as an owner. */
static inline int frameloom_i_lock_take_patiently(frameloom_i_lock *lock) {
    for (int look = 0;; look++) {
        int got = frameloom_i_lock_take(lock);
        if (got != 0 || look == 25) return got;
        frameloom_i_nap_ms(10);
    }
}

/* Whether another holder is alive: 1, 0, or -1 when its file cannot be opened. Keeps nothing. */
static inline int frameloom_i_lock_elsewhere(frameloom_i_lock *lock) {
    if (lock->held) return 0;
#ifdef _WIN32
    if (lock->named) {
        wchar_t name[FRAMELOOM_I_PATH];
        frameloom_i_wide(lock->path, name);
        HANDLE mutex = OpenMutexW(SYNCHRONIZE, FALSE, name);
        if (mutex) CloseHandle(mutex);
        return mutex != NULL;
    }
#endif
    for (int look = 0; look < 2; look++) {
        if (lock->file == FRAMELOOM_I_NONE && !frameloom_i_lock_open(lock, FRAMELOOM_I_EXISTING))
            return frameloom_i_absent() ? 0 : -1;
        int got = frameloom_i_lock_try(lock, 1);
        if (got != 1) return got == 0 ? 1 : -1;
#if !defined(__linux__)
        frameloom_i_lock_undo(lock);
#endif
        if (frameloom_i_lock_current(lock)) return 0;
        /* Free, but no longer the file of that name. */
        frameloom_i_lock_drop(lock);
    }
    return 0;
}

/* Give it back; remove: delete its file first, so that nothing is left of an orderly end. */
static inline void frameloom_i_lock_give(frameloom_i_lock *lock, int remove) {
    if (lock->held && !lock->named) {
#ifdef _WIN32
        /* Windows keeps an open file's name until it is closed; the empty file stays. */
        (void)remove;
#else
        /* Somebody who cleaned up by hand may have made room for another holder, whose file stays. */
        if (remove && frameloom_i_lock_current(lock)) unlink(lock->path);
#endif
        frameloom_i_lock_undo(lock);
    }
    frameloom_i_lock_drop(lock);
}

/* The rendezvous record (section 2). */

typedef struct frameloom_i_pointer {
    uint64_t generation;
    uint64_t writer_pid;
    uint32_t minor; /* version of the segment */
} frameloom_i_pointer;

static inline frameloom_status frameloom_i_check_version(const char *what, uint32_t version, frameloom_error *error) {
    if (version >> 16 == FRAMELOOM_VERSION_MAJOR) return FRAMELOOM_OK;
    return frameloom_i_fail(error, FRAMELOOM_VERSION_MISMATCH,
                            "%.300s speaks ring version %u.%u, this program %u; run the same major version of frameloom on "
                            "both sides",
                            what, version >> 16, version & 0xFFFFu, FRAMELOOM_VERSION_MAJOR);
}

/* NOTHING_NEW when there is no record. */
static inline frameloom_status frameloom_i_read_record(const frameloom_i_place *p, frameloom_i_pointer *pointer,
                                                       frameloom_error *error) {
    char path[FRAMELOOM_I_PATH];
    uint8_t data[FRAMELOOM_BYTES_RECORD];
    frameloom_i_file(p, path, ".ring");
#ifdef _WIN32
    wchar_t wide[FRAMELOOM_I_PATH];
    frameloom_i_wide(path, wide);
    HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                              OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
#else
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
#endif
    if (file == FRAMELOOM_I_NONE) {
        if (frameloom_i_absent()) return FRAMELOOM_NOTHING_NEW;
#ifdef _WIN32
        /* A writer is replacing it this moment. */
        if (GetLastError() == ERROR_SHARING_VIOLATION) return FRAMELOOM_NOTHING_NEW;
#endif
        return frameloom_i_denied(error, path);
    }
    frameloom_status status = frameloom_i_owned(file, path, error);
    size_t got = status == FRAMELOOM_OK ? frameloom_i_read(file, data, sizeof data) : 0;
    frameloom_i_close(file);
    if (status != FRAMELOOM_OK) return status;
    if (got < 8 || frameloom_i_load64(data) != FRAMELOOM_RECORD_MAGIC)
        return frameloom_i_fail(error, FRAMELOOM_NOT_A_RING,
                                "%.300s is not a ring record; remove it and start the writer again", path);
    if (got < sizeof data)
        return frameloom_i_fail(error, FRAMELOOM_TRUNCATED_SEGMENT,
                                "%.300s has %u of %u bytes; remove it and start the writer again", path, (unsigned)got,
                                FRAMELOOM_BYTES_RECORD);
    status = frameloom_i_check_version(path, frameloom_i_load32(data + FRAMELOOM_AT_RECORD_VERSION), error);
    if (status != FRAMELOOM_OK) return status;
    pointer->generation = frameloom_i_load64(data + FRAMELOOM_AT_RECORD_GENERATION);
    pointer->writer_pid = frameloom_i_load64(data + FRAMELOOM_AT_RECORD_WRITER_PID);
    pointer->minor = frameloom_i_load32(data + FRAMELOOM_AT_RECORD_VERSION) & 0xFFFFu;
    if (pointer->generation == 0 || frameloom_i_load32(data + FRAMELOOM_AT_RECORD_RECORD_SIZE) < FRAMELOOM_BYTES_RECORD)
        return frameloom_i_fail(error, FRAMELOOM_MALFORMED_HEADER,
                                "%.300s names generation 0 or says it is too short; remove it and start the writer again", path);
    return FRAMELOOM_OK;
}

/* Point the well-known name at a generation, atomically. */
static inline frameloom_status frameloom_i_swing_record(const frameloom_i_place *p, uint64_t generation,
                                                        uint64_t segment_size, frameloom_error *error) {
    char path[FRAMELOOM_I_PATH], temporary[FRAMELOOM_I_PATH], suffix[48];
    uint8_t data[FRAMELOOM_BYTES_RECORD] = {0};
    frameloom_i_store64(data + FRAMELOOM_AT_RECORD_MAGIC, FRAMELOOM_RECORD_MAGIC);
    frameloom_i_store32(data + FRAMELOOM_AT_RECORD_VERSION, FRAMELOOM_VERSION);
    frameloom_i_store32(data + FRAMELOOM_AT_RECORD_RECORD_SIZE, FRAMELOOM_BYTES_RECORD);
    frameloom_i_store64(data + FRAMELOOM_AT_RECORD_GENERATION, generation);
    frameloom_i_store64(data + FRAMELOOM_AT_RECORD_SEGMENT_SIZE, segment_size);
    frameloom_i_store64(data + FRAMELOOM_AT_RECORD_WRITER_PID, frameloom_i_pid());
    frameloom_i_store64(data + FRAMELOOM_AT_RECORD_CREATED_NS, frameloom_i_now_ns());
    frameloom_i_file(p, path, ".ring");
    snprintf(suffix, sizeof suffix, ".ring.%016llx.tmp", (unsigned long long)generation);
    frameloom_i_file(p, temporary, suffix);
    frameloom_i_handle file = frameloom_i_open(temporary, FRAMELOOM_I_NEW);
    if (file == FRAMELOOM_I_NONE) return frameloom_i_denied(error, temporary);
    int written = frameloom_i_append(file, data, sizeof data);
    frameloom_i_close(file);
    if (!written) {
        frameloom_i_delete(temporary);
        return frameloom_i_fail(error, FRAMELOOM_NO_SPACE, "%.300s cannot be written; free some room in %.100s", temporary,
                                p->folder);
    }
#ifdef _WIN32
    wchar_t from[FRAMELOOM_I_PATH], to[FRAMELOOM_I_PATH];
    frameloom_i_wide(temporary, from);
    frameloom_i_wide(path, to);
    /* Refused while a reader has it open, which is for moments only. */
    for (int look = 0; look < 100; look++) {
        if (MoveFileExW(from, to, MOVEFILE_REPLACE_EXISTING)) return FRAMELOOM_OK;
        Sleep(5);
    }
#else
    if (rename(temporary, path) == 0) return FRAMELOOM_OK;
#endif
    frameloom_status status = frameloom_i_denied(error, path);
    frameloom_i_delete(temporary);
    return status;
}

/* The generation in the name of a leftover: 1 with it, 1 with 0 for a temporary record, 0 for other files. */
static inline int frameloom_i_leftover(const frameloom_i_place *p, const char *name, uint64_t *generation) {
    size_t prefix = strlen(p->prefix);
    if (strncmp(name, p->prefix, prefix)) return 0;
    name += prefix;
    int temporary = strncmp(name, ".ring.", 6) == 0;
    if (!temporary && name[0] != '-') return 0;
    name += temporary ? 6 : 1;
    uint64_t number = 0;
    for (int i = 0; i < 16; i++, name++) {
        const char *digits = "0123456789abcdef", *found = *name ? strchr(digits, *name) : NULL;
        if (!found) return 0;
        number = number << 4 | (uint64_t)(found - digits);
    }
    *generation = temporary ? 0 : number;
    if (temporary) return strcmp(name, ".tmp") == 0;
    if (strncmp(name, ".seg", 4)) return 0;
    name += 4;
    if (name[0] == 0 || strcmp(name, ".sharedarray") == 0 || strcmp(name, ".w") == 0) return 1;
    if (name[0] != '.' || name[1] != 'r' || name[2] == 0) return 0;
    return strspn(name + 2, "0123456789") == strlen(name + 2);
}

/* Delete files of generations other than `keep`; only the holder of the writer lock may. */
static inline void frameloom_i_remove_leftovers(const frameloom_i_place *p, uint64_t keep) {
    char path[FRAMELOOM_I_PATH + 512];
    uint64_t generation;
#ifdef _WIN32
    wchar_t wide[FRAMELOOM_I_PATH];
    WIN32_FIND_DATAW entry;
    char name[512];
    frameloom_i_file(p, path, "*");
    frameloom_i_wide(path, wide);
    HANDLE found = FindFirstFileW(wide, &entry);
    if (found == INVALID_HANDLE_VALUE) return;
    do {
        if (!WideCharToMultiByte(CP_UTF8, 0, entry.cFileName, -1, name, (int)sizeof name, NULL, NULL)) continue;
        if (frameloom_i_leftover(p, name, &generation) && (generation != keep || !keep)) {
            snprintf(path, sizeof path, "%s\\%s", p->folder, name);
            frameloom_i_delete(path); /* refused while it is mapped: the next start gets it */
        }
    } while (FindNextFileW(found, &entry));
    FindClose(found);
#else
    DIR *folder = opendir(p->folder);
    if (!folder) return;
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder))
        if (frameloom_i_leftover(p, entry->d_name, &generation) && (generation != keep || !keep)) {
            snprintf(path, sizeof path, "%s/%s", p->folder, entry->d_name);
            unlink(path);
        }
    closedir(folder);
#endif
}

static inline int frameloom_i_exists(const char *path) {
#ifdef _WIN32
    wchar_t wide[FRAMELOOM_I_PATH];
    frameloom_i_wide(path, wide);
    return GetFileAttributesW(wide) != INVALID_FILE_ATTRIBUTES;
#else
    struct stat status;
    return lstat(path, &status) == 0;
#endif
}

/* Delete the files of one generation; its name is nobody else's. */
static inline void frameloom_i_remove_generation(const frameloom_i_place *p, uint64_t generation) {
    char path[FRAMELOOM_I_PATH], name[FRAMELOOM_I_PATH + 16];
    frameloom_i_segment_file(p, path, generation);
    frameloom_i_delete(path);
    snprintf(name, sizeof name, "%s.w", path);
    frameloom_i_delete(name);
    for (unsigned i = 0; i < FRAMELOOM_READER_ENTRIES; i++) {
        snprintf(name, sizeof name, "%s.r%u", path, i);
        frameloom_i_delete(name);
    }
}

/* Mapped segments. */

typedef struct frameloom_i_mapping {
    uint8_t *memory; /* NULL: none */
    uint64_t size;   /* bytes mapped */
    frameloom_i_handle file; /* for its length; none for a named section */
#ifdef _WIN32
    HANDLE section;
#endif
} frameloom_i_mapping;

/* 0 when somebody cut the file: touching the lost part would kill the process. */
static inline int frameloom_i_whole(const frameloom_i_mapping *m) {
    return m->file == FRAMELOOM_I_NONE || frameloom_i_length(m->file) >= m->size;
}

static inline void frameloom_i_unmap(frameloom_i_mapping *m) {
    if (!m->memory) return;
#ifdef _WIN32
    UnmapViewOfFile(m->memory);
    CloseHandle(m->section);
#else
    munmap(m->memory, (size_t)m->size);
#endif
    frameloom_i_close(m->file);
    m->memory = NULL;
    m->file = FRAMELOOM_I_NONE;
}

/* Map an open file; owns `file` from here on. 0 when the system refuses. */
static inline int frameloom_i_map(frameloom_i_mapping *m, frameloom_i_handle file, uint64_t size) {
    m->size = size;
    m->file = file;
#ifdef _WIN32
    m->section = CreateFileMappingW(file, NULL, PAGE_READWRITE, 0, 0, NULL);
    m->memory = m->section ? (uint8_t *)MapViewOfFile(m->section, FILE_MAP_ALL_ACCESS, 0, 0, (SIZE_T)size) : NULL;
    if (!m->memory && m->section) CloseHandle(m->section);
#else
    int flags = MAP_SHARED;
#ifdef MAP_POPULATE
    /* Only memory that exists already: populating a sparse file would allocate it. */
    if (frameloom_i_true_size(file) >= size) flags |= MAP_POPULATE;
#endif
    void *at = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, flags, file, 0);
    m->memory = at == MAP_FAILED ? NULL : (uint8_t *)at;
#endif
    if (!m->memory) {
        frameloom_i_close(file);
        m->file = FRAMELOOM_I_NONE;
    }
    return m->memory != NULL;
}

/* A new segment of `size` zero bytes with memory behind it. */
static inline frameloom_status frameloom_i_create(const frameloom_i_place *p, frameloom_i_mapping *m, uint64_t generation,
                                                  uint64_t size, frameloom_error *error) {
    char path[FRAMELOOM_I_PATH];
    int there = size <= SIZE_MAX;
#ifdef _WIN32
    if (p->named) {
        wchar_t name[FRAMELOOM_I_PATH];
        frameloom_i_object(p, path, generation, "");
        frameloom_i_wide(path, name);
        m->size = size;
        m->file = FRAMELOOM_I_NONE;
        m->section = CreateFileMappingW(INVALID_HANDLE_VALUE, NULL, PAGE_READWRITE, (DWORD)(size >> 32), (DWORD)size, name);
        m->memory = m->section && there ? (uint8_t *)MapViewOfFile(m->section, FILE_MAP_ALL_ACCESS, 0, 0, (SIZE_T)size) : NULL;
        if (!m->memory) {
            if (m->section) CloseHandle(m->section);
            return frameloom_i_fail(error, FRAMELOOM_NO_SPACE,
                                    "no room for a segment of %llu bytes in the page file; free some, use fewer slots or "
                                    "smaller frames",
                                    (unsigned long long)size);
        }
        memset(m->memory, 0, (size_t)size); /* first touch costs more than the copy of a frame */
        return FRAMELOOM_OK;
    }
#endif
    frameloom_i_segment_file(p, path, generation);
    frameloom_i_handle file = frameloom_i_open(path, FRAMELOOM_I_NEW);
    if (file == FRAMELOOM_I_NONE) return frameloom_i_denied(error, path);
#ifdef __linux__
    there = there && size <= INT64_MAX && posix_fallocate(file, 0, (off_t)size) == 0 &&
            frameloom_i_true_size(file) >= size;
#else
    static const uint8_t zeros[1 << 16] = {0};
    for (uint64_t at = 0; there && at < size; at += sizeof zeros)
        there = frameloom_i_append(file, zeros, size - at < sizeof zeros ? (size_t)(size - at) : sizeof zeros);
#endif
    if (!there)
        frameloom_i_close(file);
    else if (frameloom_i_map(m, file, size))
        return FRAMELOOM_OK;
    frameloom_i_delete(path);
    return frameloom_i_fail(error, FRAMELOOM_NO_SPACE,
                            "no room for a segment of %llu bytes in %.200s, or its file system reserves none; free some room "
                            "there, raise the file size limit (ulimit -f), use fewer slots, smaller frames or another folder",
                            (unsigned long long)size, p->folder);
}

/* The first page of a segment as private bytes, and its true size. With a named section or a file on Windows the whole is
 * mapped already, else `file` is open. NOTHING_NEW when it is gone. `got`: bytes of the page that there were. */
static inline frameloom_status frameloom_i_peek(const frameloom_i_place *p, uint64_t generation, uint8_t *page, size_t *got,
                                                frameloom_i_mapping *m, frameloom_error *error) {
    char path[FRAMELOOM_I_PATH];
    m->memory = NULL;
    m->file = FRAMELOOM_I_NONE;
#ifdef _WIN32
    if (p->named) {
        wchar_t name[FRAMELOOM_I_PATH];
        MEMORY_BASIC_INFORMATION region;
        frameloom_i_object(p, path, generation, "");
        frameloom_i_wide(path, name);
        m->section = OpenFileMappingW(FILE_MAP_ALL_ACCESS, FALSE, name);
        if (!m->section) return FRAMELOOM_NOTHING_NEW;
        m->memory = (uint8_t *)MapViewOfFile(m->section, FILE_MAP_ALL_ACCESS, 0, 0, 0);
        if (!m->memory || !VirtualQuery(m->memory, &region, sizeof region) || region.RegionSize < FRAMELOOM_PAGE) {
            if (!m->memory) CloseHandle(m->section);
            frameloom_i_unmap(m);
            return frameloom_i_fail(error, FRAMELOOM_TRUNCATED_SEGMENT, "%.300s cannot be mapped; start the writer again", path);
        }
        m->size = region.RegionSize;
        memcpy(page, m->memory, FRAMELOOM_PAGE);
        *got = FRAMELOOM_PAGE;
        return FRAMELOOM_OK;
    }
#endif
    frameloom_i_segment_file(p, path, generation);
    m->file = frameloom_i_open(path, FRAMELOOM_I_EXISTING);
    if (m->file == FRAMELOOM_I_NONE) return frameloom_i_absent() ? FRAMELOOM_NOTHING_NEW : frameloom_i_denied(error, path);
    frameloom_status status = frameloom_i_owned(m->file, path, error);
    if (status != FRAMELOOM_OK) {
        frameloom_i_close(m->file);
        return status;
    }
    m->size = frameloom_i_true_size(m->file);
    *got = frameloom_i_read(m->file, page, FRAMELOOM_PAGE);
    return FRAMELOOM_OK;
}

/* Let go of what frameloom_i_peek opened. */
static inline void frameloom_i_unpeek(frameloom_i_mapping *m) {
    frameloom_i_close(m->memory ? FRAMELOOM_I_NONE : m->file);
    frameloom_i_unmap(m);
}

/* Map `size` bytes, checked against the true size, of a segment that was peeked at. */
static inline int frameloom_i_attach(frameloom_i_mapping *m, uint64_t size) {
    if (m->memory) {
        m->size = size;
        return 1;
    }
    if (size <= SIZE_MAX) return frameloom_i_map(m, m->file, size);
    frameloom_i_close(m->file);
    return 0;
}

/* Sleeping: a wake-up is a hint, every wait has a timeout, nothing spins. */

typedef struct frameloom_i_wake {
#ifdef _WIN32
    HANDLE event;
#else
    int unused;
#endif
} frameloom_i_wake;

/* The event of `who` ("-r3-wake") on Windows; nothing elsewhere. */
static inline void frameloom_i_wake_open(frameloom_i_wake *wake, const frameloom_i_place *p, uint64_t generation,
                                         const char *who) {
#ifdef _WIN32
    if (wake->event || !p->named) return;
    char text[FRAMELOOM_I_PATH];
    wchar_t name[FRAMELOOM_I_PATH];
    frameloom_i_object(p, text, generation, who);
    frameloom_i_wide(text, name);
    wake->event = CreateEventW(NULL, FALSE, FALSE, name);
#else
    (void)wake, (void)p, (void)generation, (void)who;
#endif
}

static inline void frameloom_i_wake_close(frameloom_i_wake *wake) {
#ifdef _WIN32
    if (wake->event) CloseHandle(wake->event);
    wake->event = NULL;
#else
    (void)wake;
#endif
}

/* Sleep until the word may differ from `seen`, at most timeout_ms. May return early. 1: somebody woke us, 0: nobody did until
 * the end, -1: neither is known. */
static inline int frameloom_i_wake_wait(const frameloom_i_wake *wake, uint8_t *word, uint32_t seen, uint32_t timeout_ms) {
#ifdef __linux__
    (void)wake;
    struct timespec timeout;
    timeout.tv_sec = (time_t)(timeout_ms / 1000);
    timeout.tv_nsec = (long)(timeout_ms % 1000) * 1000000;
    /* Interrupted, changed and timed out all mean: look again. */
    if (syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, NULL, 0) == 0) return 1;
    return errno == ETIMEDOUT ? 0 : -1;
#else
#ifdef _WIN32
    if (wake->event) {
        DWORD ended = WaitForSingleObject(wake->event, timeout_ms);
        return ended == WAIT_OBJECT_0 ? 1 : ended == WAIT_TIMEOUT ? 0 : -1;
    }
#else
    (void)wake;
#endif
    uint64_t deadline = frameloom_i_now_ns() + (uint64_t)timeout_ms * 1000000u;
    for (uint32_t ms = 1; frameloom_i_get32(word) == seen && frameloom_i_now_ns() < deadline; ms += ms < 10) frameloom_i_nap_ms(ms);
    return -1;
#endif
}

static inline void frameloom_i_wake_all(const frameloom_i_wake *wake, uint8_t *word) {
#ifdef _WIN32
    (void)word;
    if (wake->event) SetEvent(wake->event);
#elif defined(__linux__)
    (void)wake;
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
#else
    (void)wake, (void)word;
#endif
}

#ifdef __cplusplus
}
#endif

#endif
