/* A ring reader and a ring writer for Linux, made from bridge/PROTOCOL.md alone. Section numbers are that document's.
 *
 *   peer write DIRECTORY CHANNEL FIRST LAST   publishes frames FIRST..LAST, one a millisecond, then waits for end of input
 *   peer read  DIRECTORY CHANNEL LAST         checks frames until LAST arrives; copies and pinned views in turn
 *
 * Every 8 bytes of a frame's 64 x 48 RGBA8 picture repeat its source frame id.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WIDTH = 64, HEIGHT = 48, SLOTS = 4, ENTRIES = 16, LIVE = 1 };

static uint8_t *map; /* the segment */
static char record_path[512], lock_path[512], prefix[512];

#define U32(at) ((uint32_t *)(map + (at)))
#define U64(at) ((uint64_t *)(map + (at)))
#define GET(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define PUT(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static void die(const char *why) {
    printf("FAIL %s\n", why);
    exit(1);
}

static void names(const char *directory, const char *channel) { /* section 1, file-backed */
    snprintf(prefix, sizeof prefix, "%s/frameloom-%s", directory, channel);
    snprintf(record_path, sizeof record_path, "%.400s.ring", prefix);
    snprintf(lock_path, sizeof lock_path, "%.400s.lock", prefix);
}

static void segment_path(char *out, size_t size, uint64_t generation) {
    snprintf(out, size, "%.400s-%016llx.seg", prefix, (unsigned long long)generation);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void nap_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static int lock_byte(int fd, off_t at, int command) { /* 1: taken by us (F_OFD_SETLK) or by nobody (F_OFD_GETLK) */
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    if (fcntl(fd, command, &l) < 0) return 0;
    return command == F_OFD_SETLK || l.l_type == F_UNLCK;
}

static void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static void put64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }
static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }

/* Sections 5 and 6. */

static int write_frames(uint64_t first, uint64_t last) {
    struct stat ours, named;
    for (int i = 0, lock = -1;; i++, nap_ms(10)) {
        if (i == 25) die("writer exists");
        if (lock >= 0) close(lock);
        lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (!lock_byte(lock, 0, F_OFD_SETLK) || fstat(lock, &ours) || stat(lock_path, &named)) continue;
        if (ours.st_ino == named.st_ino && ours.st_dev == named.st_dev) break;
    }
    uint64_t generation = now_ns() * 0x9E3779B97F4A7C15u | 1;
    uint64_t stride = PAGE + (WIDTH * HEIGHT * 4 + PAGE - 1) / PAGE * PAGE, size = PAGE + SLOTS * stride;
    char path[512], temporary[512];
    segment_path(path, sizeof path, generation);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || posix_fallocate(fd, 0, (off_t)size)) die("no space");
    map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (map == MAP_FAILED) die("mmap");
    memcpy(map, "FLRING\r\n", 8);
    put32(map + 12, PAGE), put64(map + 16, size), put64(map + 24, generation), put32(map + 32, SLOTS);
    put32(map + 36, PAGE), put64(map + 40, stride), put64(map + 48, (uint64_t)getpid()), put64(map + 56, now_ns());
    put32(map + 68, 2048), put32(map + 72, ENTRIES), put32(map + 76, 64), put32(map + 80, 448), put64(map + 88, 1);
    put32(map + 264, LIVE);
    PUT(U32(8), 1u << 16);
    uint8_t record[64] = "FLPOINT\n";
    put32(record + 8, 1u << 16), put32(record + 12, 64), put64(record + 16, generation), put64(record + 24, size);
    put64(record + 32, (uint64_t)getpid()), put64(record + 40, now_ns());
    snprintf(temporary, sizeof temporary, "%.400s.%016llx.tmp", record_path, (unsigned long long)generation);
    int out = open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (write(out, record, 64) != 64 || close(out) || rename(temporary, record_path)) die("record");
    printf("READY\n"), fflush(stdout);

    uint64_t s = 0;
    int newest = SLOTS - 1;
    for (uint64_t number = first; number <= last; number++) {
        s++;
        int k = -1;
        for (int step = 1; k < 0; step = step % (SLOTS - 1) + 1) {
            int candidate = (newest + step) % SLOTS, pinned = 0;
            uint64_t *word = U64(PAGE + candidate * stride), before = *word;
            for (int look = 0; look < 2 && !pinned; look++) {
                for (int i = 1; i <= SLOTS - 2; i++) pinned |= GET(U32(2048 + 64 * i + 4)) == (uint32_t)candidate + 1;
                if (look == 0 && !pinned) {
                    PUT(word, 2 * s - 1);
                    FENCE(); /* SYNC POINT W1 */
                } else if (pinned && look == 1) PUT(word, before);
            }
            if (!pinned) k = candidate;
        }
        uint8_t *slot = map + PAGE + k * stride, *plane = slot + 256;
        put64(slot + 8, number), put64(slot + 16, number), put64(slot + 24, now_ns()), put64(slot + 32, now_ns());
        put32(slot + 60, 1), put64(slot + 64, WIDTH * HEIGHT * 4);
        put32(plane, 1), put32(plane + 4, 1), put32(plane + 8, WIDTH), put32(plane + 12, HEIGHT);
        put64(plane + 16, WIDTH * 4), put64(plane + 24, PAGE), put64(plane + 32, WIDTH * HEIGHT * 4);
        for (int i = 0; i < WIDTH * HEIGHT * 4; i += 8) put64(slot + PAGE + i, number);
        PUT(U64(PAGE + k * stride), 2 * s);       /* SYNC POINT W2 */
        PUT(U64(256), s << 8 | (uint64_t)k);      /* SYNC POINT W3 */
        PUT(U32(384), (uint32_t)s);               /* SYNC POINT W4 */
        FENCE();                                  /* SYNC POINT W5 */
        int sleepers = 0;
        for (int i = 0; i < ENTRIES; i++) sleepers |= GET(U32(448 + 4 * i)) != 0;
        if (sleepers) syscall(SYS_futex, U32(384), FUTEX_WAKE, 0x7FFFFFFF, NULL, NULL, 0);
        newest = k;
        nap_ms(1);
    }
    printf("DONE\n"), fflush(stdout);
    getchar();
    PUT(U32(264), 3u); /* CLOSED */
    PUT(U32(384), *U32(384) + 1);
    syscall(SYS_futex, U32(384), FUTEX_WAKE, 0x7FFFFFFF, NULL, NULL, 0);
    unlink(record_path), unlink(path), unlink(lock_path);
    return 0;
}

