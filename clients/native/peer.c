/* The conformance peer in C: a writer of test frames and a reader that checks them.
 *
 * Command line, frames and results are those of tests/conformance/peer.py, which says what each word means.
 * Also built for Windows, and as C++.
 */
#include "frameloom.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <windows.h>
#else
#include <signal.h>
#include <time.h>
#include <unistd.h>
#endif

static int word_count;
static char **words;

/* The value of a word of the command line, or the default. */
static const char *word(const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (int i = 0; i < word_count; i++)
        if (!strncmp(words[i], name, length) && words[i][length] == '=') return words[i] + length + 1;
    return otherwise;
}
static uint64_t number(const char *name, uint64_t otherwise) {
    const char *text = word(name, NULL);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static void say(const char *text) {
    printf("%s\n", text);
    fflush(stdout);
}

static void nap_us(uint64_t us) {
#ifdef _WIN32
    Sleep((DWORD)((us + 999) / 1000));
#else
    struct timespec t;
    t.tv_sec = (time_t)(us / 1000000u);
    t.tv_nsec = (long)(us % 1000000u) * 1000;
    nanosleep(&t, NULL);
#endif
}

static void die(void) {
#ifdef _WIN32
    TerminateProcess(GetCurrentProcess(), 9);
#else
    kill(getpid(), SIGKILL);
#endif
    for (;;) nap_us(1000000);
}

static void say_error(const frameloom_error *error) {
    if (!error->status) {
        printf("\"error\": null}\n");
    } else {
        printf("\"error\": {\"type\": \"%s\", \"message\": \"", frameloom_status_name(error->status));
        for (const char *c = error->message; *c; c++) {
            if (*c == '"' || *c == '\\') putchar('\\');
            putchar((unsigned char)*c < ' ' ? ' ' : *c);
        }
        printf("\"}}\n");
    }
    fflush(stdout);
}

/* ---- Frame n ---- */

typedef struct step {
    uint32_t count;
    uint32_t planes[4][2]; /* kind, format */
} step;

static const step steps[8] = {
    {1, {{FRAMELOOM_KIND_COLOUR, FRAMELOOM_FORMAT_RGBA8}, {0, 0}, {0, 0}, {0, 0}}},
    {1, {{FRAMELOOM_KIND_COLOUR, FRAMELOOM_FORMAT_BGRA8}, {0, 0}, {0, 0}, {0, 0}}},
    {1, {{FRAMELOOM_KIND_COLOUR, FRAMELOOM_FORMAT_RGB8}, {0, 0}, {0, 0}, {0, 0}}},
    {1, {{FRAMELOOM_KIND_COLOUR, FRAMELOOM_FORMAT_RGBA16F}, {0, 0}, {0, 0}, {0, 0}}},
    {1, {{FRAMELOOM_KIND_COLOUR, FRAMELOOM_FORMAT_RGBA32F}, {0, 0}, {0, 0}, {0, 0}}},
    {1, {{FRAMELOOM_KIND_COLOUR, FRAMELOOM_FORMAT_R8}, {0, 0}, {0, 0}, {0, 0}}},
    {4,
     {{FRAMELOOM_KIND_COLOUR, FRAMELOOM_FORMAT_RGBA8},
      {FRAMELOOM_KIND_DEPTH, FRAMELOOM_FORMAT_R32F},
      {FRAMELOOM_KIND_MOTION, FRAMELOOM_FORMAT_RG16F},
      {FRAMELOOM_KIND_MASK, FRAMELOOM_FORMAT_R8}}},
    {3,
     {{FRAMELOOM_KIND_DEPTH, FRAMELOOM_FORMAT_R16F},
      {FRAMELOOM_KIND_NORMAL, FRAMELOOM_FORMAT_RGBA32F},
      {FRAMELOOM_KIND_POINTS, FRAMELOOM_FORMAT_XYZI32F},
      {0, 0}}},
};

static const uint64_t FNV = 0x100000001b3u;

static uint64_t code_of(const frameloom_frame *frame) {
    uint64_t h = 0xcbf29ce484222325u;
    h = (h ^ frame->origin) * FNV;
    h = (h ^ frame->colour_space) * FNV;
    for (uint32_t kind = 1; kind <= FRAMELOOM_KIND_POINTS; kind++) {
        const frameloom_plane *plane = frameloom_plane_of(frame, kind);
        if (!plane) continue;
        h = (h ^ plane->kind) * FNV;
        h = (h ^ plane->format) * FNV;
        h = (h ^ plane->width) * FNV;
        h = (h ^ plane->height) * FNV;
    }
    return h;
}

static uint64_t base_of(uint64_t n, uint32_t kind, uint64_t code) {
    return n * 0x9e3779b97f4a7c15u ^ kind * 0xc2b2ae3d27d4eb4fu ^ code;
}

static void paint(uint8_t *to, uint64_t size, uint64_t base) {
    uint64_t i = 0, value;
    for (; i + 8 <= size; i += 8) {
        value = base + i / 8;
        memcpy(to + i, &value, 8);
    }
    value = base + i / 8;
    memcpy(to + i, &value, (size_t)(size - i));
}

/* Whether a plane holds the pattern; rows may be padded. */
static int holds(const frameloom_plane *plane, uint64_t base) {
    static const uint32_t bytes[] = FRAMELOOM_BYTES_PER_PIXEL;
    uint64_t row = (uint64_t)plane->width * bytes[plane->format], bad = 0, i = 0, size = row * plane->height, value;
    if (plane->row_stride != row) {
        for (i = 0; i < size; i++)
            bad |= plane->pixels[i / row * plane->row_stride + i % row] ^ ((base + i / 8) >> (i % 8 * 8) & 255u);
        return !bad;
    }
    for (; i + 8 <= size; i += 8) {
        memcpy(&value, plane->pixels + i, 8);
        bad |= value ^ (base + i / 8);
    }
    base += i / 8;
    return !bad && !memcmp(plane->pixels + i, &base, (size_t)(size - i));
}

static int painted(const frameloom_frame *frame, uint64_t code) {
    for (uint32_t i = 0; i < frame->plane_count; i++)
        if (!holds(&frame->planes[i], base_of(frame->frame_id, frame->planes[i].kind, code))) return 0;
    return 1;
}

static void pose(uint64_t n, float *T_world_camera, float *intrinsics) {
    for (int i = 0; i < 16; i++) T_world_camera[i] = (float)(n % 1000) + (float)i;
    for (int i = 0; i < 4; i++) intrinsics[i] = (float)(n % 1000) + (float)i / 2;
}

static int described(const frameloom_frame *frame, uint64_t code) {
    float T_world_camera[16], intrinsics[4];
    uint64_t n = frame->frame_id;
    pose(n, T_world_camera, intrinsics);
    return frame->param_revision == code && frame->source_frame_id == n + 7 &&
           frame->flags >> 2 << 2 == (uint32_t)(n % 65536) << 16 &&
           (!(frame->flags & FRAMELOOM_FLAG_POSE) ||
            !memcmp(frame->T_world_camera, T_world_camera, sizeof T_world_camera)) &&
           (!(frame->flags & FRAMELOOM_FLAG_INTRINSICS) || !memcmp(frame->intrinsics, intrinsics, sizeof intrinsics));
}

/* ---- Roles ---- */

static int write_frames(void) {
    uint64_t first = number("first", 1), frames = number("frames", 1000), grow = number("grow", 0);
    uint64_t width = number("width", 64), height = number("height", 48), doom = number("die", 0);
    uint64_t pause_us = number("pause_us", 0), written = 0, generations = 0, generation = 0, began = 0, ended = 0;
    const char *vary = word("vary", "none");
    int sizes = !strcmp(vary, "size") || !strcmp(vary, "all"), formats = !strcmp(vary, "format") || !strcmp(vary, "all");
    frameloom_error error;
    frameloom_writer_options options;
    memset(&error, 0, sizeof error);
    memset(&options, 0, sizeof options);
    options.directory = word("directory", NULL);
    options.capacity_bytes = number("capacity", width * height * 64);
    options.slots = (uint32_t)number("slots", 4);
    options.policy = strcmp(word("policy", "newest"), "lossless") ? FRAMELOOM_POLICY_NEWEST : FRAMELOOM_POLICY_LOSSLESS;
    options.timeout_ms = (uint32_t)number("timeout_ms", 10000);
    frameloom_writer *writer = frameloom_writer_open(word("channel", ""), &options, &error);
    if (writer) {
        say("READY");
        began = ended = frameloom_now_ns();
    }
    for (uint64_t n = first; writer && n < first + frames; n++) {
        frameloom_plane planes[4];
        frameloom_frame frame;
        const step *what = &steps[formats ? n / 4 % 8 : 0];
        memset(planes, 0, sizeof planes);
        for (uint32_t i = 0; i < what->count; i++) {
            planes[i].kind = what->planes[i][0];
            planes[i].format = what->planes[i][1];
            planes[i].width = (uint32_t)(width + (sizes ? n / 8 % 5 * 3 : 0));
            planes[i].height = (uint32_t)(height - (sizes ? n / 8 % 3 : 0) + (grow ? (n - first) / grow * 16 : 0));
        }
        if (frameloom_begin(writer, planes, what->count, &frame, &error) != FRAMELOOM_OK) break;
        frame.origin = formats ? (uint32_t)(n / 4 % 2) : 0;
        frame.colour_space = formats ? (uint32_t)(n / 8 % 2) : 0;
        frame.frame_id = n;
        frame.source_frame_id = n + 7;
        frame.flags = (uint32_t)(n % 65536) << 16;
        if (formats && n % 2) {
            frame.flags |= FRAMELOOM_FLAG_POSE | FRAMELOOM_FLAG_INTRINSICS;
            pose(n, frame.T_world_camera, frame.intrinsics);
        }
        frame.param_revision = code_of(&frame);
        for (uint32_t i = 0; i < frame.plane_count; i++) {
            const frameloom_plane *plane = &frame.planes[i];
            paint(plane->pixels, n == doom ? plane->size / 2 : plane->size, base_of(n, plane->kind, frame.param_revision));
            if (n == doom) die();
        }
        if (frameloom_commit(writer, &frame, &error) != FRAMELOOM_OK) break;
        generations += generation != frameloom_writer_generation(writer);
        generation = frameloom_writer_generation(writer);
        written++;
        if (pause_us) nap_us(pause_us);
    }
    if (writer && !error.status) {
        ended = frameloom_now_ns();
        say("DONE");
        while (getchar() != EOF) continue;
    }
    frameloom_writer_close(writer);
    printf("{\"role\": \"write\", \"written\": %" PRIu64 ", \"last\": %" PRIu64 ", \"generations\": %" PRIu64
           ", \"seconds\": %.6f, ",
           written, written ? first + written - 1 : 0, generations, (double)(ended - began) / 1e9);
    say_error(&error);
    return error.status ? 1 : 0;
}

static int read_frames(void) {
    const char *how = word("how", "read");
    int copies = !strcmp(how, "read"), lossless = !strcmp(how, "lossless");
    uint64_t until = number("until", 0), doom = number("die", 0), hold_us = number("hold_us", 0), pause_us = number("pause_us", 0);
    uint64_t taken = 0, first = 0, last = 0, torn = 0, wrong = 0, older = 0, missed = 0, generations = 0, generation = 0;
    frameloom_error error;
    memset(&error, 0, sizeof error);
    say("READY");
    uint64_t began = frameloom_now_ns(), deadline = began + number("seconds", 60) * 1000000000u;
    frameloom_reader *reader = frameloom_reader_open(word("channel", ""), word("directory", NULL), lossless, &error);
    while (reader && last < until && frameloom_now_ns() < deadline) {
        frameloom_frame frame;
        frameloom_status status = copies ? frameloom_read(reader, NULL, 0, &frame, 100, &error)
                                         : frameloom_latest(reader, &frame, 100, &error);
        if (status == FRAMELOOM_NOTHING_NEW) continue;
        if (status != FRAMELOOM_OK) break;
        uint64_t code = code_of(&frame), n = frame.frame_id;
        wrong += !described(&frame, code);
        torn += !painted(&frame, code);
        if (taken) {
            older += n <= last;
            missed += lossless && n > last + 1 ? n - last - 1 : 0;
        } else {
            first = n;
        }
        taken++;
        last = n;
        generations += generation != frame.generation;
        generation = frame.generation;
        if (doom && n >= doom) die();
        if (!copies) {
            if (hold_us) nap_us(hold_us);
            torn += !painted(&frame, code);
            torn += !frameloom_release(reader, &frame);
        }
        if (pause_us) nap_us(pause_us);
    }
    frameloom_reader_close(reader);
    int late = !error.status && last < until;
    printf("{\"role\": \"read\", \"taken\": %" PRIu64 ", \"first\": %" PRIu64 ", \"last\": %" PRIu64 ", \"torn\": %" PRIu64
           ", \"wrong\": %" PRIu64 ", \"older\": %" PRIu64 ", \"missed\": %" PRIu64 ", \"generations\": %" PRIu64
           ", \"seconds\": %.6f, \"timeout\": %s, ",
           taken, first, last, torn, wrong, older, missed, generations, (double)(frameloom_now_ns() - began) / 1e9,
           late ? "true" : "false");
    say_error(&error);
    return error.status ? 1 : torn || wrong || older || missed ? 3 : late ? 4 : 0;
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int measure(void) {
    uint64_t rounds = number("rounds", 200), reads = 0, copies = 0;
    frameloom_plane plane;
    frameloom_frame frame;
    frameloom_error error;
    frameloom_writer_options options;
    memset(&plane, 0, sizeof plane);
    memset(&error, 0, sizeof error);
    memset(&options, 0, sizeof options);
    plane.kind = FRAMELOOM_KIND_COLOUR;
    plane.format = FRAMELOOM_FORMAT_RGBA8;
    plane.width = (uint32_t)number("width", 1920);
    plane.height = (uint32_t)number("height", 1080);
    uint64_t bytes = (uint64_t)plane.width * plane.height * 4;
    options.directory = word("directory", NULL);
    options.capacity_bytes = bytes;
    uint64_t *times = (uint64_t *)calloc((size_t)rounds * 2 + 2, sizeof *times);
    uint8_t *buffer = (uint8_t *)calloc((size_t)bytes, 1);
    frameloom_writer *writer = frameloom_writer_open(word("channel", ""), &options, &error);
    frameloom_reader *reader = writer ? frameloom_reader_open(word("channel", ""), options.directory, 0, &error) : NULL;
    for (; reader && times && buffer && copies < rounds; copies++) {
        if (frameloom_begin(writer, &plane, 1, &frame, &error) || frameloom_commit(writer, &frame, &error)) break;
        uint64_t began = frameloom_now_ns();
        if (frameloom_read(reader, buffer, (size_t)bytes, &frame, 0, &error)) break;
        times[reads++] = frameloom_now_ns() - began;
        if (frameloom_begin(writer, &plane, 1, &frame, &error) || frameloom_commit(writer, &frame, &error)) break;
        if (frameloom_latest(reader, &frame, 0, &error)) break;
        began = frameloom_now_ns();
        memcpy(buffer, frame.planes[0].pixels, (size_t)bytes);
        times[rounds + copies] = frameloom_now_ns() - began;
        frameloom_release(reader, &frame);
    }
    frameloom_reader_close(reader);
    frameloom_writer_close(writer);
    int done = times && reads == rounds && copies == rounds && rounds;
    if (done) {
        qsort(times, (size_t)rounds, sizeof *times, ascending);
        qsort(times + rounds, (size_t)rounds, sizeof *times, ascending);
    }
    printf("{\"role\": \"measure\", \"read_us\": %.3f, \"copy_us\": %.3f, \"bytes\": %" PRIu64 ", ",
           done ? (double)times[rounds / 2] / 1e3 : 0.0, done ? (double)times[rounds + rounds / 2] / 1e3 : 0.0, bytes);
    say_error(&error);
    free(times);
    free(buffer);
    return error.status || !done ? 1 : 0;
}

typedef struct role {
    const char *name;
    const char *known; /* words, each with a space before and after */
    const char *needed;
    int (*run)(void);
} role;

static const role roles[] = {
    {"write", " channel directory first frames width height slots policy capacity vary grow pause_us die timeout_ms ", "channel",
     write_frames},
    {"read", " channel directory until how seconds hold_us pause_us die ", "until", read_frames},
    {"measure", " channel directory width height rounds ", "channel", measure},
};

int main(int count, char **line) {
    for (size_t i = 0; count > 1 && i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(line[1], roles[i].name)) continue;
        int good = 1;
        for (int k = 2; k < count; k++) {
            char name[40];
            size_t length = strcspn(line[k], "=");
            if (line[k][length] != '=' || length > sizeof name - 3) {
                good = 0;
                continue;
            }
            name[0] = ' ';
            memcpy(name + 1, line[k], length);
            memcpy(name + 1 + length, " ", 2);
            good = good && strstr(roles[i].known, name);
        }
        word_count = count - 2;
        words = line + 2;
        if (good && word("channel", NULL) && word(roles[i].needed, NULL)) return roles[i].run();
    }
    fprintf(stderr, "usage: peer write|read|measure channel=NAME [name=value ...]; see tests/conformance/peer.py\n");
    return 2;
}
