/* Generated from bridge/ring/layout.py by `python3 run.py generate`: change that file, not this one.
 * FRAMELOOM_AT_<table>_<field> is a field's byte offset in its table, FRAMELOOM_BYTES_<table> its size.
 * Should match with bridge/ring/layout.py, RingLayout.cs and bridge/PROTOCOL.md. */
#ifndef FRAMELOOM_LAYOUT_H
#define FRAMELOOM_LAYOUT_H

#define FRAMELOOM_VERSION_MAJOR 1u
#define FRAMELOOM_VERSION 65537u
#define FRAMELOOM_MAGIC 0x0a0d474e49524c46ull
#define FRAMELOOM_RECORD_MAGIC 0x0a544e494f504c46ull
#define FRAMELOOM_PAGE 4096u
#define FRAMELOOM_PLANE_ALIGNMENT 64u
#define FRAMELOOM_PLANE_TABLE_OFFSET 256u
#define FRAMELOOM_READER_TABLE_OFFSET 2048u
#define FRAMELOOM_READER_ENTRIES 16u
#define FRAMELOOM_LOSSLESS_ENTRY 0u
#define FRAMELOOM_WRITER_LOCK_OFFSET 0u
#define FRAMELOOM_MIN_SLOTS 4u
#define FRAMELOOM_MAX_SLOTS 64u
#define FRAMELOOM_MAX_PLANES 8u
#define FRAMELOOM_MAX_CHANNEL_BYTES 48u
#define FRAMELOOM_MAX_SIDE 16777216u
#define FRAMELOOM_MAX_SEGMENT_BYTES 0x0000010000000000ull

#define FRAMELOOM_BYTES_RECORD 64u
#define FRAMELOOM_AT_RECORD_MAGIC 0u /* char[8]: the bytes 46 4c 50 4f 49 4e 54 0a: FLPOINT and a line feed */
#define FRAMELOOM_AT_RECORD_VERSION 8u /* u32: major << 16 | minor of the segment that it points to */
#define FRAMELOOM_AT_RECORD_RECORD_SIZE 12u /* u32: 64; a later minor version may be longer */
#define FRAMELOOM_AT_RECORD_GENERATION 16u /* u64: random and not zero; names the segment */
#define FRAMELOOM_AT_RECORD_SEGMENT_SIZE 24u /* u64: bytes to map */
#define FRAMELOOM_AT_RECORD_WRITER_PID 32u /* u64: process id of the writer, for messages only */
#define FRAMELOOM_AT_RECORD_CREATED_NS 40u /* u64: clock time at creation, for display */

