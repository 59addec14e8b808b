/* The ring itself: header checks, reader, writer, as bridge/PROTOCOL.md says. Included by frameloom.h.
 *
 * The SYNC POINT names are those of that text; each meets the point of the same number on the other side. Nothing in a
 * segment is trusted: headers and plane tables are checked on private copies.
 */
#ifndef FRAMELOOM_RING_H
#define FRAMELOOM_RING_H

#include "frameloom_system.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FRAMELOOM_I_LOOK_MS 100u /* how often an idle reader looks at the record by itself */
#define FRAMELOOM_I_ATTEMPTS 200 /* retries of a frame that is overwritten while it is looked at, before "nothing new" */
#define FRAMELOOM_I_HEAD (FRAMELOOM_PLANE_TABLE_OFFSET + FRAMELOOM_MAX_PLANES * FRAMELOOM_BYTES_PLANE)
#define FRAMELOOM_I_EVERYTHING (1ull << 63)

/* The checked, immutable part of a segment header; those fields are never read again. */
typedef struct frameloom_i_geometry {
    uint64_t generation, segment_size, slot_stride, first_sequence;
    uint32_t header_size, slot_count, slot_header_size, policy, reader_table_offset, waiting_offset;
} frameloom_i_geometry;

static inline uint64_t frameloom_i_align(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

static inline uint32_t frameloom_i_bytes_per_pixel(uint32_t format) {
    static const uint8_t bytes[] = FRAMELOOM_BYTES_PER_PIXEL;
    return format < sizeof bytes ? bytes[format] : 0;
}

static inline int frameloom_i_allowed(uint32_t kind, uint32_t format) {
    static const uint32_t formats[] = FRAMELOOM_ALLOWED_FORMATS;
    return kind < sizeof formats / sizeof formats[0] && format < 32 && (formats[kind] >> format & 1u);
}

/* Section 10: check untrusted header bytes against the record and the true size. */
static inline frameloom_status frameloom_i_check_header(const frameloom_i_place *p, const uint8_t *h, size_t got,
                                                        uint64_t generation, uint64_t true_size, frameloom_i_geometry *g,
                                                        frameloom_error *error) {
    char what[256];
    const char *wrong = NULL;
    snprintf(what, sizeof what, "%s-%016llx", p->prefix, (unsigned long long)generation);
    if (got < 8 || frameloom_i_load64(h) != FRAMELOOM_MAGIC)
        return frameloom_i_fail(error, FRAMELOOM_NOT_A_RING, "%s is not a ring; remove it and start the writer again", what);
    if (got < FRAMELOOM_BYTES_HEADER)
        return frameloom_i_fail(error, FRAMELOOM_TRUNCATED_SEGMENT, "%s has %u of %u header bytes; start the writer again",
                                what, (unsigned)got, FRAMELOOM_BYTES_HEADER);
    uint32_t version = frameloom_i_load32(h + FRAMELOOM_AT_HEADER_VERSION);
    if (version == 0)
        return frameloom_i_fail(error, FRAMELOOM_VERSION_MISMATCH,
                                "%s was never finished by its writer; start the writer again", what);
    frameloom_status status = frameloom_i_check_version(what, version, error);
    if (status != FRAMELOOM_OK) return status;
    g->generation = frameloom_i_load64(h + FRAMELOOM_AT_HEADER_GENERATION);
    g->header_size = frameloom_i_load32(h + FRAMELOOM_AT_HEADER_HEADER_SIZE);
    g->segment_size = frameloom_i_load64(h + FRAMELOOM_AT_HEADER_SEGMENT_SIZE);
    g->slot_count = frameloom_i_load32(h + FRAMELOOM_AT_HEADER_SLOT_COUNT);
    g->slot_header_size = frameloom_i_load32(h + FRAMELOOM_AT_HEADER_SLOT_HEADER_SIZE);
    g->slot_stride = frameloom_i_load64(h + FRAMELOOM_AT_HEADER_SLOT_STRIDE);
    g->policy = frameloom_i_load32(h + FRAMELOOM_AT_HEADER_POLICY);
    g->reader_table_offset = frameloom_i_load32(h + FRAMELOOM_AT_HEADER_READER_TABLE_OFFSET);
    g->waiting_offset = frameloom_i_load32(h + FRAMELOOM_AT_HEADER_WAITING_OFFSET);
    g->first_sequence = frameloom_i_load64(h + FRAMELOOM_AT_HEADER_FIRST_SEQUENCE);
    uint64_t table_end = (uint64_t)g->reader_table_offset + FRAMELOOM_READER_ENTRIES * FRAMELOOM_BYTES_ENTRY;
    uint64_t waiting_end = (uint64_t)g->waiting_offset + 4 * FRAMELOOM_READER_ENTRIES;
    /* Up to here words always lie in the same place; the rest of the header is where its offsets say. */
    const uint32_t fixed_end = FRAMELOOM_AT_HEADER_WAITING;
    if (g->generation != generation) wrong = "another generation than its name";
    else if (g->header_size < FRAMELOOM_BYTES_HEADER || g->header_size % FRAMELOOM_PAGE) wrong = "a wrong header size";
    else if (g->slot_count < FRAMELOOM_MIN_SLOTS || g->slot_count > FRAMELOOM_MAX_SLOTS) wrong = "a wrong number of slots";
    else if (g->slot_header_size < FRAMELOOM_BYTES_SLOT || g->slot_header_size % FRAMELOOM_PAGE)
        wrong = "a wrong slot header size";
    else if (g->slot_stride <= g->slot_header_size || g->slot_stride % FRAMELOOM_PAGE) wrong = "a wrong slot stride";
    else if (g->segment_size > FRAMELOOM_MAX_SEGMENT_BYTES || g->slot_stride > FRAMELOOM_MAX_SEGMENT_BYTES)
        wrong = "a wrong segment size";
    else if (g->segment_size != g->header_size + g->slot_count * g->slot_stride) wrong = "sizes that do not add up";
    else if (g->policy > FRAMELOOM_POLICY_LOSSLESS) wrong = "an unknown policy";
    else if (frameloom_i_load32(h + FRAMELOOM_AT_HEADER_READER_ENTRIES) != FRAMELOOM_READER_ENTRIES ||
             frameloom_i_load32(h + FRAMELOOM_AT_HEADER_READER_STRIDE) != FRAMELOOM_BYTES_ENTRY)
        wrong = "an unknown reader table";
    else if (g->reader_table_offset % FRAMELOOM_BYTES_ENTRY || g->reader_table_offset < fixed_end || table_end > g->header_size)
        wrong = "a misplaced reader table";
    else if (g->waiting_offset % 64 || g->waiting_offset < fixed_end || waiting_end > g->header_size)
        wrong = "its waiting words in a wrong place";
    else if (g->reader_table_offset < waiting_end && g->waiting_offset < table_end) wrong = "a reader table over its waiting words";
    else if (g->first_sequence == 0 || g->first_sequence >> 56) wrong = "a wrong first sequence";
    if (wrong)
        return frameloom_i_fail(error, FRAMELOOM_MALFORMED_HEADER, "%s has %s; start the writer again", what, wrong);
    if (true_size < g->segment_size)
        return frameloom_i_fail(error, FRAMELOOM_TRUNCATED_SEGMENT,
                                "%s has %llu bytes of memory, its header says %llu; start the writer again", what,
                                (unsigned long long)true_size, (unsigned long long)g->segment_size);
    return FRAMELOOM_OK;
}

/* Open, check and map the segment that the record points to; NOTHING_NEW when it is gone, or its writer is just leaving it:
 * a reader may have had all that is in it. */
static inline frameloom_status frameloom_i_map_checked(const frameloom_i_place *p, uint64_t generation,
                                                       frameloom_i_mapping *m, frameloom_i_geometry *g,
                                                       frameloom_error *error) {
    uint8_t page[FRAMELOOM_PAGE];
    size_t got = 0;
    frameloom_status status = frameloom_i_peek(p, generation, page, &got, m, error);
    if (status != FRAMELOOM_OK) return status;
    status = frameloom_i_check_header(p, page, got, generation, m->size, g, error);
    if (status == FRAMELOOM_OK && frameloom_i_load32(page + FRAMELOOM_AT_HEADER_STATE) == FRAMELOOM_STATE_CLOSED)
        status = FRAMELOOM_NOTHING_NEW;
    if (status != FRAMELOOM_OK) {
        frameloom_i_unpeek(m);
        return status;
    }
    if (frameloom_i_attach(m, g->segment_size)) return FRAMELOOM_OK;
    return frameloom_i_fail(error, FRAMELOOM_NO_SPACE, "channel %s: the system cannot map %llu bytes; close other programs",
                            p->channel, (unsigned long long)g->segment_size);
}

/* Section 10, per frame: fill `frame` from the private copy `head` of a slot header. 0 or what is wrong with it. */
static inline const char *frameloom_i_describe(const uint8_t *head, const frameloom_i_geometry *g, uint8_t *slot,
                                               frameloom_frame *frame) {
    uint64_t begins[FRAMELOOM_MAX_PLANES], ends[FRAMELOOM_MAX_PLANES];
    memset(frame, 0, sizeof *frame);
    frame->sequence = frameloom_i_load64(head + FRAMELOOM_AT_SLOT_SEQUENCE) >> 1;
    frame->generation = g->generation;
    frame->frame_id = frameloom_i_load64(head + FRAMELOOM_AT_SLOT_FRAME_ID);
    frame->source_frame_id = frameloom_i_load64(head + FRAMELOOM_AT_SLOT_SOURCE_FRAME_ID);
    frame->capture_ns = frameloom_i_load64(head + FRAMELOOM_AT_SLOT_CAPTURE_NS);
    frame->publish_ns = frameloom_i_load64(head + FRAMELOOM_AT_SLOT_PUBLISH_NS);
    frame->param_revision = frameloom_i_load64(head + FRAMELOOM_AT_SLOT_PARAM_REVISION);
    frame->flags = frameloom_i_load32(head + FRAMELOOM_AT_SLOT_FLAGS);
    frame->origin = frameloom_i_load32(head + FRAMELOOM_AT_SLOT_ORIGIN);
    frame->colour_space = frameloom_i_load32(head + FRAMELOOM_AT_SLOT_COLOUR_SPACE);
    frame->plane_count = frameloom_i_load32(head + FRAMELOOM_AT_SLOT_PLANE_COUNT);
    if (frame->flags & FRAMELOOM_FLAG_POSE)
        memcpy(frame->T_world_camera, head + FRAMELOOM_AT_SLOT_T_WORLD_CAMERA, sizeof frame->T_world_camera);
    if (frame->flags & FRAMELOOM_FLAG_INTRINSICS)
        memcpy(frame->intrinsics, head + FRAMELOOM_AT_SLOT_INTRINSICS, sizeof frame->intrinsics);
    if (frame->plane_count < 1 || frame->plane_count > FRAMELOOM_MAX_PLANES) return "it has no planes or too many";
    if (frame->origin > FRAMELOOM_ORIGIN_BOTTOM_LEFT) return "its origin is unknown";
    if (frame->colour_space > FRAMELOOM_COLOUR_SPACE_LINEAR) return "its colour space is unknown";
    for (uint32_t i = 0; i < frame->plane_count; i++) {
        const uint8_t *entry = head + FRAMELOOM_PLANE_TABLE_OFFSET + i * FRAMELOOM_BYTES_PLANE;
        frameloom_plane *plane = &frame->planes[i];
        uint64_t offset = frameloom_i_load64(entry + FRAMELOOM_AT_PLANE_OFFSET);
        plane->kind = frameloom_i_load32(entry + FRAMELOOM_AT_PLANE_KIND);
        plane->format = frameloom_i_load32(entry + FRAMELOOM_AT_PLANE_FORMAT);
        plane->width = frameloom_i_load32(entry + FRAMELOOM_AT_PLANE_WIDTH);
        plane->height = frameloom_i_load32(entry + FRAMELOOM_AT_PLANE_HEIGHT);
        plane->row_stride = frameloom_i_load64(entry + FRAMELOOM_AT_PLANE_ROW_STRIDE);
        plane->size = frameloom_i_load64(entry + FRAMELOOM_AT_PLANE_SIZE);
        if (!frameloom_i_allowed(plane->kind, plane->format)) return "a plane's kind and format do not belong together";
        if (plane->width < 1 || plane->width > FRAMELOOM_MAX_SIDE || plane->height < 1 || plane->height > FRAMELOOM_MAX_SIDE)
            return "a plane is empty or too large";
        uint64_t row = (uint64_t)plane->width * frameloom_i_bytes_per_pixel(plane->format);
        /* The stride is at most the slot's before it is multiplied, so the product does not overflow. */
        if (plane->row_stride < row || (plane->row_stride != row && plane->row_stride % 4) ||
            plane->row_stride > g->slot_stride || plane->size != plane->row_stride * plane->height)
            return "a plane's rows do not fit their stride and size";
        if (offset % FRAMELOOM_PLANE_ALIGNMENT || offset < g->slot_header_size || offset > g->slot_stride ||
            plane->size > g->slot_stride - offset)
            return "a plane lies outside the slot";
        begins[i] = offset;
        ends[i] = offset + plane->size;
        for (uint32_t k = 0; k < i; k++) {
            if (frame->planes[k].kind == plane->kind) return "two planes are of the same kind";
            if (begins[i] < ends[k] && begins[k] < ends[i]) return "two planes overlap";
        }
        plane->pixels = slot + offset;
    }
    return NULL;
}

/* ---- Reader ---- */

struct frameloom_reader {
    frameloom_i_place place;
    int lossless;
    uint64_t pid;
    uint64_t look_ns; /* when to look at the record again */
    int known; /* a generation was mapped once */
    uint64_t left; /* generation whose memory was given back; 0: none */
    frameloom_i_lock writer_lock; /* that of the writer of the mapped generation */
    frameloom_i_mapping mapping; /* memory NULL: not attached */
    frameloom_i_geometry g;
    uint64_t last; /* newest sequence taken in this generation */
    frameloom_i_lock entries[FRAMELOOM_READER_ENTRIES];
    frameloom_i_wake wake;
    int waiter; /* our entry in `waiting`; 0: not sought, -1: none was free, so we nap */
    int unwoken; /* how often in a row a new frame was there without a wake-up; from the second on we nap */
    int wakes; /* the writer woke us once, so it can */
    int pinner; /* our entry that pins; 0: not sought, -1: none was free */
    int holding; /* 1: a view is out, 2: a copy instead of one */
    uint32_t held_slot;
    uint64_t held_sequence;
    uint8_t *copy;
    size_t copy_bytes;
};

static inline uint8_t *frameloom_i_entry(const frameloom_reader *r, int index) {
    return r->mapping.memory + r->g.reader_table_offset + (uint32_t)index * FRAMELOOM_BYTES_ENTRY;
}
static inline uint8_t *frameloom_i_waiting(const frameloom_reader *r, int index) {
    return r->mapping.memory + r->g.waiting_offset + 4u * (uint32_t)index;
}
static inline uint8_t *frameloom_i_slot(const frameloom_reader *r, uint32_t slot) {
    return r->mapping.memory + r->g.header_size + slot * r->g.slot_stride;
}
static inline uint64_t frameloom_i_newest(const frameloom_reader *r) {
    return frameloom_i_get64(r->mapping.memory + FRAMELOOM_AT_HEADER_NEWEST);
}
static inline uint32_t frameloom_i_state(const frameloom_reader *r) {
    return frameloom_i_get32(r->mapping.memory + FRAMELOOM_AT_HEADER_STATE);
}

/* Own a reader entry: its lock is the ownership (section 8). 0 when another has it, -1 when the segment is gone. */
static inline int frameloom_i_claim(frameloom_reader *r, int index, uint32_t kind) {
    uint64_t offset = r->g.reader_table_offset + (uint32_t)index * FRAMELOOM_BYTES_ENTRY;
    frameloom_i_lock *lock = &r->entries[index];
    if (lock->held) return 1;
    frameloom_i_lock_entry(lock, &r->place, r->g.generation, (uint32_t)index, offset);
    /* A writer tests the lock of the lossless entry, which may take it for a moment. */
    int got = index == (int)FRAMELOOM_LOSSLESS_ENTRY ? frameloom_i_lock_take_patiently(lock) : frameloom_i_lock_take(lock);
    if (got != 1) {
        frameloom_i_lock_drop(lock);
        return got;
    }
    uint8_t *entry = frameloom_i_entry(r, index);
    frameloom_i_put32(entry + FRAMELOOM_AT_ENTRY_PIN, 0);
    frameloom_i_put32(frameloom_i_waiting(r, index), 0);
    frameloom_i_put64(entry + FRAMELOOM_AT_ENTRY_PID, r->pid);
    frameloom_i_put32(entry + FRAMELOOM_AT_ENTRY_KIND, kind);
    return 1;
}

static inline void frameloom_i_detach(frameloom_reader *r) {
    if (!r->mapping.memory) return;
    int whole = frameloom_i_whole(&r->mapping), child = r->pid != frameloom_i_pid();
    for (int i = 0; i < (int)FRAMELOOM_READER_ENTRIES; i++) {
        if (r->entries[i].held && child) frameloom_i_lock_drop(&r->entries[i]);
        if (!r->entries[i].held) continue;
        if (whole) {
            frameloom_i_put32(frameloom_i_entry(r, i) + FRAMELOOM_AT_ENTRY_PIN, 0);
            frameloom_i_put32(frameloom_i_waiting(r, i), 0);
            frameloom_i_put32(frameloom_i_entry(r, i) + FRAMELOOM_AT_ENTRY_KIND, FRAMELOOM_READER_FREE);
        }
        /* The lock of an entry goes with its generation; only the writer deletes its file. */
        frameloom_i_lock_give(&r->entries[i], 0);
    }
    frameloom_i_lock_drop(&r->writer_lock);
    frameloom_i_wake_close(&r->wake);
    frameloom_i_unmap(&r->mapping);
    r->waiter = r->pinner = r->holding = r->unwoken = r->wakes = 0;
    r->last = 0;
}

/* Section 9: become the one lossless reader of a new attachment. */
static inline frameloom_status frameloom_i_register(frameloom_reader *r, frameloom_error *error) {
    int claimed = frameloom_i_claim(r, FRAMELOOM_LOSSLESS_ENTRY, FRAMELOOM_READER_FREE);
    /* One that follows the writer gives this entry back while we ask for it; its frames here are taken. */
    if (claimed < 0 || frameloom_i_state(r) == FRAMELOOM_STATE_SUPERSEDED) return FRAMELOOM_NOTHING_NEW;
    if (!claimed)
        return frameloom_i_fail(error, FRAMELOOM_READER_EXISTS,
                                "channel %s already has a lossless reader; stop it or read newest-wins", r->place.channel);
    uint64_t oldest = 0;
    for (uint32_t k = 0; k < r->g.slot_count; k++) {
        uint64_t word = frameloom_i_get64(frameloom_i_slot(r, k));
        if (word && !(word & 1) && (oldest == 0 || word >> 1 < oldest)) oldest = word >> 1;
    }
    r->last = (oldest ? oldest : r->g.first_sequence) - 1;
    uint8_t *entry = frameloom_i_entry(r, FRAMELOOM_LOSSLESS_ENTRY);
    frameloom_i_put64(entry + FRAMELOOM_AT_ENTRY_TAKEN, r->last);
    frameloom_i_put32(entry + FRAMELOOM_AT_ENTRY_KIND, FRAMELOOM_READER_LOSSLESS);
    return FRAMELOOM_OK;
}

/* Whether the writer of what the record points to lives, by `lock`, which it holds then. */
static inline frameloom_status frameloom_i_writer_alive(const frameloom_i_place *p, const frameloom_i_pointer *pointer,
                                                        frameloom_i_lock *lock, int *alive, frameloom_error *error) {
    /* Version 1.0 knew the lock of the channel only, which the next writer of a dead ring holds, too. */
    if (pointer->minor >= 1)
        frameloom_i_lock_generation(lock, p, pointer->generation);
    else
        frameloom_i_lock_writer(lock, p);
    *alive = frameloom_i_lock_elsewhere(lock);
    frameloom_status status = *alive < 0 ? frameloom_i_denied(error, lock->path) : FRAMELOOM_OK;
    if (*alive != 1) frameloom_i_lock_drop(lock);
    return status;
}

/* Whether the writer of the mapped generation, whose `state` that was, writes no more. */
static inline frameloom_status frameloom_i_gone(frameloom_reader *r, uint32_t state, int *gone, frameloom_error *error) {
    frameloom_i_pointer pointer;
    frameloom_i_lock lock;
    int alive = 0;
    *gone = 1;
    if (state == FRAMELOOM_STATE_CLOSED) return FRAMELOOM_OK;
    if (state != FRAMELOOM_STATE_SUPERSEDED) {
        alive = frameloom_i_lock_elsewhere(&r->writer_lock);
        *gone = alive == 0;
        return alive < 0 ? frameloom_i_denied(error, r->writer_lock.path) : FRAMELOOM_OK;
    }
    /* It has gone on to what the record points to. */
    frameloom_status status = frameloom_i_read_record(&r->place, &pointer, error);
    if (status == FRAMELOOM_NOTHING_NEW) return FRAMELOOM_OK;
    if (status == FRAMELOOM_OK) status = frameloom_i_writer_alive(&r->place, &pointer, &lock, &alive, error);
    if (status != FRAMELOOM_OK) return status;
    if (alive) frameloom_i_lock_drop(&lock);
    *gone = !alive;
    return FRAMELOOM_OK;
}

/* Attach to what the record points to; NOTHING_NEW where that is nothing newer. */
static inline frameloom_status frameloom_i_attach_newer(frameloom_reader *r, frameloom_error *error) {
    frameloom_i_pointer pointer;
    frameloom_i_lock lock;
    int alive = 0;
    frameloom_status status = frameloom_i_read_record(&r->place, &pointer, error);
    if (status != FRAMELOOM_OK) return status;
    /* What was left is not news, whoever holds the lock of the channel by now (all that version 1.0 has). */
    if (pointer.generation == (r->mapping.memory ? r->g.generation : r->left)) return FRAMELOOM_NOTHING_NEW;
    /* A dead writer's last picture is not news: nobody attaches to it. */
    status = frameloom_i_writer_alive(&r->place, &pointer, &lock, &alive, error);
    if (status != FRAMELOOM_OK) return status;
    if (!alive) return FRAMELOOM_NOTHING_NEW;
    /* Frames published between our look at `newest` and the retirement must not be lost by following. */
    if (r->mapping.memory && frameloom_i_newest(r) >> 8 > r->last) {
        frameloom_i_lock_drop(&lock);
        return FRAMELOOM_NOTHING_NEW;
    }
    frameloom_reader old = *r;
    status = frameloom_i_map_checked(&r->place, pointer.generation, &r->mapping, &r->g, error);
    if (status != FRAMELOOM_OK) {
        frameloom_i_lock_drop(&lock);
        *r = old;
        return status;
    }
    r->writer_lock = lock;
    memset(r->entries, 0, sizeof r->entries);
    for (uint32_t i = 0; i < FRAMELOOM_READER_ENTRIES; i++) r->entries[i].file = FRAMELOOM_I_NONE;
    memset(&r->wake, 0, sizeof r->wake);
    r->waiter = r->pinner = r->unwoken = r->wakes = 0;
    r->last = 0;
    r->look_ns = frameloom_i_now_ns() + FRAMELOOM_I_LOOK_MS * 1000000u;
    /* Before the old entry is given back: the writer takes a moment without either for our death. */
    if (r->lossless) status = frameloom_i_register(r, error);
    if (status != FRAMELOOM_OK) {
        frameloom_i_detach(r);
        *r = old;
        return status;
    }
    r->known = 1;
    frameloom_i_detach(&old);
    return FRAMELOOM_OK;
}

/* Follow the writer to a newer generation where there is one. OK: attached to some generation; NOTHING_NEW: to none. */
static inline frameloom_status frameloom_i_follow(frameloom_reader *r, frameloom_error *error) {
    int gone = 0;
    frameloom_status status;
    if (r->mapping.memory) {
        if (!frameloom_i_whole(&r->mapping)) {
            frameloom_i_detach(r);
            return frameloom_i_fail(error, FRAMELOOM_TRUNCATED_SEGMENT,
                                    "channel %s: its segment was cut by somebody; start the writer again", r->place.channel);
        }
        if (r->holding || frameloom_i_newest(r) >> 8 > r->last) return FRAMELOOM_OK;
        uint64_t now_ns = frameloom_i_now_ns();
        uint32_t state = frameloom_i_state(r);
        if (state == FRAMELOOM_STATE_LIVE && now_ns < r->look_ns) return FRAMELOOM_OK;
        r->look_ns = now_ns + FRAMELOOM_I_LOOK_MS * 1000000u;
        status = frameloom_i_gone(r, state, &gone, error);
        if (status != FRAMELOOM_OK) return status;
        /* What was published before it left must not be lost by leaving, too. */
        if (frameloom_i_newest(r) >> 8 > r->last) return FRAMELOOM_OK;
    }
    status = frameloom_i_attach_newer(r, error);
    if (status != FRAMELOOM_NOTHING_NEW || !r->mapping.memory) return status;
    if (!gone || frameloom_i_newest(r) >> 8 > r->last) return FRAMELOOM_OK;
    /* Its memory is given back: the next writer may need it, and nothing more comes in it. */
    r->left = r->g.generation;
    frameloom_i_detach(r);
    return FRAMELOOM_NOTHING_NEW;
}

/* OK when a newer frame can be read now, else NOTHING_NEW or an error. */
static inline frameloom_status frameloom_i_ready(frameloom_reader *r, frameloom_error *error) {
    if (r->mapping.memory && frameloom_i_whole(&r->mapping) && frameloom_i_newest(r) >> 8 > r->last) return FRAMELOOM_OK;
    frameloom_status status = frameloom_i_follow(r, error);
    if (status == FRAMELOOM_OK && frameloom_i_newest(r) >> 8 <= r->last) status = FRAMELOOM_NOTHING_NEW;
    return status;
}

/* The entry on which we sleep, or -1. */
static inline int frameloom_i_waiter(frameloom_reader *r) {
    char who[24];
    for (int i = (int)FRAMELOOM_READER_ENTRIES - 1; i > 0 && r->waiter == 0; i--)
        if (frameloom_i_claim(r, i, FRAMELOOM_READER_NEWEST) == 1) r->waiter = i;
    if (r->waiter == 0) r->waiter = -1;
    if (r->waiter > 0) {
        snprintf(who, sizeof who, "-r%d-wake", r->waiter);
        frameloom_i_wake_open(&r->wake, &r->place, r->g.generation, who);
    }
    return r->waiter;
}

static inline frameloom_status frameloom_i_sleep(frameloom_reader *r, uint32_t timeout_ms, frameloom_error *error) {
    uint64_t deadline = frameloom_i_now_ns() + (uint64_t)timeout_ms * 1000000u;
    uint32_t nap_ms = 1;
    for (;;) {
        frameloom_status status = frameloom_i_ready(r, error);
        uint64_t now_ns = frameloom_i_now_ns();
        if (status != FRAMELOOM_NOTHING_NEW || now_ns >= deadline) return status;
        uint64_t left_ms = (deadline - now_ns) / 1000000u + 1;
        int live = r->mapping.memory && frameloom_i_state(r) == FRAMELOOM_STATE_LIVE;
        int waiter = live ? frameloom_i_waiter(r) : -1;
        if (waiter < 0 || (r->unwoken > 1 && !r->wakes)) {
            frameloom_i_nap_ms(nap_ms < left_ms ? nap_ms : (uint32_t)left_ms);
            nap_ms += nap_ms < 10;
            continue;
        }
        uint8_t *word = r->mapping.memory + FRAMELOOM_AT_HEADER_WAKE;
        /* SYNC POINT R4: the wake word is read before `newest`, so that a publication in between makes the sleep return
         * at once. Meets W4. */
        uint32_t seen = frameloom_i_get32(word);
        frameloom_i_put32(frameloom_i_waiting(r, waiter), 1);
        /* SYNC POINT R5: `waiting` is visible before the last look. Meets W5. */
        frameloom_i_fence();
        if (frameloom_i_newest(r) >> 8 <= r->last && frameloom_i_state(r) == FRAMELOOM_STATE_LIVE) {
            uint32_t wait_ms = left_ms < FRAMELOOM_I_LOOK_MS ? (uint32_t)left_ms : FRAMELOOM_I_LOOK_MS;
            int woken = frameloom_i_wake_wait(&r->wake, word, seen, wait_ms);
            /* Cut while we slept, the ring has no words left to touch. */
            if (!frameloom_i_whole(&r->mapping)) continue;
            /* A whole sleep to whose end a frame came without a wake-up, twice in a row: this writer cannot wake us (section
             * 7, Wine). One alone may have ended just as the frame came; a writer that woke us once can. */
            r->wakes |= woken == 1;
            if (wait_ms == FRAMELOOM_I_LOOK_MS) r->unwoken = woken == 0 && frameloom_i_get32(word) != seen ? r->unwoken + 1 : 0;
        }
        frameloom_i_put32(frameloom_i_waiting(r, waiter), 0);
    }
}

/* Sequence and slot of the frame to deliver next; NOTHING_NEW when there is none. */
static inline frameloom_status frameloom_i_next(frameloom_reader *r, uint64_t *sequence, uint32_t *slot,
                                                frameloom_error *error) {
    uint64_t newest = frameloom_i_newest(r);
    *sequence = newest >> 8;
    *slot = (uint32_t)(newest & 255u);
    if (*sequence <= r->last) return FRAMELOOM_NOTHING_NEW;
    if (*slot >= r->g.slot_count) {
        uint32_t wrong = *slot;
        frameloom_i_detach(r);
        return frameloom_i_fail(error, FRAMELOOM_MALFORMED_HEADER,
                                "channel %s: newest frame in slot %u; start the writer again", r->place.channel, wrong);
    }
    for (uint32_t k = 0; r->lossless && k < r->g.slot_count; k++) {
        uint64_t word = frameloom_i_get64(frameloom_i_slot(r, k));
        if (!(word & 1) && word >> 1 > r->last && word >> 1 < *sequence) {
            *sequence = word >> 1;
            *slot = k;
        }
    }
    return FRAMELOOM_OK;
}

/* Section 9: tell a lossless writer how far we are. */
static inline void frameloom_i_taken(frameloom_reader *r, uint64_t sequence) {
    r->last = sequence;
    if (!r->lossless) return;
    uint8_t *entry = frameloom_i_entry(r, FRAMELOOM_LOSSLESS_ENTRY), *progress = entry + FRAMELOOM_AT_ENTRY_PROGRESS;
    frameloom_i_put64(entry + FRAMELOOM_AT_ENTRY_TAKEN, sequence);
    frameloom_i_put32(progress, frameloom_i_get32(progress) + 1);
    frameloom_i_fence();
    if (frameloom_i_get32(r->mapping.memory + FRAMELOOM_AT_HEADER_WRITER_WAITING)) {
        frameloom_i_wake wake;
        memset(&wake, 0, sizeof wake);
        frameloom_i_wake_open(&wake, &r->place, r->g.generation, "-writer-wake");
        frameloom_i_wake_all(&wake, progress);
        frameloom_i_wake_close(&wake);
    }
}

static inline int frameloom_i_intact(const uint8_t *slot, uint64_t sequence) {
    /* SYNC POINT R2, second half: what the sequence covers was read before the sequence is looked at again. */
    frameloom_i_acquire_fence();
    return frameloom_i_get64(slot) == 2 * sequence;
}

/* The frame's checked description. NOTHING_NEW: it is being overwritten, look again. */
static inline frameloom_status frameloom_i_find(frameloom_reader *r, uint64_t sequence, uint32_t slot, frameloom_frame *frame,
                                                frameloom_error *error) {
    uint8_t head[FRAMELOOM_I_HEAD], *at = frameloom_i_slot(r, slot);
    /* SYNC POINT R3: `newest` was read before the slot's sequence; if they disagree, look again. Meets W3.
     * SYNC POINT R2: the even sequence is seen before anything it covers is read. Meets W2. */
    if (frameloom_i_get64(at) != 2 * sequence) return FRAMELOOM_NOTHING_NEW;
    memcpy(head, at, sizeof head);
    const char *wrong = frameloom_i_describe(head, &r->g, at, frame);
    if (!wrong && frame->sequence == sequence) return FRAMELOOM_OK;
    if (!frameloom_i_intact(at, sequence)) return FRAMELOOM_NOTHING_NEW;
    frameloom_i_taken(r, sequence);
    return frameloom_i_fail(error, FRAMELOOM_MALFORMED_SLOT,
                            "channel %s, malformed slot: %s; the writer breaks PROTOCOL.md, update or restart it",
                            r->place.channel, wrong ? wrong : "its sequence changed");
}

/* What every taking call begins with. */
static inline frameloom_status frameloom_i_enter(frameloom_reader *r, uint32_t timeout_ms, frameloom_error *error) {
    if (r->pid != frameloom_i_pid())
        return frameloom_i_fail(error, FRAMELOOM_RING_CLOSED,
                                "channel %s: this reader is a parent process's; open a new one", r->place.channel);
    if (r->holding)
        return frameloom_i_fail(error, FRAMELOOM_MISUSE,
                                "channel %s: give the previous frame back by frameloom_release first", r->place.channel);
    frameloom_status status = frameloom_i_ready(r, error);
    return status == FRAMELOOM_NOTHING_NEW && timeout_ms ? frameloom_i_sleep(r, timeout_ms, error) : status;
}

static inline frameloom_status frameloom_i_copy(frameloom_reader *r, void *buffer, size_t buffer_bytes,
                                                frameloom_frame *frame, frameloom_error *error) {
    for (int attempt = 0; attempt < FRAMELOOM_I_ATTEMPTS; attempt++) {
        uint64_t sequence, need = 0;
        uint32_t slot;
        frameloom_status status = frameloom_i_next(r, &sequence, &slot, error);
        if (status != FRAMELOOM_OK) return status;
        status = frameloom_i_find(r, sequence, slot, frame, error);
        if (status == FRAMELOOM_NOTHING_NEW) continue;
        if (status != FRAMELOOM_OK) return status;
        for (uint32_t i = 0; i < frame->plane_count; i++)
            need = frameloom_i_align(need, FRAMELOOM_PLANE_ALIGNMENT) + frame->planes[i].size;
        uint8_t *to = (uint8_t *)buffer;
        if (!buffer) {
            if (need > r->copy_bytes) {
                free(r->copy);
                r->copy = need <= SIZE_MAX ? (uint8_t *)malloc((size_t)need) : NULL;
                r->copy_bytes = r->copy ? (size_t)need : 0;
                if (!r->copy)
                    return frameloom_i_fail(error, FRAMELOOM_OUT_OF_RESOURCES, "no memory for a copy of %llu bytes; close other programs",
                                            (unsigned long long)need);
            }
            to = r->copy;
        } else if (need > buffer_bytes) {
            if (!frameloom_i_intact(frameloom_i_slot(r, slot), sequence)) continue;
            return frameloom_i_fail(error, FRAMELOOM_BUFFER_MISMATCH,
                                    "the frame needs %llu bytes and the buffer has %llu; give a larger one",
                                    (unsigned long long)need, (unsigned long long)buffer_bytes);
        }
        uint64_t at = 0;
        for (uint32_t i = 0; i < frame->plane_count; i++) {
            frameloom_plane *plane = &frame->planes[i];
            at = frameloom_i_align(at, FRAMELOOM_PLANE_ALIGNMENT);
            memcpy(to + at, plane->pixels, (size_t)plane->size);
            plane->pixels = to + at;
            at += plane->size;
        }
        if (frameloom_i_intact(frameloom_i_slot(r, slot), sequence)) {
            frameloom_i_taken(r, sequence);
            return FRAMELOOM_OK;
        }
    }
    /* A damaged ring may promise a frame that never comes; whoever asks in a loop must not spin. */
    frameloom_i_nap_ms(1);
    return FRAMELOOM_NOTHING_NEW;
}

/* The entry that pins for us, or -1 when others own all of them. */
static inline int frameloom_i_pinner(frameloom_reader *r) {
    for (int i = 1; i <= (int)r->g.slot_count - 2 && i < (int)FRAMELOOM_READER_ENTRIES && r->pinner == 0; i++)
        if (frameloom_i_claim(r, i, FRAMELOOM_READER_NEWEST) == 1) r->pinner = i;
    if (r->pinner == 0) r->pinner = -1;
    return r->pinner;
}

FRAMELOOM_API frameloom_reader *frameloom_reader_open(const char *channel, const char *directory, int lossless,
                                                      frameloom_error *error) {
    frameloom_reader *r = (frameloom_reader *)calloc(1, sizeof *r);
    if (!r) {
        frameloom_i_fail(error, FRAMELOOM_OUT_OF_RESOURCES, "no memory for a reader; close other programs");
        return NULL;
    }
    if (frameloom_i_place_of(&r->place, channel, directory, error) != FRAMELOOM_OK) {
        free(r);
        return NULL;
    }
    r->lossless = lossless != 0;
    r->pid = frameloom_i_pid();
    r->mapping.file = FRAMELOOM_I_NONE;
    r->writer_lock.file = FRAMELOOM_I_NONE;
    for (uint32_t i = 0; i < FRAMELOOM_READER_ENTRIES; i++) r->entries[i].file = FRAMELOOM_I_NONE;
    return r;
}

FRAMELOOM_API void frameloom_reader_close(frameloom_reader *reader) {
    if (!reader) return;
    frameloom_i_detach(reader);
    free(reader->copy);
    free(reader);
}

FRAMELOOM_API frameloom_status frameloom_read(frameloom_reader *reader, void *buffer, size_t buffer_bytes,
                                              frameloom_frame *frame, uint32_t timeout_ms, frameloom_error *error) {
    frameloom_status status = frameloom_i_enter(reader, timeout_ms, error);
    return status == FRAMELOOM_OK ? frameloom_i_copy(reader, buffer, buffer_bytes, frame, error) : status;
}

FRAMELOOM_API frameloom_status frameloom_latest(frameloom_reader *reader, frameloom_frame *frame, uint32_t timeout_ms,
                                                frameloom_error *error) {
    frameloom_reader *r = reader;
    frameloom_status status = frameloom_i_enter(r, timeout_ms, error);
    if (status != FRAMELOOM_OK) return status;
    int entry = r->lossless ? 0 : frameloom_i_pinner(r);
    if (entry < 0) {
        status = frameloom_i_copy(r, NULL, 0, frame, error);
        if (status == FRAMELOOM_OK) r->holding = 2;
        return status;
    }
    uint8_t *pin = r->lossless ? NULL : frameloom_i_entry(r, entry) + FRAMELOOM_AT_ENTRY_PIN;
    for (int attempt = 0; attempt < FRAMELOOM_I_ATTEMPTS; attempt++) {
        uint64_t sequence;
        uint32_t slot;
        status = frameloom_i_next(r, &sequence, &slot, error);
        if (status == FRAMELOOM_MALFORMED_HEADER) return status; /* detached: `pin` is gone */
        if (status != FRAMELOOM_OK) break;
        if (pin) {
            frameloom_i_put32(pin, slot + 1);
            /* SYNC POINT R1: the pin is visible before the sequence is checked. Meets W1. */
            frameloom_i_fence();
        }
        status = frameloom_i_find(r, sequence, slot, frame, error);
        if (status == FRAMELOOM_NOTHING_NEW) continue;
        if (status != FRAMELOOM_OK) break;
        r->holding = 1;
        r->held_slot = slot;
        r->held_sequence = sequence;
        if (pin) r->last = sequence;
        return FRAMELOOM_OK;
    }
    if (pin) frameloom_i_put32(pin, 0);
    /* All attempts failed: see frameloom_i_copy. */
    if (status == FRAMELOOM_NOTHING_NEW) frameloom_i_nap_ms(1);
    return status;
}

FRAMELOOM_API int frameloom_release(frameloom_reader *reader, frameloom_frame *frame) {
    frameloom_reader *r = reader;
    int kind = r->holding;
    r->holding = 0;
    memset(frame->planes, 0, sizeof frame->planes);
    if (kind != 1) return kind == 2;
    if (!r->mapping.memory || !frameloom_i_whole(&r->mapping)) return 0;
    int intact = frameloom_i_intact(frameloom_i_slot(r, r->held_slot), r->held_sequence);
    /* In a forked child the entry is its parent's. */
    if (r->pid != frameloom_i_pid()) return intact;
    if (r->lossless)
        frameloom_i_taken(r, r->held_sequence);
    else
        frameloom_i_put32(frameloom_i_entry(r, r->pinner) + FRAMELOOM_AT_ENTRY_PIN, 0);
    return intact;
}

FRAMELOOM_API frameloom_status frameloom_wait(frameloom_reader *reader, uint32_t timeout_ms, frameloom_error *error) {
    return frameloom_i_enter(reader, timeout_ms, error);
}

FRAMELOOM_API frameloom_status frameloom_reader_state(frameloom_reader *reader, frameloom_writer_state *state,
                                                      frameloom_error *error) {
    int gone = 0;
    frameloom_status status = frameloom_i_follow(reader, error);
    *state = reader->known ? FRAMELOOM_WRITER_GONE : FRAMELOOM_NO_WRITER;
    if (status == FRAMELOOM_NOTHING_NEW) return FRAMELOOM_OK;
    if (status == FRAMELOOM_OK) status = frameloom_i_gone(reader, frameloom_i_state(reader), &gone, error);
    if (status == FRAMELOOM_OK && !gone) *state = FRAMELOOM_LIVE;
    return status;
}

/* ---- Writer ---- */

struct frameloom_writer {
    frameloom_i_place place;
    uint64_t pid;
    frameloom_i_lock lock, generation_lock;
    int lost;             /* another has the channel, after our files were removed */
    int segment_lost;     /* the file of this generation was removed: the next frame makes the next one */
    uint64_t look_ns;     /* when to look after the files again */
    frameloom_i_mapping mapping;
    frameloom_i_geometry g;
    uint64_t sequence, max_capacity;
    uint32_t policy, timeout_ms, newest_slot;
    frameloom_i_wake wakes[FRAMELOOM_READER_ENTRIES], progress_wake;
    /* Of the lossless reader's entry in this generation, and in an older one while `follows`: it may still be there. */
    frameloom_i_lock reader_lock, previous_reader_lock;
    int follows, let_go;
    int in_hand; /* a slot is being written: */
    uint32_t slot;
    uint32_t plane_count;
    frameloom_plane planes[FRAMELOOM_MAX_PLANES];
    uint64_t data_size;
};

static inline uint8_t *frameloom_i_target(const frameloom_writer *w, uint32_t slot) {
    return w->mapping.memory + w->g.header_size + slot * w->g.slot_stride;
}

/* Tell the readers of a segment that nothing more will come in it, and let go of it. */
static inline void frameloom_i_retire(frameloom_writer *w, frameloom_i_mapping *m, const frameloom_i_geometry *g, uint32_t state) {
    if (frameloom_i_whole(m)) {
        uint8_t *word = m->memory + FRAMELOOM_AT_HEADER_WAKE;
        frameloom_i_put32(m->memory + FRAMELOOM_AT_HEADER_STATE, state);
        frameloom_i_put32(word, frameloom_i_get32(word) + 1);
        frameloom_i_fence();
        for (uint32_t i = 0; i < (w->place.named ? FRAMELOOM_READER_ENTRIES : 1u); i++) {
            char who[24];
            frameloom_i_wake wake;
            memset(&wake, 0, sizeof wake);
            snprintf(who, sizeof who, "-r%u-wake", i);
            frameloom_i_wake_open(&wake, &w->place, g->generation, who);
            frameloom_i_wake_all(&wake, word);
            frameloom_i_wake_close(&wake);
        }
    }
    frameloom_i_unmap(m);
}

/* Section 5, steps 4 to 8. `old` (memory NULL: none) is retired. */
static inline frameloom_status frameloom_i_open_generation(frameloom_writer *w, uint64_t capacity, uint32_t slots,
                                                           frameloom_i_mapping *old, const frameloom_i_geometry *old_g,
                                                           frameloom_error *error) {
    frameloom_i_geometry g;
    frameloom_i_mapping m;
    memset(&g, 0, sizeof g);
    g.generation = frameloom_i_random();
    g.header_size = FRAMELOOM_BYTES_HEADER;
    g.slot_header_size = FRAMELOOM_BYTES_SLOT;
    g.slot_count = slots;
    g.slot_stride = FRAMELOOM_BYTES_SLOT + frameloom_i_align(capacity, FRAMELOOM_PAGE);
    g.segment_size = g.header_size + slots * g.slot_stride;
    g.policy = w->policy;
    g.reader_table_offset = FRAMELOOM_READER_TABLE_OFFSET;
    g.waiting_offset = FRAMELOOM_AT_HEADER_WAITING;
    g.first_sequence = w->sequence + 1;
    frameloom_status status = frameloom_i_create(&w->place, &m, g.generation, g.segment_size, error);
    if (status != FRAMELOOM_OK) return status;
    uint8_t *h = m.memory;
    frameloom_i_store64(h + FRAMELOOM_AT_HEADER_MAGIC, FRAMELOOM_MAGIC);
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_HEADER_SIZE, g.header_size);
    frameloom_i_store64(h + FRAMELOOM_AT_HEADER_SEGMENT_SIZE, g.segment_size);
    frameloom_i_store64(h + FRAMELOOM_AT_HEADER_GENERATION, g.generation);
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_SLOT_COUNT, g.slot_count);
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_SLOT_HEADER_SIZE, g.slot_header_size);
    frameloom_i_store64(h + FRAMELOOM_AT_HEADER_SLOT_STRIDE, g.slot_stride);
    frameloom_i_store64(h + FRAMELOOM_AT_HEADER_WRITER_PID, w->pid);
    frameloom_i_store64(h + FRAMELOOM_AT_HEADER_WRITER_START_NS, frameloom_i_now_ns());
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_POLICY, g.policy);
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_READER_TABLE_OFFSET, g.reader_table_offset);
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_READER_ENTRIES, FRAMELOOM_READER_ENTRIES);
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_READER_STRIDE, FRAMELOOM_BYTES_ENTRY);
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_WAITING_OFFSET, g.waiting_offset);
    frameloom_i_store64(h + FRAMELOOM_AT_HEADER_FIRST_SEQUENCE, g.first_sequence);
    memcpy(h + FRAMELOOM_AT_HEADER_CHANNEL, w->place.channel, strlen(w->place.channel));
    frameloom_i_store32(h + FRAMELOOM_AT_HEADER_STATE, FRAMELOOM_STATE_LIVE);
    frameloom_i_store64(h + FRAMELOOM_AT_HEADER_HEARTBEAT_NS, frameloom_i_now_ns());
    frameloom_i_put32(h + FRAMELOOM_AT_HEADER_VERSION, FRAMELOOM_VERSION);
    /* Everything that may fail comes before the record: from there on this is the ring. */
    frameloom_i_lock generation_lock, reader_lock;
    frameloom_i_lock_generation(&generation_lock, &w->place, g.generation);
    frameloom_i_lock_entry(&reader_lock, &w->place, g.generation, FRAMELOOM_LOSSLESS_ENTRY, g.reader_table_offset);
    if (frameloom_i_lock_take_patiently(&generation_lock) != 1) status = frameloom_i_denied(error, generation_lock.path);
    /* Opened now: the file is deleted with its generation, and its lock must be seen for longer. */
    if (status == FRAMELOOM_OK && w->policy == FRAMELOOM_POLICY_LOSSLESS && !w->place.named &&
        !frameloom_i_lock_open(&reader_lock, FRAMELOOM_I_ANY))
        status = frameloom_i_denied(error, reader_lock.path);
    if (status == FRAMELOOM_OK) status = frameloom_i_swing_record(&w->place, g.generation, g.segment_size, error);
    if (status != FRAMELOOM_OK) {
        frameloom_i_lock_drop(&reader_lock);
        frameloom_i_lock_give(&generation_lock, 0);
        frameloom_i_unmap(&m);
        frameloom_i_remove_generation(&w->place, g.generation);
        return status;
    }
    for (uint32_t i = 0; i < FRAMELOOM_READER_ENTRIES; i++) frameloom_i_wake_close(&w->wakes[i]);
    frameloom_i_wake_close(&w->progress_wake);
    if (w->mapping.memory && w->policy == FRAMELOOM_POLICY_LOSSLESS) {
        const uint8_t *entry = w->mapping.memory + w->g.reader_table_offset;
        if (frameloom_i_get32(entry + FRAMELOOM_AT_ENTRY_KIND) == FRAMELOOM_READER_LOSSLESS) w->let_go = 0;
        if (frameloom_i_get64(entry + FRAMELOOM_AT_ENTRY_PID)) {
            w->follows = 1;
            frameloom_i_lock_drop(&w->previous_reader_lock);
            w->previous_reader_lock = w->reader_lock;
        } else {
            frameloom_i_lock_drop(&w->reader_lock);
        }
    }
    if (old->memory) frameloom_i_retire(w, old, old_g, FRAMELOOM_STATE_SUPERSEDED);
    frameloom_i_lock_give(&w->generation_lock, 0);
    w->generation_lock = generation_lock;
    w->reader_lock = reader_lock;
    w->segment_lost = 0;
    w->mapping = m;
    w->g = g;
    w->newest_slot = slots - 1;
    frameloom_i_remove_leftovers(&w->place, g.generation);
    return FRAMELOOM_OK;
}

