/* The frameloom ring in C: frames between processes of one machine through shared memory, newest first.
 *
 *     frameloom_error error;
 *     frameloom_reader *reader = frameloom_reader_open("stage.out", NULL, 0, &error);
 *     frameloom_frame frame;
 *     if (frameloom_latest(reader, &frame, 100, &error) == FRAMELOOM_OK) {
 *         draw(frame.planes[0].pixels, frame.planes[0].row_stride);
 *         frameloom_release(reader, &frame);
 *     }
 *
 * Header only, C11 and C++17, no dependency; include it first, or define _GNU_SOURCE. It follows bridge/PROTOCOL.md,
 * whose section numbers and SYNC POINT names stand below; byte offsets come from frameloom_layout.h. Linux, macOS and
 * other POSIX systems, Windows. Machines must be little-endian.
 *
 * Every call that can fail takes a frameloom_error (or NULL) and leaves a message in it that names the mend. One object
 * serves one thread at a time. A forked child may only close what it inherited; its parent's locks die with the parent
 * (by pthread_atfork: link with -pthread where the C library is older than glibc 2.34). Timeouts are milliseconds, times nanoseconds of frameloom_now_ns, sizes bytes or pixels.
 *
 * FRAMELOOM_API before the functions: "static inline" unless defined otherwise. With FRAMELOOM_DECLARE_ONLY only the
 * declarations are here, for programs that link the shared library (frameloom_c.c).
 */
#ifndef FRAMELOOM_H
#define FRAMELOOM_H

#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "frameloom_layout.h"

#include <stddef.h>
#include <stdint.h>

#ifndef FRAMELOOM_API
#define FRAMELOOM_API static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* How a call ended. The names are those of bridge/ring/errors.py. */
typedef enum frameloom_status {
    FRAMELOOM_OK = 0,
    FRAMELOOM_NOTHING_NEW = 1,        /* no newer frame within the timeout; not an error */
    FRAMELOOM_INVALID_CHANNEL = 2,    /* the channel's name cannot be part of a file name */
    FRAMELOOM_NOT_A_RING = 3,         /* what lies under the ring's name is something else */
    FRAMELOOM_VERSION_MISMATCH = 4,   /* writer and reader speak different major versions */
    FRAMELOOM_TRUNCATED_SEGMENT = 5,  /* the segment is shorter than its header says */
    FRAMELOOM_MALFORMED_HEADER = 6,   /* a header field contradicts the mapped size or the protocol */
    FRAMELOOM_MALFORMED_SLOT = 7,     /* a published slot describes planes that cannot be inside it; it is skipped */
    FRAMELOOM_WRITER_EXISTS = 8,      /* another live process writes this channel */
    FRAMELOOM_READER_EXISTS = 9,      /* the channel already has its one lossless reader */
    FRAMELOOM_NO_SPACE = 10,          /* shared memory is full */
    FRAMELOOM_FRAME_TOO_LARGE = 11,   /* beyond the largest capacity that this writer may grow to */
    FRAMELOOM_INVALID_FRAME = 12,     /* the planes given cannot be a frame */
    FRAMELOOM_BUFFER_MISMATCH = 13,   /* the caller's buffer is too small; the frame is not consumed */
    FRAMELOOM_READER_TIMEOUT = 14,    /* the lossless reader did not free a slot in time */
    FRAMELOOM_RING_CLOSED = 15,       /* the object belongs to a parent process, or its channel to another writer */
    FRAMELOOM_ACCESS_DENIED = 16,     /* the ring's files belong to somebody else or cannot be opened */
    FRAMELOOM_MISUSE = 17,            /* calls in the wrong order, or a wrong argument */
    FRAMELOOM_OUT_OF_RESOURCES = 18   /* no file descriptor or no memory is left for this; try again later */
} frameloom_status;

typedef struct frameloom_error {
    frameloom_status status;
    char message[512]; /* what is wrong and what to do */
} frameloom_error;

/* What a reader knows of the writer. A slow writer is LIVE; a killed one is gone at once. */
typedef enum frameloom_writer_state {
    FRAMELOOM_NO_WRITER = 0,
    FRAMELOOM_LIVE = 1,
    FRAMELOOM_WRITER_GONE = 2
} frameloom_writer_state;

/* One plane: FRAMELOOM_KIND_*, FRAMELOOM_FORMAT_*, pixels, bytes from row to row (0 when writing: rows are tight). */
typedef struct frameloom_plane {
    uint32_t kind;
    uint32_t format;
    uint32_t width;
    uint32_t height;
    uint64_t row_stride;
    uint64_t size;   /* row_stride * height */
    uint8_t *pixels; /* of a frame that was read: look, do not touch */
} frameloom_plane;

/* One frame. capture_ns is when its source was captured, source_frame_id the input that a result was made from. */
typedef struct frameloom_frame {
    uint64_t sequence;
    uint64_t generation; /* of the ring; sequences of two generations of a restarted writer do not compare */
    uint64_t frame_id;
    uint64_t source_frame_id;
    uint64_t capture_ns;
    uint64_t publish_ns;
    uint64_t param_revision;
    uint32_t flags;        /* FRAMELOOM_FLAG_*; bits 16 to 31 are the application's own */
    uint32_t origin;       /* FRAMELOOM_ORIGIN_*: where row 0 of every plane is */
    uint32_t colour_space; /* FRAMELOOM_COLOUR_SPACE_* */
    uint32_t plane_count;
    frameloom_plane planes[FRAMELOOM_MAX_PLANES];
    float T_world_camera[16]; /* row-major, camera to world, metres; valid with FRAMELOOM_FLAG_POSE */
    float intrinsics[4];      /* fx, fy, cx, cy in pixels; valid with FRAMELOOM_FLAG_INTRINSICS */
} frameloom_frame;

