// Generated from bridge/ring/layout.py by `python3 run.py generate`: change that file, not this one.
// Each constant of a nested class is a field's byte offset in its table; Bytes is the table's size.
// Should match with bridge/ring/layout.py, frameloom_layout.h and bridge/PROTOCOL.md.
using System;

namespace Frameloom
{
    public enum PlaneKind : uint
    {
        Colour = 1,
        Depth = 2,
        Motion = 3,
        Mask = 4,
        Normal = 5,
        Points = 6,
    }

    public enum PixelFormat : uint
    {
        RGBA8 = 1,
        BGRA8 = 2,
        RGB8 = 3,
        RGBA16F = 4,
        RGBA32F = 5,
        R16F = 6,
        R32F = 7,
        RG16F = 8,
        R8 = 9,
        XYZI32F = 10,
    }

    public enum Origin : uint
    {
        TopLeft = 0,
        BottomLeft = 1,
    }

    public enum ColourSpace : uint
    {
        Srgb = 0,
        Linear = 1,
    }

    public enum Policy : uint
    {
        Newest = 0,
        Lossless = 1,
    }

    public enum SegmentState : uint
    {
        New = 0,
        Live = 1,
        Superseded = 2,
        Closed = 3,
    }

    public enum ReaderKind : uint
    {
        Free = 0,
        Newest = 1,
        Lossless = 2,
    }

    [Flags]
    public enum SlotFlag : uint
    {
        None = 0,
        Pose = 1,
        Intrinsics = 2,
    }

    public static class RingLayout
    {
        public const uint VersionMajor = 1;
        public const uint Version = 65537;
        public const ulong Magic = 0x0a0d474e49524c46;
        public const ulong RecordMagic = 0x0a544e494f504c46;
        public const uint Page = 4096;
        public const uint PlaneAlignment = 64;
        public const uint PlaneTableOffset = 256;
        public const uint ReaderTableOffset = 2048;
        public const uint ReaderEntries = 16;
        public const uint LosslessEntry = 0;
        public const uint WriterLockOffset = 0;
        public const uint MinSlots = 4;
        public const uint MaxSlots = 64;
        public const uint MaxPlanes = 8;
        public const uint MaxChannelBytes = 48;
        public const uint MaxSide = 16777216;
        public const ulong MaxSegmentBytes = 0x0000010000000000;

        /// <summary>Bytes per pixel by the number of the format; 0 where there is no such format.</summary>
        public static readonly uint[] BytesPerPixel = { 0, 4, 4, 3, 8, 16, 2, 4, 4, 1, 16 };

        /// <summary>By the number of the kind: bit f is set when format f is allowed for it.</summary>
        public static readonly uint[] AllowedFormats = { 0x0, 0x23e, 0xc0, 0x100, 0x200, 0x3a, 0x400 };

        public static class Record
        {
            public const int Bytes = 64;
            public const int Magic = 0; // char[8]: the bytes 46 4c 50 4f 49 4e 54 0a: FLPOINT and a line feed
            public const int Version = 8; // u32: major << 16 | minor of the segment that it points to
            public const int RecordSize = 12; // u32: 64; a later minor version may be longer
            public const int Generation = 16; // u64: random and not zero; names the segment
            public const int SegmentSize = 24; // u64: bytes to map
            public const int WriterPid = 32; // u64: process id of the writer, for messages only
            public const int CreatedNs = 40; // u64: clock time at creation, for display
        }