/* Leave the channel: delete what is still ours, tell the readers, give the locks back. */
static inline void frameloom_i_leave(frameloom_writer *w) {
    char path[FRAMELOOM_I_PATH];
    frameloom_i_pointer pointer;
    int ours = frameloom_i_lock_current(&w->lock);
    frameloom_i_retire(w, &w->mapping, &w->g, FRAMELOOM_STATE_CLOSED);
    if (frameloom_i_read_record(&w->place, &pointer, NULL) == FRAMELOOM_OK && pointer.generation == w->g.generation) {
        frameloom_i_file(&w->place, path, ".ring");
        frameloom_i_delete(path);
    }
    frameloom_i_remove_generation(&w->place, w->g.generation);
    if (ours) frameloom_i_remove_leftovers(&w->place, 0);
    frameloom_i_lock_give(&w->generation_lock, 0);
    frameloom_i_lock_give(&w->lock, 1);
}

/* Twice a second: put back what somebody removed by hand, or leave when another writer has come in the meantime. */
static inline void frameloom_i_look_after_files(frameloom_writer *w) {
    char path[FRAMELOOM_I_PATH];
    frameloom_i_pointer pointer;
    w->look_ns = frameloom_i_now_ns() + 500000000u;
    if (!frameloom_i_lock_current(&w->lock)) {
        frameloom_i_lock again;
        frameloom_i_lock_writer(&again, &w->place);
        if (frameloom_i_lock_take_patiently(&again) != 1) {
            frameloom_i_lock_drop(&again);
            frameloom_i_leave(w);
            w->lost = 1;
            return;
        }
        frameloom_i_lock_drop(&w->lock);
        w->lock = again;
    }
    frameloom_i_segment_file(&w->place, path, w->g.generation);
    if (!w->place.named && !frameloom_i_exists(path))
        w->segment_lost = 1;
    else if (frameloom_i_read_record(&w->place, &pointer, NULL) != FRAMELOOM_OK || pointer.generation != w->g.generation)
        frameloom_i_swing_record(&w->place, w->g.generation, w->g.segment_size, NULL);
}

