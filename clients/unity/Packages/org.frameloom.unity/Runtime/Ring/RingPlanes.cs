// Planes of a slot: from sizes to plane tables, and from untrusted plane tables to checked planes. Knows formats and bytes;
// nothing of sequences, processes or files.

using System.Collections.Generic;

namespace Frameloom
{
    /// <summary>One plane to write: what it shows, how it is stored, width and height in pixels (1 to 2^24).</summary>
    public struct PlaneSpec
    {
        public readonly PlaneKind Kind;
        public readonly PixelFormat Format;
        public readonly int Width;
        public readonly int Height;

        public PlaneSpec(PlaneKind kind, PixelFormat format, int width, int height)
        {
            Kind = kind;
            Format = format;
            Width = width;
            Height = height;
        }
    }

    /// <summary>
    /// One plane of a frame. `Data` points into the ring (a view, good until it is given back) or into the reader's copy; rows are
    /// `RowStride` bytes apart. `Offset` is where it lies in its slot.
    /// </summary>
    public unsafe struct RingPlane
    {
        public PlaneKind Kind;
        public PixelFormat Format;
        public int Width;
        public int Height;
        public long RowStride;
        public long Offset;
        public byte* Data;

        public long Size => RowStride * Height;

        public long RowBytes => (long)Width * RingLayout.BytesPerPixel[(uint)Format];
    }

    internal static unsafe class RingPlanes
    {
        private static bool Allowed(uint kind, uint format)
        {
            return kind < RingLayout.AllowedFormats.Length && format < 32 && (RingLayout.AllowedFormats[kind] >> (int)format & 1) != 0;
        }

        private static string FormatsOf(PlaneKind kind)
        {
            var names = new List<string>();
            for (uint format = 1; format < RingLayout.BytesPerPixel.Length; format++)
                if (Allowed((uint)kind, format))
                    names.Add(((PixelFormat)format).ToString());
            return string.Join(", ", names.ToArray());
        }

        /// <summary>
        /// Positions of the planes, rows tight, each on a multiple of 64 bytes; returns the bytes of plane data in all. Throws
        /// InvalidFrameException.
        /// </summary>
        public static long LayOut(PlaneSpec[] specs, RingPlane[] planes)
        {
            if (specs == null || specs.Length < 1 || specs.Length > RingLayout.MaxPlanes)
                throw new InvalidFrameException(
                    $"a frame has 1 to {RingLayout.MaxPlanes} planes, got {(specs == null ? 0 : specs.Length)}");
            long at = RingLayout.Slot.Bytes;
            for (int i = 0; i < specs.Length; i++)
            {
                PlaneSpec spec = specs[i];
                for (int j = 0; j < i; j++)
                    if (specs[j].Kind == spec.Kind)
                        throw new InvalidFrameException(
                            $"a frame has each kind of plane at most once; merge or drop the second {spec.Kind}");
                if (!Allowed((uint)spec.Kind, (uint)spec.Format))
                    throw new InvalidFrameException($"{spec.Kind} planes are {FormatsOf(spec.Kind)}, not {spec.Format}");
                if (spec.Width < 1 || spec.Height < 1 || spec.Width > RingLayout.MaxSide || spec.Height > RingLayout.MaxSide)
                    throw new InvalidFrameException(
                        $"{spec.Kind}: {spec.Width} x {spec.Height} pixels; each side must be 1 to {RingLayout.MaxSide}");
                at = Align(at, RingLayout.PlaneAlignment);
                planes[i] = new RingPlane
                {
                    Kind = spec.Kind,
                    Format = spec.Format,
                    Width = spec.Width,
                    Height = spec.Height,
                    RowStride = (long)spec.Width * RingLayout.BytesPerPixel[(uint)spec.Format],
                    Offset = at,
                };
                at += planes[i].Size;
            }
            return at - RingLayout.Slot.Bytes;
        }

        public static long Align(long value, long to)
        {
            return (value + to - 1) / to * to;
        }

        public static void WriteTable(byte* table, RingPlane[] planes, int count)
        {
            for (int i = 0; i < count; i++, table += RingLayout.Plane.Bytes)
            {
                *(uint*)(table + RingLayout.Plane.Kind) = (uint)planes[i].Kind;
                *(uint*)(table + RingLayout.Plane.Format) = (uint)planes[i].Format;
                *(uint*)(table + RingLayout.Plane.Width) = (uint)planes[i].Width;
                *(uint*)(table + RingLayout.Plane.Height) = (uint)planes[i].Height;
                *(ulong*)(table + RingLayout.Plane.RowStride) = (ulong)planes[i].RowStride;
                *(ulong*)(table + RingLayout.Plane.Offset) = (ulong)planes[i].Offset;
                *(ulong*)(table + RingLayout.Plane.Size) = (ulong)planes[i].Size;
            }
        }

        /// <summary>
        /// Check an untrusted plane table (private bytes) against the slot that holds it. Null and the planes filled in when it is
        /// sound, else what is wrong with it.
        /// </summary>
        public static string Parse(byte* table, uint count, long slotHeaderSize, long slotStride, RingPlane[] planes)
        {
            if (count < 1 || count > RingLayout.MaxPlanes)
                return $"{count} planes";
            for (int i = 0; i < count; i++, table += RingLayout.Plane.Bytes)
            {
                uint kind = *(uint*)(table + RingLayout.Plane.Kind), format = *(uint*)(table + RingLayout.Plane.Format);
                uint width = *(uint*)(table + RingLayout.Plane.Width), height = *(uint*)(table + RingLayout.Plane.Height);
                ulong stride = *(ulong*)(table + RingLayout.Plane.RowStride);
                ulong offset = *(ulong*)(table + RingLayout.Plane.Offset);
                ulong size = *(ulong*)(table + RingLayout.Plane.Size);
                if (!Allowed(kind, format))
                    return $"plane kind {kind} with format {format} is unknown";
                if (width < 1 || height < 1 || width > RingLayout.MaxSide || height > RingLayout.MaxSide)
                    return $"{(PlaneKind)kind} is {width} x {height} pixels";
                ulong row = (ulong)width * RingLayout.BytesPerPixel[format];
                // A stride beyond the slot is refused before it is multiplied, which it could overflow.
                if (stride < row || (stride != row && stride % 4 != 0) || stride > (ulong)slotStride || size != stride * height)
                    return $"{(PlaneKind)kind} has row stride {stride} and size {size} for rows of {row} bytes";
                if (offset % RingLayout.PlaneAlignment != 0 || offset < (ulong)slotHeaderSize || offset > (ulong)slotStride ||
                    size > (ulong)slotStride - offset)
                    return $"{(PlaneKind)kind} lies at {offset} with {size} bytes in a slot of {slotStride}";
                for (int j = 0; j < i; j++)
                {
                    if (planes[j].Kind == (PlaneKind)kind)
                        return $"two planes of kind {(PlaneKind)kind}";
                    if ((long)offset < planes[j].Offset + planes[j].Size && planes[j].Offset < (long)(offset + size))
                        return $"{(PlaneKind)kind} overlaps another plane";
                }
                planes[i] = new RingPlane
                {
                    Kind = (PlaneKind)kind,
                    Format = (PixelFormat)format,
                    Width = (int)width,
                    Height = (int)height,
                    RowStride = (long)stride,
                    Offset = (long)offset,
                };
            }
            return null;
        }
    }
}