        public static class Header
        {
            public const int Bytes = 4096;
            public const int Magic = 0; // char[8]: the bytes 46 4c 52 49 4e 47 0d 0a: FLRING, carriage return, line feed
            public const int Version = 8; // u32: major << 16 | minor; written last, 0 until then
            public const int HeaderSize = 12; // u32: bytes before slot 0: a multiple of 4096
            public const int SegmentSize = 16; // u64: header_size + slot_count * slot_stride
            public const int Generation = 24; // u64: random and not zero; equal to the record's
            public const int SlotCount = 32; // u32: 4 to 64
            public const int SlotHeaderSize = 36; // u32: bytes before the first plane of a slot: a multiple of 4096
            public const int SlotStride = 40; // u64: bytes from slot to slot: a multiple of 4096
            public const int WriterPid = 48; // u64: process id of the writer, for messages only
            public const int WriterStartNs = 56; // u64: clock time at creation, for display
            public const int Policy = 64; // u32: Policy
            public const int ReaderTableOffset = 68; // u32: first reader entry, from the start of the segment: a multiple of 64
            public const int ReaderEntries = 72; // u32: 16
            public const int ReaderStride = 76; // u32: 64
            public const int WaitingOffset = 80; // u32: first element of `waiting`: a multiple of 64
            public const int GpuTableOffset = 84; // u32: 0: no GPU slots are announced (reserved for a later minor version)
            public const int FirstSequence = 88; // u64: sequence of the first frame of this generation
            public const int Channel = 128; // char[64]: channel name, UTF-8, padded with zeros
            public const int Newest = 256; // u64: newest published sequence << 8 | its slot; 0: nothing published yet
            public const int State = 264; // u32: SegmentState
            public const int WriterWaiting = 268; // u32: 1 while a lossless writer sleeps on `progress` of entry 0
            public const int HeartbeatNs = 272; // u64: clock time of the newest sign of life, for display only
            public const int Wake = 384; // u32: changes with every publication and every change of `state`
            public const int Waiting = 448; // u32[16]: element i is 1 while the owner of entry i sleeps on `wake`
        }

        public static class Entry
        {
            public const int Bytes = 64;
            public const int Kind = 0; // u32: ReaderKind
            public const int Pin = 4; // u32: slot index + 1 that the writer must not touch; 0: none
            public const int Taken = 8; // u64: lossless: newest sequence that the reader has finished with
            public const int Progress = 16; // u32: lossless: changes whenever `taken` does; the writer may sleep on it
            public const int Pid = 24; // u64: process id of the newest owner; lossless: 0 as long as no reader ever came
        }

        public static class Slot
        {
            public const int Bytes = 4096;
            public const int Sequence = 0; // u64: 2 s: frame s is whole; 2 s - 1: frame s is being written; 0: empty
            public const int FrameId = 8; // u64: the writer's own number of this frame
            public const int SourceFrameId = 16; // u64: the client's number of the picture; a result repeats its input's; 0: none
            public const int CaptureNs = 24; // u64: clock time of the capture of the source
            public const int PublishNs = 32; // u64: clock time of publication
            public const int ParamRevision = 40; // u64: revision of the parameters that made this frame
            public const int Flags = 48; // u32: bits of SlotFlag; bits 16 to 31 are the application's own, the others 0
            public const int Origin = 52; // u32: Origin
            public const int ColourSpace = 56; // u32: ColourSpace
            public const int PlaneCount = 60; // u32: 1 to 8
            public const int DataSize = 64; // u64: bytes from the start of the first plane to the end of the last
            public const int TWorldCamera = 128; // f32[16]: camera to world, row-major 4x4, metres; with flag POSE
            public const int Intrinsics = 192; // f32[4]: fx, fy, cx, cy in pixels; with flag INTRINSICS
        }

        public static class Plane
        {
            public const int Bytes = 48;
            public const int Kind = 0; // u32: Kind; each at most once in a slot
            public const int Format = 4; // u32: Format
            public const int Width = 8; // u32: pixels per row, 1 to 2^24
            public const int Height = 12; // u32: rows, 1 to 2^24
            public const int RowStride = 16; // u64: bytes from row to row; at least width * bytes per pixel, a multiple of 4 or equal to it
            public const int Offset = 24; // u64: first byte from the start of the slot: a multiple of 64, at least slot_header_size
            public const int Size = 32; // u64: row_stride * height
        }
    }
}