static inline frameloom_status frameloom_i_closed(const frameloom_writer *w, frameloom_error *error) {
    if (w->pid == frameloom_i_pid() && !w->lost) return FRAMELOOM_OK;
    return frameloom_i_fail(error, FRAMELOOM_RING_CLOSED,
                            "channel %s: this writer is a parent process's, or another took the channel after its files had "
                            "been removed; open a new one",
                            w->place.channel);
}

FRAMELOOM_API frameloom_writer *frameloom_writer_open(const char *channel, const frameloom_writer_options *options,
                                                      frameloom_error *error) {
    frameloom_writer_options o;
    memset(&o, 0, sizeof o);
    if (options) o = *options;
    if (!o.capacity_bytes) o.capacity_bytes = 512u * 512u * 4u;
    if (!o.max_capacity_bytes) o.max_capacity_bytes = 1u << 30;
    if (o.max_capacity_bytes < o.capacity_bytes) o.max_capacity_bytes = o.capacity_bytes;
    if (!o.slots) o.slots = FRAMELOOM_MIN_SLOTS;
    if (!o.timeout_ms) o.timeout_ms = 10000;
    if (o.slots < FRAMELOOM_MIN_SLOTS || o.slots > FRAMELOOM_MAX_SLOTS || o.policy > FRAMELOOM_POLICY_LOSSLESS ||
        o.max_capacity_bytes > FRAMELOOM_MAX_SEGMENT_BYTES / o.slots - 2 * FRAMELOOM_BYTES_SLOT) {
        frameloom_i_fail(error, FRAMELOOM_MISUSE,
                         "%u slots of up to %llu bytes with policy %u; give 4 to 64 slots, 2^40 bytes in all, policy 0 or 1",
                         o.slots, (unsigned long long)o.max_capacity_bytes, o.policy);
        return NULL;
    }
    frameloom_writer *w = (frameloom_writer *)calloc(1, sizeof *w);
    if (!w) {
        frameloom_i_fail(error, FRAMELOOM_OUT_OF_RESOURCES, "no memory for a writer; close other programs");
        return NULL;
    }
    frameloom_status status = frameloom_i_place_of(&w->place, channel, o.directory, error);
    if (status != FRAMELOOM_OK) {
        free(w);
        return NULL;
    }
    w->pid = frameloom_i_pid();
    w->max_capacity = o.max_capacity_bytes;
    w->policy = o.policy;
    w->timeout_ms = o.timeout_ms;
    w->mapping.file = w->reader_lock.file = w->previous_reader_lock.file = w->generation_lock.file = FRAMELOOM_I_NONE;
    frameloom_i_lock_writer(&w->lock, &w->place);
    int got = frameloom_i_lock_take_patiently(&w->lock);
    frameloom_i_pointer pointer;
    if (got < 0) {
        frameloom_i_denied(error, w->lock.path);
    } else if (got == 0) {
        unsigned long long pid = frameloom_i_read_record(&w->place, &pointer, NULL) == FRAMELOOM_OK ? pointer.writer_pid : 0;
        frameloom_i_fail(error, FRAMELOOM_WRITER_EXISTS,
                         "channel %s already has a live writer (process %llu); stop it or use another channel", channel, pid);
    } else {
        /* The sound segment of a dead writer: its readers must be told where to go. */
        char path[FRAMELOOM_I_PATH];
        frameloom_i_mapping stale;
        frameloom_i_geometry stale_g;
        memset(&stale, 0, sizeof stale);
        int left = frameloom_i_read_record(&w->place, &pointer, NULL) == FRAMELOOM_OK;
        /* Readers of version 1.0 go by the lock of the channel, which is held again: they would take the last picture of the
         * dead writer for news. */
        if (left) {
            frameloom_i_file(&w->place, path, ".ring");
            frameloom_i_delete(path);
        }
        if (!left ||
            frameloom_i_map_checked(&w->place, pointer.generation, &stale, &stale_g, NULL) != FRAMELOOM_OK)
            stale.memory = NULL;
        frameloom_i_remove_leftovers(&w->place, 0);
        status = frameloom_i_open_generation(w, o.capacity_bytes, o.slots, &stale, &stale_g, error);
        /* Its memory is ours to give back: a killed writer must not need room for two rings to start again. */
        if (status == FRAMELOOM_NO_SPACE && stale.memory) frameloom_i_retire(w, &stale, &stale_g, FRAMELOOM_STATE_CLOSED);
        /* Readers give the memory of a ring that is closed or dead back within moments. */
        for (int look = 0; status == FRAMELOOM_NO_SPACE && look < 25; look++) {
            if (look) frameloom_i_nap_ms(10);
            if (error) memset(error, 0, sizeof *error);
            status = frameloom_i_open_generation(w, o.capacity_bytes, o.slots, &stale, &stale_g, error);
        }
        if (status == FRAMELOOM_OK) return w;
        frameloom_i_unmap(&stale);
    }
    frameloom_i_lock_give(&w->lock, got == 1);
    free(w);
    return NULL;
}

