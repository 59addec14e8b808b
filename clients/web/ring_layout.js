// Generated from bridge/page/packet.py by `python3 run.py generate`: change that file, not this one.
export const PACKET = Object.freeze({
  magic: "FLWS",
  version: 1,
  headerSize: 88,
  offset: Object.freeze({
    magic: 0, // char
    version: 4, // u32
    header_size: 8, // u32
    payload_size: 12, // u32
    sequence: 16, // u64
    source_frame_id: 24, // u64
    capture_ns: 32, // u64
    publish_ns: 40, // u64
    sent_ns: 48, // u64
    param_revision: 56, // u64
    generation: 64, // u64
    width: 72, // u32
    height: 76, // u32
    codec: 80, // u32
    flags: 84, // u32
  }),
  codec: Object.freeze({ JPEG: 1, RGBA8: 2, RGB8: 3 }),
  flag: Object.freeze({ CONVERTED: 1 }),
});