/* Sections 7, 8 and 10. */

static struct { uint32_t header_size, slots, slot_header, table, waiting; uint64_t generation, stride, size; } g;
static int entry, entry_fd = -1;

static void check_header(const uint8_t *h, uint64_t generation, uint64_t true_size) {
    g.header_size = get32(h + 12), g.size = get64(h + 16), g.generation = get64(h + 24), g.slots = get32(h + 32);
    g.slot_header = get32(h + 36), g.stride = get64(h + 40), g.table = get32(h + 68), g.waiting = get32(h + 80);
    if (memcmp(h, "FLRING\r\n", 8)) die("magic");
    if (get32(h + 8) >> 16 != 1) die("version");
    if (g.generation != generation || g.header_size < PAGE || g.header_size % PAGE) die("header");
    if (g.slots < 4 || g.slots > 64 || g.slot_header < PAGE || g.slot_header % PAGE) die("slots");
    if (g.stride <= g.slot_header || g.stride % PAGE || g.size > 1ull << 40 || g.size > true_size) die("sizes");
    if (g.size != g.header_size + g.slots * g.stride) die("sum");
    if (get32(h + 72) != ENTRIES || get32(h + 76) != 64 || g.table % 64 || g.waiting % 64) die("tables");
    if (g.table + ENTRIES * 64ull > g.header_size || g.waiting + 64ull > g.header_size) die("tables outside");
}