FRAMELOOM_API void frameloom_writer_close(frameloom_writer *writer) {
    frameloom_writer *w = writer;
    if (!w) return;
    for (uint32_t i = 0; i < FRAMELOOM_READER_ENTRIES; i++) frameloom_i_wake_close(&w->wakes[i]);
    frameloom_i_wake_close(&w->progress_wake);
    frameloom_i_lock_drop(&w->reader_lock);
    frameloom_i_lock_drop(&w->previous_reader_lock);
    if (w->pid != frameloom_i_pid()) {
        frameloom_i_unmap(&w->mapping);
        frameloom_i_lock_drop(&w->generation_lock);
        frameloom_i_lock_drop(&w->lock);
    } else if (!w->lost) {
        frameloom_i_leave(w);
    }
    free(w);
}

/* Newest sequence that may be overwritten under the lossless policy. */
static inline uint64_t frameloom_i_may_overwrite(const frameloom_writer *w) {
    const uint8_t *entry = w->mapping.memory + w->g.reader_table_offset;
    if (frameloom_i_get32(entry + FRAMELOOM_AT_ENTRY_KIND) == FRAMELOOM_READER_LOSSLESS)
        return frameloom_i_get64(entry + FRAMELOOM_AT_ENTRY_TAKEN);
    return w->let_go ? FRAMELOOM_I_EVERYTHING : w->g.first_sequence - 1;
}

