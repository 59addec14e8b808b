/* Plays TouchDesigner: the owner (Shared Mem Out TOP) or the receiver (Shared Mem In TOP) of one name, written from the
 * layout facts and independently of the Python adaptor; the compiler lays out the structures, not a table of offsets.
 *
 *   td_peer out NAME WIDTH HEIGHT FRAMES INTERVAL_MS [KEY=VALUE]...   keys: version (1, 2, 0 for the header before 2022),
 *           format, info (2 double prefix, 1 single, 0 none), resize (before which frame the width doubles, as soon as a
 *           line comes on standard input), hold (at which frame the mutex is held until a line comes), crash (at which
 *           frame the process ends with the mutex)
 *   td_peer in NAME FRAMES TIMEOUT_MS                                 prints a line for every new picture
 *
 * Objects: on Windows named sections and mutexes, or with FILES=1 in the environment files under Z:\dev\shm, which a
 * program outside Wine can map too; elsewhere files in /dev/shm and locks on them. Exit status: 0 done, 1 something is
 * wrong, 3 timed out.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef _WIN32
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

enum { POSTFIX = 32, LOCK_MS = 5000 };

struct info {
    int32_t magic, version;
    bool supported;
    uint16_t postfix[POSTFIX];
    bool detach;
};

struct header1 {
    int32_t magic, version, width, height;
    float aspectx, aspecty;
    uint32_t format;
    int64_t bytes;
    int32_t offset;
};

struct header2 {
    int32_t magic, version, width, height;
    float aspectx, aspecty;
    uint32_t format;
    int64_t bytes;
    int32_t offset;
    uint32_t gamut, transfer;
};

struct header0 {
    int32_t magic, version, width, height;
    float aspectx, aspecty;
    uint32_t layout, component, format;
    int32_t offset;
};

static const uint32_t MAGIC = 0xd95ef835u, OLD_MAGIC = 0xe95df673u, INFO_MAGIC = 0x56ed34bau;

static void fail(const char *what, const char *name) {
    fprintf(stderr, "td_peer: %s: %s\n", what, name);
    exit(1);
}

static void nap(int ms) {
#ifdef _WIN32
    Sleep(ms);
#else
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
#endif
}

static int64_t now_ms(void) {
#ifdef _WIN32
    return (int64_t)GetTickCount64();
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
#endif
}

/* ---- memory and locks --------------------------------------------------------------------------------------------- */

struct memory {
    uint8_t *bytes;
    size_t size;
    char name[512];
#ifdef _WIN32
    HANDLE file, section;
#endif
};

#ifdef _WIN32
typedef HANDLE lock_t;

static bool files(void) {
    const char *set = getenv("FILES");
    return set != NULL && set[0] == '1';
}

static void path_of(const char *name, char *out, size_t size) { snprintf(out, size, "Z:\\dev\\shm\\%s", name); }

static HANDLE open_file(const char *name, DWORD how) {
    char path[700];
    path_of(name, path, sizeof path);
    return CreateFileA(path, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                       how, FILE_ATTRIBUTE_NORMAL, NULL);
}

static bool get_memory(struct memory *m, const char *name, size_t size) {
    memset(m, 0, sizeof *m);
    snprintf(m->name, sizeof m->name, "%s", name);
    m->file = INVALID_HANDLE_VALUE;
    if (files()) {
        m->file = open_file(name, size ? CREATE_NEW : OPEN_EXISTING);
        if (m->file == INVALID_HANDLE_VALUE)
            return false;
        m->section = CreateFileMappingA(m->file, NULL, PAGE_READWRITE, 0, (DWORD)size, NULL);
    } else if (size) {
        m->section = CreateFileMappingA(INVALID_HANDLE_VALUE, NULL, PAGE_READWRITE, 0, (DWORD)size, name);
        if (m->section && GetLastError() == ERROR_ALREADY_EXISTS) {
            CloseHandle(m->section);
            m->section = NULL;
        }
    } else {
        m->section = OpenFileMappingA(FILE_MAP_ALL_ACCESS, FALSE, name);
    }
    if (!m->section) {
        if (m->file != INVALID_HANDLE_VALUE)
            CloseHandle(m->file);
        return false;
    }
    m->bytes = MapViewOfFile(m->section, FILE_MAP_ALL_ACCESS, 0, 0, 0);
    if (!m->bytes)
        fail("cannot be mapped", name);
    MEMORY_BASIC_INFORMATION about;
    VirtualQuery(m->bytes, &about, sizeof about);
    m->size = about.RegionSize;
    return true;
}