static int attach(void) { /* 1 when there is a generation that we have not mapped and whose writer lives */
    uint8_t record[64], header[PAGE];
    int fd = open(record_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, record, sizeof record);
    close(fd);
    if (got != 64 || memcmp(record, "FLPOINT\n", 8) || get32(record + 8) >> 16 != 1) die("record");
    uint64_t generation = get64(record + 16);
    if (map && generation == g.generation) return 0;
    int lock = open(lock_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    int nobody = lock < 0 || lock_byte(lock, 0, F_OFD_GETLK);
    if (lock >= 0) close(lock);
    if (nobody) return 0;
    char path[512];
    segment_path(path, sizeof path, generation);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return 0;
    struct stat st;
    if (fstat(fd, &st) || pread(fd, header, PAGE, 0) != PAGE) die("short");
    check_header(header, generation, (uint64_t)st.st_size);
    map = mmap(NULL, g.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); /* the old mapping is left to the end */
    if (map == MAP_FAILED) die("mmap");
    close(fd);
    if (entry_fd >= 0) close(entry_fd);
    entry_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    for (entry = 1; entry <= (int)g.slots - 2; entry++)
        if (lock_byte(entry_fd, g.table + 64 * entry, F_OFD_SETLK)) break;
    if (entry > (int)g.slots - 2) die("no entry that may pin");
    PUT(U32(g.table + 64 * entry + 4), 0u), PUT(U32(g.waiting + 4 * entry), 0u);
    PUT(U32(g.table + 64 * entry), 1u);
    return 1;
}

static uint64_t said(const uint8_t *pixels) {
    uint64_t number = get64(pixels);
    for (int i = 0; i < WIDTH * HEIGHT * 4; i += 8)
        if (get64(pixels + i) != number) die("torn");
    return number;
}

static int read_frames(uint64_t until) {
    uint64_t last = 0, number = 0, taken = 0, deadline = now_ns() + 60000000000ull;
    static uint8_t copy[WIDTH * HEIGHT * 4];
    printf("READY\n"), fflush(stdout);
    while (number < until) {
        if (now_ns() > deadline) die("timeout");
        uint64_t newest = map ? GET(U64(256)) : 0, s = newest >> 8, k = newest & 255;
        if (s <= last) {
            if (attach()) {
                last = 0;
            } else if (!map || GET(U32(264)) != LIVE) {
                nap_ms(1);
            } else {
                uint32_t w = GET(U32(384)); /* SYNC POINT R4 */
                PUT(U32(g.waiting + 4 * entry), 1u);
                FENCE(); /* SYNC POINT R5 */
                struct timespec timeout = {0, 100000000};
                if (GET(U64(256)) >> 8 <= last && GET(U32(264)) == LIVE)
                    syscall(SYS_futex, U32(384), FUTEX_WAIT, w, &timeout, NULL, 0);
                PUT(U32(g.waiting + 4 * entry), 0u);
            }
            continue;
        }
        if (k >= g.slots) die("newest");
        uint8_t *slot = map + g.header_size + k * g.stride, head[256 + 8 * 48];
        uint64_t *word = (uint64_t *)slot;
        uint32_t *pin = U32(g.table + 64 * entry + 4);
        int in_place = (int)(taken % 2);
        if (in_place) {
            PUT(pin, (uint32_t)k + 1);
            FENCE(); /* SYNC POINT R1 */
        }
        if (GET(word) == 2 * s) { /* SYNC POINT R3, R2 */
            memcpy(head, slot, sizeof head);
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (GET(word) == 2 * s) { /* the description is whole, so a strange one is an error */
                uint8_t *plane = head + 256;
                uint64_t offset = get64(plane + 24), size = get64(plane + 32);
                if (get32(head + 60) != 1 || get32(plane) != 1 || get32(plane + 4) != 1) die("planes");
                if (get32(plane + 8) != WIDTH || get32(plane + 12) != HEIGHT || get64(plane + 16) != WIDTH * 4) die("shape");
                if (offset % 64 || offset < g.slot_header || size != sizeof copy || offset > g.stride - size) die("place");
                uint64_t says = 0;
                if (in_place) {
                    says = said(slot + offset);
                    nap_ms(3);
                    if (said(slot + offset) != says) die("view changed");
                } else {
                    memcpy(copy, slot + offset, sizeof copy);
                }
                __atomic_thread_fence(__ATOMIC_ACQUIRE); /* SYNC POINT R2, second half */
                if (GET(word) == 2 * s) {
                    says = in_place ? says : said(copy);
                    if (says != get64(head + 16)) die("other picture");
                    if (says <= number) die("older");
                    number = says, last = s, taken++;
                } else if (in_place) {
                    die("pinned and overwritten");
                }
            }
        }
        if (in_place) PUT(pin, 0u);
    }
    printf("TOOK %llu LAST %llu\n", (unsigned long long)taken, (unsigned long long)number);
    PUT(U32(g.table + 64 * entry), 0u);
    return 0;
}

int main(int count, char **words) {
    if (count < 5) die("usage");
    names(words[2], words[3]);
    if (!strcmp(words[1], "write") && count == 6) return write_frames(strtoull(words[4], 0, 10), strtoull(words[5], 0, 10));
    return read_frames(strtoull(words[4], 0, 10));
}