static inline frameloom_status frameloom_i_cut(const frameloom_writer *w, frameloom_error *error) {
    return frameloom_i_fail(error, FRAMELOOM_TRUNCATED_SEGMENT, "channel %s: its segment was cut by somebody; open a new writer",
                            w->place.channel);
}

/* Section 9: sleep until the lossless reader is further than `before`, leaves or dies. `before` is what the search for a
 * slot went by: a newer value would make us wait for a reader that has taken everything already. */
static inline frameloom_status frameloom_i_await_reader(frameloom_writer *w, uint64_t before, frameloom_error *error) {
    uint8_t *entry = w->mapping.memory + w->g.reader_table_offset, *progress = entry + FRAMELOOM_AT_ENTRY_PROGRESS;
    uint8_t *waiting = w->mapping.memory + FRAMELOOM_AT_HEADER_WRITER_WAITING;
    uint64_t deadline = frameloom_i_now_ns() + (uint64_t)w->timeout_ms * 1000000u;
    frameloom_status status = FRAMELOOM_OK;
    frameloom_i_wake_open(&w->progress_wake, &w->place, w->g.generation, "-writer-wake");
    for (;;) {
        uint32_t seen = frameloom_i_get32(progress);
        frameloom_i_put32(waiting, 1);
        frameloom_i_fence();
        if (frameloom_i_may_overwrite(w) != before) break;
        /* A reader that follows takes its new lock before it gives back the old one, so the old one is asked first. */
        int alive = w->follows && frameloom_i_lock_elsewhere(&w->previous_reader_lock) != 0;
        /* Whether one came is read before its lock is tested: it takes the lock first. */
        int came = w->follows || frameloom_i_get64(entry + FRAMELOOM_AT_ENTRY_PID) != 0;
        alive = frameloom_i_lock_elsewhere(&w->reader_lock) != 0 || alive;
        if (came && !alive && frameloom_i_lock_take(&w->reader_lock) == 1) {
            /* It died or left: let it go and write on; another may register later. Under its lock, lest that other one
             * registers just now and is taken for the dead one. */
            frameloom_i_put32(entry + FRAMELOOM_AT_ENTRY_KIND, FRAMELOOM_READER_FREE);
            frameloom_i_lock_release(&w->reader_lock);
            w->follows = 0;
            w->let_go = 1;
            break;
        }
        uint64_t now_ns = frameloom_i_now_ns();
        if (now_ns >= deadline) {
            status = frameloom_i_fail(error, FRAMELOOM_READER_TIMEOUT,
                                      "channel %s: its lossless reader took nothing for %u ms; start or speed up that reader, "
                                      "or use the newest-wins policy",
                                      w->place.channel, w->timeout_ms);
            break;
        }
        uint64_t left_ms = (deadline - now_ns) / 1000000u + 1;
        frameloom_i_wake_wait(&w->progress_wake, progress, seen, left_ms < 50 ? (uint32_t)left_ms : 50);
        if (!frameloom_i_whole(&w->mapping)) return frameloom_i_cut(w, error);
        if (now_ns >= w->look_ns) frameloom_i_look_after_files(w);
        status = frameloom_i_closed(w, error);
        if (status != FRAMELOOM_OK) return status;
    }
    frameloom_i_put32(waiting, 0);
    return status;
}