static void drop_memory(struct memory *m, bool owner) {
    if (!m->bytes)
        return;
    UnmapViewOfFile(m->bytes);
    CloseHandle(m->section);
    if (m->file != INVALID_HANDLE_VALUE)
        CloseHandle(m->file);
    if (owner && files()) {
        char path[700];
        path_of(m->name, path, sizeof path);
        DeleteFileA(path);
    }
    m->bytes = NULL;
}

static lock_t get_lock(const char *name) {
    HANDLE lock = files() ? open_file(name, OPEN_ALWAYS) : CreateMutexA(NULL, FALSE, name);
    if (lock == NULL || lock == INVALID_HANDLE_VALUE)
        fail("no lock", name);
    return lock;
}

static bool take(lock_t lock) {
    if (!files()) {
        DWORD got = WaitForSingleObject(lock, LOCK_MS);
        return got == WAIT_OBJECT_0 || got == WAIT_ABANDONED;
    }
    for (int64_t until = now_ms() + LOCK_MS; now_ms() < until; nap(1)) {
        OVERLAPPED at = {0};
        if (LockFileEx(lock, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at))
            return true;
    }
    return false;
}

static void give(lock_t lock) {
    OVERLAPPED at = {0};
    if (files())
        UnlockFileEx(lock, 0, 1, 0, &at);
    else
        ReleaseMutex(lock);
}
#else
typedef int lock_t;

static void path_of(const char *name, char *out, size_t size) { snprintf(out, size, "/dev/shm/%s", name); }

static bool get_memory(struct memory *m, const char *name, size_t size) {
    char path[700];
    struct stat about;
    memset(m, 0, sizeof *m);
    snprintf(m->name, sizeof m->name, "%s", name);
    path_of(name, path, sizeof path);
    int fd = open(path, O_RDWR | (size ? O_CREAT | O_EXCL : 0), 0600);
    if (fd < 0)
        return false;
    if (size && ftruncate(fd, (off_t)size))
        fail("no room", name);
    if (fstat(fd, &about) || about.st_size == 0) {
        close(fd);
        return false;
    }
    m->size = (size_t)about.st_size;
    m->bytes = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (m->bytes == MAP_FAILED)
        fail("cannot be mapped", name);
    return true;
}

static void drop_memory(struct memory *m, bool owner) {
    if (!m->bytes)
        return;
    munmap(m->bytes, m->size);
    if (owner) {
        char path[700];
        path_of(m->name, path, sizeof path);
        unlink(path);
    }
    m->bytes = NULL;
}

static lock_t get_lock(const char *name) {
    char path[700];
    path_of(name, path, sizeof path);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        fail("no lock", name);
    return fd;
}

static bool locked(lock_t lock, short kind) {
    struct flock range = {.l_type = kind, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    return fcntl(lock, F_OFD_SETLK, &range) == 0;
}

static bool take(lock_t lock) {
    for (int64_t until = now_ms() + LOCK_MS; now_ms() < until; nap(1))
        if (locked(lock, F_WRLCK))
            return true;
    return false;
}

static void give(lock_t lock) { locked(lock, F_UNLCK); }
#endif

/* ---- names -------------------------------------------------------------------------------------------------------- */

static void data_name(char *out, size_t size, const char *name, const uint16_t *postfix) {
    char ascii[POSTFIX + 1] = {0};
    for (int i = 0; postfix && i < POSTFIX && postfix[i]; i++)
        ascii[i] = (char)postfix[i];
    snprintf(out, size, "TouchSHM%s%s", name, ascii);
}

static void info_name(char *out, size_t size, const char *name, int prefixes) {
    snprintf(out, size, "%sTouchSHM%s4jhd783h", prefixes == 2 ? "TouchSHM" : "", name);
}

static lock_t lock_of(const char *memory) {
    char name[600];
    snprintf(name, sizeof name, "%sMutex", memory);
    return get_lock(name);
}

/* ---- the owner ---------------------------------------------------------------------------------------------------- */

static size_t bytes_per_pixel(uint32_t format) {
    switch (format) {
    case 9: case 0xF0001: return 1;
    case 16: case 70: case 76: case 0xF0002: case 0xF0003: case 0xF0005: return 2;
    case 91: case 97: case 0xF0008: case 103: return 8;
    case 109: return 16;
    default: return 4;
    }
}

static void put_header(uint8_t *at, int version, int width, int height, uint32_t format, size_t *offset) {
    int64_t bytes = (int64_t)width * height * (int64_t)bytes_per_pixel(format);
    if (version == 2) {
        struct header2 h = {(int32_t)MAGIC, 2, width, height, 1, 1, format, bytes, sizeof h, 2, 1};
        memcpy(at, &h, sizeof h);
        *offset = sizeof h;
    } else if (version == 1) {
        struct header1 h = {(int32_t)MAGIC, 1, width, height, 1, 1, format, bytes, sizeof h};
        memcpy(at, &h, sizeof h);
        *offset = sizeof h;
    } else {
        /* GL_RGBA, GL_UNSIGNED_BYTE, GL_RGBA8 */
        struct header0 h = {(int32_t)OLD_MAGIC, 2, width, height, 1, 1, 0x1908, 0x1401, 0x8058, sizeof h};
        memcpy(at, &h, sizeof h);
        *offset = sizeof h;
    }
}

/* Byte i of frame k is (k + i) modulo 251, so that a torn picture shows. */
static void put_pixels(uint8_t *at, size_t bytes, int frame) {
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)((i + (size_t)frame) % 251);
}