/* Everything 0 or NULL gives the defaults in brackets. */
typedef struct frameloom_writer_options {
    const char *directory;       /* UTF-8; an existing folder for a file-backed ring [the system's place] */
    uint64_t capacity_bytes;     /* plane bytes that a slot holds at first [512 * 512 * 4] */
    uint64_t max_capacity_bytes; /* larger frames make next generations up to here [2^30] */
    uint32_t slots;              /* 4 to 64; slots - 2 readers may hold views at once [4] */
    uint32_t policy;             /* FRAMELOOM_POLICY_* [NEWEST] */
    uint32_t timeout_ms;         /* how long a lossless writer waits for its reader [10000] */
} frameloom_writer_options;

typedef struct frameloom_reader frameloom_reader;
typedef struct frameloom_writer frameloom_writer;

/* "MalformedHeader" and the like. */
FRAMELOOM_API const char *frameloom_status_name(frameloom_status status);
/* The clock that all processes of the machine share, in nanoseconds; no relation to the time of day. */
FRAMELOOM_API uint64_t frameloom_now_ns(void);
/* The plane of that kind, or NULL. */
FRAMELOOM_API const frameloom_plane *frameloom_plane_of(const frameloom_frame *frame, uint32_t kind);

/* A reader of a channel; it need not wait for the writer to exist and follows it over restarts and resizes. lossless:
 * be the one reader that gets every frame in order. directory: that of the writer, or NULL. NULL with an error set. */
FRAMELOOM_API frameloom_reader *frameloom_reader_open(const char *channel, const char *directory, int lossless,
                                                      frameloom_error *error);
FRAMELOOM_API void frameloom_reader_close(frameloom_reader *reader);
/* A copy of the next frame, newer than the last one taken, its planes in `buffer` (rows as they are stored, each plane
 * on a multiple of 64 bytes from its start), or with buffer NULL in the reader's own memory, good until the next call. */
FRAMELOOM_API frameloom_status frameloom_read(frameloom_reader *reader, void *buffer, size_t buffer_bytes,
                                              frameloom_frame *frame, uint32_t timeout_ms, frameloom_error *error);
/* The next frame without a copy: its planes are the ring's own memory, pinned until frameloom_release, which must come
 * before the next call. When all entries that may pin are taken by other readers the planes are a copy. */
FRAMELOOM_API frameloom_status frameloom_latest(frameloom_reader *reader, frameloom_frame *frame, uint32_t timeout_ms,
                                                frameloom_error *error);
/* Give a frame of frameloom_latest back; 1 when its pixels were whole to the end, which they are unless a writer breaks
 * the protocol, else 0. */
FRAMELOOM_API int frameloom_release(frameloom_reader *reader, frameloom_frame *frame);
/* OK as soon as a newer frame is there, NOTHING_NEW after the timeout. */
FRAMELOOM_API frameloom_status frameloom_wait(frameloom_reader *reader, uint32_t timeout_ms, frameloom_error *error);
FRAMELOOM_API frameloom_status frameloom_reader_state(frameloom_reader *reader, frameloom_writer_state *state,
                                                      frameloom_error *error);

/* The one writer of a channel; a stale ring of a dead writer is taken over. options may be NULL. */
FRAMELOOM_API frameloom_writer *frameloom_writer_open(const char *channel, const frameloom_writer_options *options,
                                                      frameloom_error *error);
FRAMELOOM_API void frameloom_writer_close(frameloom_writer *writer);
/* Write without a copy: begin gives a frame with its planes' memory and with frame_id (the sequence) and capture_ns
 * (now) filled in; fill pixels and fields, then commit, or abandon. planes: kind, format, width and height count. */
FRAMELOOM_API frameloom_status frameloom_begin(frameloom_writer *writer, const frameloom_plane *planes, uint32_t count,
                                               frameloom_frame *frame, frameloom_error *error);
FRAMELOOM_API frameloom_status frameloom_commit(frameloom_writer *writer, const frameloom_frame *frame,
                                                frameloom_error *error);
FRAMELOOM_API void frameloom_abandon(frameloom_writer *writer);
/* Publish one frame with one copy of its planes. frame_id 0 means the sequence, capture_ns 0 means now. */
FRAMELOOM_API frameloom_status frameloom_write(frameloom_writer *writer, const frameloom_frame *frame,
                                               frameloom_error *error);
/* Refresh the heartbeat, for display, while there is nothing to write. Once a second this and every frame put back files
 * that somebody removed by hand. */
FRAMELOOM_API void frameloom_beat(frameloom_writer *writer);
FRAMELOOM_API uint64_t frameloom_writer_generation(const frameloom_writer *writer);

#ifdef __cplusplus
}
#endif

#ifndef FRAMELOOM_DECLARE_ONLY
#include "frameloom_ring.h"
#endif

#endif