/* Section 9: a reader goes straight to the newest generation, so one with frames must have been entered before the next is
 * made. */
static inline frameloom_status frameloom_i_await_registration(frameloom_writer *w, frameloom_error *error) {
    const uint8_t *kind = w->mapping.memory + w->g.reader_table_offset + FRAMELOOM_AT_ENTRY_KIND;
    frameloom_status status = FRAMELOOM_OK;
    while (status == FRAMELOOM_OK && w->sequence >= w->g.first_sequence && !w->let_go &&
           frameloom_i_get32(kind) != FRAMELOOM_READER_LOSSLESS)
        status = frameloom_i_await_reader(w, w->g.first_sequence - 1, error);
    return status;
}

static inline int frameloom_i_pinned(const frameloom_writer *w, uint32_t slot) {
    for (uint32_t i = 1; i <= w->g.slot_count - 2 && i < FRAMELOOM_READER_ENTRIES; i++)
        if (frameloom_i_get32(w->mapping.memory + w->g.reader_table_offset + i * FRAMELOOM_BYTES_ENTRY + FRAMELOOM_AT_ENTRY_PIN) ==
            slot + 1)
            return 1;
    return 0;
}

/* Section 6, steps 1 to 3. */
static inline frameloom_status frameloom_i_choose(frameloom_writer *w, frameloom_error *error) {
    for (;;) {
        uint64_t free_to = w->policy == FRAMELOOM_POLICY_LOSSLESS ? frameloom_i_may_overwrite(w) : FRAMELOOM_I_EVERYTHING;
        for (uint32_t step = 1; step < w->g.slot_count; step++) {
            uint32_t slot = (w->newest_slot + step) % w->g.slot_count;
            uint8_t *word = frameloom_i_target(w, slot);
            uint64_t before = frameloom_i_get64(word);
            if (before >> 1 > free_to || frameloom_i_pinned(w, slot)) continue;
            frameloom_i_put64(word, 2 * w->sequence + 1);
            /* SYNC POINT W1: the odd sequence is visible before pins are looked at again and before any pixel changes.
             * Meets R1: either the reader's check sees it, or we see the pin. */
            frameloom_i_fence();
            if (!frameloom_i_pinned(w, slot)) {
                w->slot = slot;
                return FRAMELOOM_OK;
            }
            frameloom_i_put64(word, before);
        }
        if (w->policy == FRAMELOOM_POLICY_LOSSLESS) {
            frameloom_status status = frameloom_i_await_reader(w, free_to, error);
            if (status != FRAMELOOM_OK) return status;
        }
        /* Otherwise a reader moved its pin between our two looks: there are fewer pins than slots, look again. */
    }
}