static void await_line(void) {
    int c;
    do
        c = getchar();
    while (c != '\n' && c != EOF);
}

static int value_of(int argc, char **argv, const char *key, int otherwise) {
    size_t length = strlen(key);
    for (int i = 7; i < argc; i++)
        if (!strncmp(argv[i], key, length) && argv[i][length] == '=')
            return (int)strtol(argv[i] + length + 1, NULL, 0);
    return otherwise;
}

static int owner(int argc, char **argv) {
    const char *name = argv[2];
    int width = atoi(argv[3]), height = atoi(argv[4]), frames = atoi(argv[5]), interval = atoi(argv[6]);
    int version = value_of(argc, argv, "version", 2), resize = value_of(argc, argv, "resize", 0);
    int hold = value_of(argc, argv, "hold", 0), crash = value_of(argc, argv, "crash", 0);
    int with_info = value_of(argc, argv, "info", 2);
    uint32_t format = (uint32_t)value_of(argc, argv, "format", 37);
    char data[600], about[600];
    struct memory info_memory = {0}, memory = {0};
    struct info *info = NULL;
    lock_t info_lock = 0;

    data_name(data, sizeof data, name, NULL);
    lock_t lock = lock_of(data);
    if (with_info) {
        info_name(about, sizeof about, name, with_info);
        info_lock = lock_of(about);
        if (!get_memory(&info_memory, about, sizeof *info))
            fail("already exists", about);
        info = (struct info *)info_memory.bytes;
        if (!take(info_lock))
            fail("held", about);
        info->magic = (int32_t)INFO_MAGIC;
        info->version = 2;
        give(info_lock);
    }
    if (!get_memory(&memory, data, sizeof(struct header2) + (size_t)width * height * bytes_per_pixel(format)))
        fail("already exists", data);
    puts("ready");
    fflush(stdout);
    for (int k = 1; k <= frames; k++) {
        if (k == resize) {
            await_line();
            width *= 2;
            bool followed = false;
            if (info) {
                if (!take(info_lock))
                    fail("held", about);
                followed = info->supported;
                for (int i = 0; followed && i < POSTFIX - 1; i++)
                    info->postfix[i] = (uint16_t)('a' + (k * 7 + i * 11) % 26);
            }
            drop_memory(&memory, true);
            data_name(data, sizeof data, name, info ? info->postfix : NULL);
            if (!get_memory(&memory, data, sizeof(struct header2) + (size_t)width * height * bytes_per_pixel(format)))
                fail("already exists", data);
            if (info)
                give(info_lock);
            printf("resized %d\n", followed);
            fflush(stdout);
        }
        if (!take(lock)) {
            fprintf(stderr, "td_peer: its mutex was held for %d ms\n", LOCK_MS);
            return 3;
        }
        size_t offset;
        put_header(memory.bytes, version, width, height, format, &offset);
        put_pixels(memory.bytes + offset, (size_t)width * height * bytes_per_pixel(format), k);
        if (k == hold) {
            puts("holding");
            fflush(stdout);
            await_line();
        }
        if (k == crash) {
            puts("crash");
            fflush(stdout);
#ifdef _WIN32
            TerminateProcess(GetCurrentProcess(), 7);
#else
            _exit(7);
#endif
        }
        give(lock);
        printf("sent %d\n", k);
        fflush(stdout);
        nap(interval);
    }
    if (info) {
        if (take(info_lock)) {
            info->detach = true;
            give(info_lock);
        }
        drop_memory(&info_memory, true);
    }
    drop_memory(&memory, true);
    return 0;
}