#define FRAMELOOM_BYTES_HEADER 4096u
#define FRAMELOOM_AT_HEADER_MAGIC 0u /* char[8]: the bytes 46 4c 52 49 4e 47 0d 0a: FLRING, carriage return, line feed */
#define FRAMELOOM_AT_HEADER_VERSION 8u /* u32: major << 16 | minor; written last, 0 until then */
#define FRAMELOOM_AT_HEADER_HEADER_SIZE 12u /* u32: bytes before slot 0: a multiple of 4096 */
#define FRAMELOOM_AT_HEADER_SEGMENT_SIZE 16u /* u64: header_size + slot_count * slot_stride */
#define FRAMELOOM_AT_HEADER_GENERATION 24u /* u64: random and not zero; equal to the record's */
#define FRAMELOOM_AT_HEADER_SLOT_COUNT 32u /* u32: 4 to 64 */
#define FRAMELOOM_AT_HEADER_SLOT_HEADER_SIZE 36u /* u32: bytes before the first plane of a slot: a multiple of 4096 */
#define FRAMELOOM_AT_HEADER_SLOT_STRIDE 40u /* u64: bytes from slot to slot: a multiple of 4096 */
#define FRAMELOOM_AT_HEADER_WRITER_PID 48u /* u64: process id of the writer, for messages only */
#define FRAMELOOM_AT_HEADER_WRITER_START_NS 56u /* u64: clock time at creation, for display */
#define FRAMELOOM_AT_HEADER_POLICY 64u /* u32: Policy */
#define FRAMELOOM_AT_HEADER_READER_TABLE_OFFSET 68u /* u32: first reader entry, from the start of the segment: a multiple of 64 */
#define FRAMELOOM_AT_HEADER_READER_ENTRIES 72u /* u32: 16 */
#define FRAMELOOM_AT_HEADER_READER_STRIDE 76u /* u32: 64 */
#define FRAMELOOM_AT_HEADER_WAITING_OFFSET 80u /* u32: first element of `waiting`: a multiple of 64 */
#define FRAMELOOM_AT_HEADER_GPU_TABLE_OFFSET 84u /* u32: 0: no GPU slots are announced (reserved for a later minor version) */
#define FRAMELOOM_AT_HEADER_FIRST_SEQUENCE 88u /* u64: sequence of the first frame of this generation */
#define FRAMELOOM_AT_HEADER_CHANNEL 128u /* char[64]: channel name, UTF-8, padded with zeros */
#define FRAMELOOM_AT_HEADER_NEWEST 256u /* u64: newest published sequence << 8 | its slot; 0: nothing published yet */
#define FRAMELOOM_AT_HEADER_STATE 264u /* u32: SegmentState */
#define FRAMELOOM_AT_HEADER_WRITER_WAITING 268u /* u32: 1 while a lossless writer sleeps on `progress` of entry 0 */
#define FRAMELOOM_AT_HEADER_HEARTBEAT_NS 272u /* u64: clock time of the newest sign of life, for display only */
#define FRAMELOOM_AT_HEADER_WAKE 384u /* u32: changes with every publication and every change of `state` */
#define FRAMELOOM_AT_HEADER_WAITING 448u /* u32[16]: element i is 1 while the owner of entry i sleeps on `wake` */

#define FRAMELOOM_BYTES_ENTRY 64u
#define FRAMELOOM_AT_ENTRY_KIND 0u /* u32: ReaderKind */
#define FRAMELOOM_AT_ENTRY_PIN 4u /* u32: slot index + 1 that the writer must not touch; 0: none */
#define FRAMELOOM_AT_ENTRY_TAKEN 8u /* u64: lossless: newest sequence that the reader has finished with */
#define FRAMELOOM_AT_ENTRY_PROGRESS 16u /* u32: lossless: changes whenever `taken` does; the writer may sleep on it */
#define FRAMELOOM_AT_ENTRY_PID 24u /* u64: process id of the newest owner; lossless: 0 as long as no reader ever came */

#define FRAMELOOM_BYTES_SLOT 4096u
#define FRAMELOOM_AT_SLOT_SEQUENCE 0u /* u64: 2 s: frame s is whole; 2 s - 1: frame s is being written; 0: empty */
#define FRAMELOOM_AT_SLOT_FRAME_ID 8u /* u64: the writer's own number of this frame */
#define FRAMELOOM_AT_SLOT_SOURCE_FRAME_ID 16u /* u64: the client's number of the picture; a result repeats its input's; 0: none */
#define FRAMELOOM_AT_SLOT_CAPTURE_NS 24u /* u64: clock time of the capture of the source */
#define FRAMELOOM_AT_SLOT_PUBLISH_NS 32u /* u64: clock time of publication */
#define FRAMELOOM_AT_SLOT_PARAM_REVISION 40u /* u64: revision of the parameters that made this frame */
#define FRAMELOOM_AT_SLOT_FLAGS 48u /* u32: bits of SlotFlag; bits 16 to 31 are the application's own, the others 0 */
#define FRAMELOOM_AT_SLOT_ORIGIN 52u /* u32: Origin */
#define FRAMELOOM_AT_SLOT_COLOUR_SPACE 56u /* u32: ColourSpace */
#define FRAMELOOM_AT_SLOT_PLANE_COUNT 60u /* u32: 1 to 8 */
#define FRAMELOOM_AT_SLOT_DATA_SIZE 64u /* u64: bytes from the start of the first plane to the end of the last */
#define FRAMELOOM_AT_SLOT_T_WORLD_CAMERA 128u /* f32[16]: camera to world, row-major 4x4, metres; with flag POSE */
#define FRAMELOOM_AT_SLOT_INTRINSICS 192u /* f32[4]: fx, fy, cx, cy in pixels; with flag INTRINSICS */