/* Places of the planes, rows tight, each on a multiple of 64 bytes; `pixels` stays NULL. */
static inline frameloom_status frameloom_i_lay_out(const frameloom_plane *planes, uint32_t count, frameloom_plane *out,
                                                   uint64_t *offsets, uint64_t *data_size, frameloom_error *error) {
    uint64_t at = FRAMELOOM_BYTES_SLOT;
    if (count < 1 || count > FRAMELOOM_MAX_PLANES)
        return frameloom_i_fail(error, FRAMELOOM_INVALID_FRAME, "a frame has 1 to %u planes, got %u", FRAMELOOM_MAX_PLANES, count);
    for (uint32_t i = 0; i < count; i++) {
        frameloom_plane *plane = &out[i];
        memset(plane, 0, sizeof *plane);
        plane->kind = planes[i].kind;
        plane->format = planes[i].format;
        plane->width = planes[i].width;
        plane->height = planes[i].height;
        if (!frameloom_i_allowed(plane->kind, plane->format))
            return frameloom_i_fail(error, FRAMELOOM_INVALID_FRAME,
                                    "plane kind %u with format %u: PROTOCOL.md section 3 lists the formats of each kind",
                                    plane->kind, plane->format);
        if (plane->width < 1 || plane->width > FRAMELOOM_MAX_SIDE || plane->height < 1 || plane->height > FRAMELOOM_MAX_SIDE)
            return frameloom_i_fail(error, FRAMELOOM_INVALID_FRAME, "%u x %u pixels; each side must be 1 to %u", plane->width,
                                    plane->height, FRAMELOOM_MAX_SIDE);
        for (uint32_t k = 0; k < i; k++)
            if (out[k].kind == plane->kind)
                return frameloom_i_fail(error, FRAMELOOM_INVALID_FRAME,
                                        "a frame has each kind of plane at most once; merge or drop the second one");
        plane->row_stride = (uint64_t)plane->width * frameloom_i_bytes_per_pixel(plane->format);
        plane->size = plane->row_stride * plane->height;
        offsets[i] = at = frameloom_i_align(at, FRAMELOOM_PLANE_ALIGNMENT);
        at += plane->size;
    }
    *data_size = at - FRAMELOOM_BYTES_SLOT;
    return FRAMELOOM_OK;
}

FRAMELOOM_API frameloom_status frameloom_begin(frameloom_writer *writer, const frameloom_plane *planes, uint32_t count,
                                               frameloom_frame *frame, frameloom_error *error) {
    frameloom_writer *w = writer;
    frameloom_plane laid[FRAMELOOM_MAX_PLANES];
    uint64_t offsets[FRAMELOOM_MAX_PLANES], data_size = 0;
    frameloom_status status = frameloom_i_closed(w, error);
    if (status != FRAMELOOM_OK) return status;
    if (w->in_hand)
        return frameloom_i_fail(error, FRAMELOOM_MISUSE, "channel %s: commit or abandon the previous slot first", w->place.channel);
    status = frameloom_i_lay_out(planes, count, laid, offsets, &data_size, error);
    if (status != FRAMELOOM_OK) return status;
    if (data_size > w->max_capacity)
        return frameloom_i_fail(error, FRAMELOOM_FRAME_TOO_LARGE,
                                "a frame of %llu bytes is beyond the capacity of %llu; write a smaller frame or give the writer "
                                "a larger max_capacity_bytes",
                                (unsigned long long)data_size, (unsigned long long)w->max_capacity);
    if (!frameloom_i_whole(&w->mapping)) return frameloom_i_cut(w, error);
    uint64_t capacity = w->g.slot_stride - w->g.slot_header_size;
    if (data_size > capacity || w->segment_lost) {
        frameloom_i_mapping old = w->mapping;
        frameloom_i_geometry old_g = w->g;
        if (w->policy == FRAMELOOM_POLICY_LOSSLESS) {
            status = frameloom_i_await_registration(w, error);
            if (status != FRAMELOOM_OK) return status;
        }
        frameloom_i_look_after_files(w);
        status = frameloom_i_closed(w, error);
        if (status != FRAMELOOM_OK) return status;
        status = frameloom_i_open_generation(w, data_size > capacity ? data_size : capacity, w->g.slot_count, &old, &old_g, error);
        if (status != FRAMELOOM_OK) return status;
    }
    status = frameloom_i_choose(w, error);
    if (status != FRAMELOOM_OK) return status;
    uint8_t *slot = frameloom_i_target(w, w->slot);
    for (uint32_t i = 0; i < count; i++) laid[i].pixels = slot + offsets[i];
    memcpy(w->planes, laid, sizeof laid[0] * count);
    w->plane_count = count;
    w->data_size = data_size;
    w->in_hand = 1;
    memset(frame, 0, sizeof *frame);
    memcpy(frame->planes, laid, sizeof laid[0] * count);
    frame->plane_count = count;
    frame->sequence = frame->frame_id = w->sequence + 1;
    frame->generation = w->g.generation;
    frame->capture_ns = frameloom_i_now_ns();
    return FRAMELOOM_OK;
}