/* ---- the receiver ------------------------------------------------------------------------------------------------- */

static int receiver(char **argv) {
    const char *name = argv[2];
    int wanted = atoi(argv[3]), seen = 0;
    int64_t until = now_ms() + atoi(argv[4]);
    char data[600], about[600];
    struct memory info_memory = {0}, memory = {0};
    struct info *info = NULL;
    uint16_t postfix[POSTFIX] = {0};
    uint64_t last = 0;

    info_name(about, sizeof about, name, 2);
    data_name(data, sizeof data, name, NULL);
    lock_t info_lock = lock_of(about), lock = lock_of(data);
    while (seen < wanted && now_ms() < until) {
        if (!info) {
            if (!get_memory(&info_memory, about, 0)) {
                nap(10);
                continue;
            }
            info = (struct info *)info_memory.bytes;
        }
        if (!take(info_lock))
            fail("held for five seconds", about);
        if (!info->magic) { /* just being made */
            give(info_lock);
            nap(10);
            continue;
        }
        if ((uint32_t)info->magic != INFO_MAGIC)
            fail("wrong magic", about);
        info->supported = true;
        bool gone = info->detach, moved = memcmp(postfix, info->postfix, sizeof postfix) != 0;
        memcpy(postfix, info->postfix, sizeof postfix);
        give(info_lock);
        if (gone) {
            puts("detached");
            break;
        }
        if (moved)
            drop_memory(&memory, false);
        if (!memory.bytes) {
            data_name(data, sizeof data, name, postfix);
            if (!get_memory(&memory, data, 0)) {
                nap(10);
                continue;
            }
        }
        if (!take(lock))
            fail("held for five seconds", data);
        struct header2 h;
        memcpy(&h, memory.bytes, sizeof h);
        uint64_t sum = 14695981039346656037u;
        if ((uint32_t)h.magic == MAGIC) {
            if (h.offset < 48 || h.bytes < 0 || (size_t)h.offset + (size_t)h.bytes > memory.size)
                fail("pixels beyond the memory", data);
            for (int64_t i = 0; i < h.bytes; i++)
                sum = (sum ^ memory.bytes[h.offset + i]) * 1099511628211u;
        }
        give(lock);
        if ((uint32_t)h.magic == MAGIC && sum != last) {
            last = sum;
            seen++;
            /* The hash of the pixels says which picture it is; the first four bytes are the bottom left pixel. */
            printf("picture %d %d format %u version %d bytes %lld first %u %u %u %u sum %016llx\n", h.width, h.height,
                   h.format, h.version, (long long)h.bytes, memory.bytes[h.offset], memory.bytes[h.offset + 1],
                   memory.bytes[h.offset + 2], memory.bytes[h.offset + 3], (unsigned long long)sum);
            fflush(stdout);
        }
        nap(1);
    }
    drop_memory(&memory, false);
    drop_memory(&info_memory, false);
    return seen >= wanted ? 0 : 3;
}

int main(int argc, char **argv) {
    _Static_assert(sizeof(struct info) == 76 && offsetof(struct info, postfix) == 10, "info");
    _Static_assert(offsetof(struct info, supported) == 8 && offsetof(struct info, detach) == 74, "info");
    _Static_assert(sizeof(struct header1) == 48 && offsetof(struct header1, bytes) == 32, "header 1");
    _Static_assert(sizeof(struct header2) == 56 && offsetof(struct header2, gamut) == 44, "header 2");
    _Static_assert(sizeof(struct header0) == 40, "header before 2022");
    if (argc >= 7 && !strcmp(argv[1], "out"))
        return owner(argc, argv);
    if (argc == 5 && !strcmp(argv[1], "in"))
        return receiver(argv);
    fprintf(stderr, "td_peer: wrong words; see the head of td_peer.c\n");
    return 2;
}