#define FRAMELOOM_BYTES_PLANE 48u
#define FRAMELOOM_AT_PLANE_KIND 0u /* u32: Kind; each at most once in a slot */
#define FRAMELOOM_AT_PLANE_FORMAT 4u /* u32: Format */
#define FRAMELOOM_AT_PLANE_WIDTH 8u /* u32: pixels per row, 1 to 2^24 */
#define FRAMELOOM_AT_PLANE_HEIGHT 12u /* u32: rows, 1 to 2^24 */
#define FRAMELOOM_AT_PLANE_ROW_STRIDE 16u /* u64: bytes from row to row; at least width * bytes per pixel, a multiple of 4 or equal to it */
#define FRAMELOOM_AT_PLANE_OFFSET 24u /* u64: first byte from the start of the slot: a multiple of 64, at least slot_header_size */
#define FRAMELOOM_AT_PLANE_SIZE 32u /* u64: row_stride * height */

#define FRAMELOOM_KIND_COLOUR 1u
#define FRAMELOOM_KIND_DEPTH 2u
#define FRAMELOOM_KIND_MOTION 3u
#define FRAMELOOM_KIND_MASK 4u
#define FRAMELOOM_KIND_NORMAL 5u
#define FRAMELOOM_KIND_POINTS 6u

#define FRAMELOOM_FORMAT_RGBA8 1u
#define FRAMELOOM_FORMAT_BGRA8 2u
#define FRAMELOOM_FORMAT_RGB8 3u
#define FRAMELOOM_FORMAT_RGBA16F 4u
#define FRAMELOOM_FORMAT_RGBA32F 5u
#define FRAMELOOM_FORMAT_R16F 6u
#define FRAMELOOM_FORMAT_R32F 7u
#define FRAMELOOM_FORMAT_RG16F 8u
#define FRAMELOOM_FORMAT_R8 9u
#define FRAMELOOM_FORMAT_XYZI32F 10u

#define FRAMELOOM_ORIGIN_TOP_LEFT 0u
#define FRAMELOOM_ORIGIN_BOTTOM_LEFT 1u

#define FRAMELOOM_COLOUR_SPACE_SRGB 0u
#define FRAMELOOM_COLOUR_SPACE_LINEAR 1u

#define FRAMELOOM_POLICY_NEWEST 0u
#define FRAMELOOM_POLICY_LOSSLESS 1u

#define FRAMELOOM_STATE_NEW 0u
#define FRAMELOOM_STATE_LIVE 1u
#define FRAMELOOM_STATE_SUPERSEDED 2u
#define FRAMELOOM_STATE_CLOSED 3u

#define FRAMELOOM_READER_FREE 0u
#define FRAMELOOM_READER_NEWEST 1u
#define FRAMELOOM_READER_LOSSLESS 2u

#define FRAMELOOM_FLAG_NONE 0u
#define FRAMELOOM_FLAG_POSE 1u
#define FRAMELOOM_FLAG_INTRINSICS 2u

/* Initialisers: bytes per pixel by format; by kind a word whose bit f is set when format f is allowed. */
#define FRAMELOOM_BYTES_PER_PIXEL {0, 4, 4, 3, 8, 16, 2, 4, 4, 1, 16}
#define FRAMELOOM_ALLOWED_FORMATS {0x0u, 0x23eu, 0xc0u, 0x100u, 0x200u, 0x3au, 0x400u}

#endif