FRAMELOOM_API void frameloom_abandon(frameloom_writer *writer) {
    if (!writer->in_hand) return;
    writer->in_hand = 0;
    /* In a forked child the slot is its parent's. */
    if (writer->pid == frameloom_i_pid()) frameloom_i_put64(frameloom_i_target(writer, writer->slot), 0);
}

FRAMELOOM_API frameloom_status frameloom_commit(frameloom_writer *writer, const frameloom_frame *frame, frameloom_error *error) {
    frameloom_writer *w = writer;
    frameloom_status status = frameloom_i_closed(w, error);
    if (status != FRAMELOOM_OK) return status;
    if (!w->in_hand)
        return frameloom_i_fail(error, FRAMELOOM_MISUSE, "channel %s: begin a slot before you commit it", w->place.channel);
    if (frame->origin > FRAMELOOM_ORIGIN_BOTTOM_LEFT || frame->colour_space > FRAMELOOM_COLOUR_SPACE_LINEAR) {
        frameloom_abandon(w);
        return frameloom_i_fail(error, FRAMELOOM_INVALID_FRAME, "origin %u and colour space %u; each is 0 or 1", frame->origin,
                                frame->colour_space);
    }
    uint8_t *h = w->mapping.memory, *slot = frameloom_i_target(w, w->slot);
    uint64_t sequence = w->sequence + 1, now_ns = frameloom_i_now_ns();
    frameloom_i_store64(slot + FRAMELOOM_AT_SLOT_FRAME_ID, frame->frame_id);
    frameloom_i_store64(slot + FRAMELOOM_AT_SLOT_SOURCE_FRAME_ID, frame->source_frame_id);
    frameloom_i_store64(slot + FRAMELOOM_AT_SLOT_CAPTURE_NS, frame->capture_ns);
    frameloom_i_store64(slot + FRAMELOOM_AT_SLOT_PUBLISH_NS, now_ns);
    frameloom_i_store64(slot + FRAMELOOM_AT_SLOT_PARAM_REVISION, frame->param_revision);
    frameloom_i_store32(slot + FRAMELOOM_AT_SLOT_FLAGS, frame->flags);
    frameloom_i_store32(slot + FRAMELOOM_AT_SLOT_ORIGIN, frame->origin);
    frameloom_i_store32(slot + FRAMELOOM_AT_SLOT_COLOUR_SPACE, frame->colour_space);
    frameloom_i_store32(slot + FRAMELOOM_AT_SLOT_PLANE_COUNT, w->plane_count);
    frameloom_i_store64(slot + FRAMELOOM_AT_SLOT_DATA_SIZE, w->data_size);
    if (frame->flags & FRAMELOOM_FLAG_POSE)
        memcpy(slot + FRAMELOOM_AT_SLOT_T_WORLD_CAMERA, frame->T_world_camera, sizeof frame->T_world_camera);
    if (frame->flags & FRAMELOOM_FLAG_INTRINSICS)
        memcpy(slot + FRAMELOOM_AT_SLOT_INTRINSICS, frame->intrinsics, sizeof frame->intrinsics);
    for (uint32_t i = 0; i < w->plane_count; i++) {
        uint8_t *entry = slot + FRAMELOOM_PLANE_TABLE_OFFSET + i * FRAMELOOM_BYTES_PLANE;
        const frameloom_plane *plane = &w->planes[i];
        frameloom_i_store32(entry + FRAMELOOM_AT_PLANE_KIND, plane->kind);
        frameloom_i_store32(entry + FRAMELOOM_AT_PLANE_FORMAT, plane->format);
        frameloom_i_store32(entry + FRAMELOOM_AT_PLANE_WIDTH, plane->width);
        frameloom_i_store32(entry + FRAMELOOM_AT_PLANE_HEIGHT, plane->height);
        frameloom_i_store64(entry + FRAMELOOM_AT_PLANE_ROW_STRIDE, plane->row_stride);
        frameloom_i_store64(entry + FRAMELOOM_AT_PLANE_OFFSET, (uint64_t)(plane->pixels - slot));
        frameloom_i_store64(entry + FRAMELOOM_AT_PLANE_SIZE, plane->size);
    }
    frameloom_i_put64(h + FRAMELOOM_AT_HEADER_HEARTBEAT_NS, now_ns);
    /* SYNC POINT W2: pixels and description are visible before the even sequence. Meets R2. */
    frameloom_i_put64(slot + FRAMELOOM_AT_SLOT_SEQUENCE, 2 * sequence);
    /* SYNC POINT W3: the even sequence before `newest`. Meets R3; a reader that sees them otherwise retries. */
    frameloom_i_put64(h + FRAMELOOM_AT_HEADER_NEWEST, sequence << 8 | w->slot);
    w->sequence = sequence;
    w->newest_slot = w->slot;
    w->in_hand = 0;
    /* SYNC POINT W4: `newest` before the wake word. Meets R4. */
    frameloom_i_put32(h + FRAMELOOM_AT_HEADER_WAKE, (uint32_t)sequence);
    /* SYNC POINT W5: the wake word before `waiting` is read. Meets R5: either we see a sleeper, or it sees the word. */
    frameloom_i_fence();
    for (uint32_t i = 0; i < FRAMELOOM_READER_ENTRIES; i++) {
        char who[24];
        if (!frameloom_i_get32(h + w->g.waiting_offset + 4 * i)) continue;
        snprintf(who, sizeof who, "-r%u-wake", i);
        frameloom_i_wake_open(&w->wakes[i], &w->place, w->g.generation, who);
        frameloom_i_wake_all(&w->wakes[i], h + FRAMELOOM_AT_HEADER_WAKE);
        if (!w->place.named) break; /* one word wakes all */
    }
    if (now_ns >= w->look_ns) frameloom_i_look_after_files(w);
    return FRAMELOOM_OK;
}

FRAMELOOM_API frameloom_status frameloom_write(frameloom_writer *writer, const frameloom_frame *frame, frameloom_error *error) {
    frameloom_frame slot;
    for (uint32_t i = 0; i < frame->plane_count && i < FRAMELOOM_MAX_PLANES; i++) {
        const frameloom_plane *plane = &frame->planes[i];
        uint64_t row = (uint64_t)plane->width * frameloom_i_bytes_per_pixel(plane->format);
        if (!plane->pixels || (plane->row_stride && plane->row_stride < row))
            return frameloom_i_fail(error, FRAMELOOM_INVALID_FRAME, "plane %u: give its pixels, and 0 or at least %llu as row_stride",
                                    i, (unsigned long long)row);
    }
    frameloom_status status = frameloom_begin(writer, frame->planes, frame->plane_count, &slot, error);
    if (status != FRAMELOOM_OK) return status;
    for (uint32_t i = 0; i < slot.plane_count; i++) {
        const frameloom_plane *from = &frame->planes[i], *to = &slot.planes[i];
        if (!from->row_stride || from->row_stride == to->row_stride) {
            memcpy(to->pixels, from->pixels, (size_t)to->size);
            continue;
        }
        for (uint32_t y = 0; y < to->height; y++)
            memcpy(to->pixels + y * to->row_stride, from->pixels + y * from->row_stride, (size_t)to->row_stride);
    }
    frameloom_frame said = *frame;
    if (!said.frame_id) said.frame_id = slot.frame_id;
    if (!said.capture_ns) said.capture_ns = slot.capture_ns;
    return frameloom_commit(writer, &said, error);
}

FRAMELOOM_API void frameloom_beat(frameloom_writer *writer) {
    uint64_t now_ns = frameloom_i_now_ns();
    if (frameloom_i_closed(writer, NULL) != FRAMELOOM_OK || !frameloom_i_whole(&writer->mapping)) return;
    frameloom_i_put64(writer->mapping.memory + FRAMELOOM_AT_HEADER_HEARTBEAT_NS, now_ns);
    if (now_ns >= writer->look_ns && !writer->in_hand) frameloom_i_look_after_files(writer);
}

FRAMELOOM_API uint64_t frameloom_writer_generation(const frameloom_writer *writer) { return writer->g.generation; }

/* ---- The rest ---- */

FRAMELOOM_API uint64_t frameloom_now_ns(void) { return frameloom_i_now_ns(); }

FRAMELOOM_API const frameloom_plane *frameloom_plane_of(const frameloom_frame *frame, uint32_t kind) {
    for (uint32_t i = 0; i < frame->plane_count && i < FRAMELOOM_MAX_PLANES; i++)
        if (frame->planes[i].kind == kind) return &frame->planes[i];
    return NULL;
}

FRAMELOOM_API const char *frameloom_status_name(frameloom_status status) {
    static const char *const names[] = {
        "Ok",           "NothingNew",     "InvalidChannel", "NotARing",     "VersionMismatch", "TruncatedSegment", "MalformedHeader",
        "MalformedSlot", "WriterExists",  "ReaderExists",   "NoSpace",      "FrameTooLarge",   "InvalidFrame",     "BufferMismatch",
        "ReaderTimeout", "RingClosed",    "AccessDenied",   "Misuse",       "OutOfResources",
    };
    return (unsigned)status < sizeof names / sizeof names[0] ? names[status] : "Unknown";
}

#ifdef __cplusplus
}
#endif

#endif
