/* A client in C: draws straight into a channel's memory and reads what the host makes of it.
 *
 *     mkdir -p build && cc -std=c11 -O2 -Iclients/native examples/06_client.c -o build/06_client
 *     python3 run.py host --channel demo
 *     build/06_client                  or with the name of another channel
 *
 * You see a line for every result: of which frame it was made, and how many milliseconds ago that was written. The
 * host's page (http://127.0.0.1:8790) shows a square that goes to and fro, repainted. After 300 results the last one is
 * saved as build/06_result.ppm, a picture that most viewers open.
 */
#include "frameloom.h" /* before other headers */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 192
#define RESULTS 300
#define PACE_MS 33

/* One picture of SIZE x SIZE, RGBA, row 0 at the top. */
static void draw(uint8_t *pixels, uint64_t number) {
    static const uint8_t ground[4] = {70, 80, 100, 255}, square[4] = {210, 210, 210, 255};
    int left = 10 + abs((int)(number * 2 % 200) - 100), top = 60;
    for (int y = 0; y < SIZE; y++)
        for (int x = 0; x < SIZE; x++, pixels += 4)
            memcpy(pixels, x >= left && x < left + 72 && y >= top && y < top + 72 ? square : ground, 4);
}

/* A result of the host, RGBA8, as a PPM file. */
static void save(const frameloom_plane *plane, const char *path) {
    FILE *file = fopen(path, "wb");
    if (!file) {
        fprintf(stderr, "%s cannot be written here\n", path);
        return;
    }
    fprintf(file, "P6 %u %u 255\n", plane->width, plane->height);
    for (uint32_t y = 0; y < plane->height; y++)
        for (uint32_t x = 0; x < plane->width; x++) fwrite(plane->pixels + y * plane->row_stride + x * 4, 1, 3, file);
    fclose(file);
}

/* Write and read until all results came or the host is gone; returns how many came. An error is left in `error`. */
static int run(frameloom_writer *to_host, frameloom_reader *from_host, frameloom_error *error) {
    const frameloom_plane colour = {
        .kind = FRAMELOOM_KIND_COLOUR, .format = FRAMELOOM_FORMAT_RGBA8, .width = SIZE, .height = SIZE};
    const uint64_t started_ns = frameloom_now_ns();
    frameloom_writer_state state;
    frameloom_frame in, out;
    uint64_t number = 0;
    int results = 0;
    puts("waiting for the first result: it comes when the host has loaded its model");
    while (results < RESULTS) {
        if (frameloom_reader_state(from_host, &state, error) || state != FRAMELOOM_LIVE) break;
        if (frameloom_begin(to_host, &colour, 1, &in, error)) break;
        draw(in.planes[0].pixels, ++number);
        in.source_frame_id = number;
        if (frameloom_commit(to_host, &in, error)) break;

        /* Waiting for the newest result sets the pace. It lies in the ring itself until it is released. */
        frameloom_status status = frameloom_latest(from_host, &out, PACE_MS, error);
        if (status == FRAMELOOM_NOTHING_NEW) continue;
        if (status != FRAMELOOM_OK) break;
        if (out.capture_ns > started_ns) { /* else it was made from a frame of an earlier client */
            double age_ms = (double)(frameloom_now_ns() - out.capture_ns) / 1e6;
            printf("result %d: frame %llu, %.1f ms after it was written, %u x %u\n", ++results,
                   (unsigned long long)out.source_frame_id, age_ms, out.planes[0].width, out.planes[0].height);
            if (results == RESULTS) save(&out.planes[0], "build/06_result.ppm");
        }
        frameloom_release(from_host, &out);
    }
    return results;
}

int main(int count, char **words) {
    const char *channel = count > 1 ? words[1] : "demo";
    char name[64];
    frameloom_error error = {0};
    int results = 0;
    snprintf(name, sizeof name, "%s.in", channel);
    frameloom_writer *to_host = frameloom_writer_open(name, NULL, &error);
    snprintf(name, sizeof name, "%s.out", channel);
    frameloom_reader *from_host = to_host ? frameloom_reader_open(name, NULL, 0, &error) : NULL;
    if (from_host) results = run(to_host, from_host, &error);
    frameloom_reader_close(from_host);
    frameloom_writer_close(to_host);
    if (error.status > FRAMELOOM_NOTHING_NEW) {
        fprintf(stderr, "%s\n", error.message);
    } else if (results < RESULTS) {
        fprintf(stderr, "no host is there for channel '%s': start one with  python3 run.py host --channel %s\n", channel,
                channel);
    }
    return results < RESULTS;
}
