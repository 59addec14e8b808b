// The checked, immutable part of a segment header. A reader decides everything from it and never reads those fields again.

using System;

namespace Frameloom
{
    internal struct RingGeometry
    {
        public ulong Generation;
        public long HeaderSize;
        public long SegmentSize;
        public uint SlotCount;
        public long SlotHeaderSize;
        public long SlotStride;
        public uint ReaderTableOffset;
        public uint WaitingOffset;
        public ulong FirstSequence;

        /// <summary>One above the last entry that may pin: two slots fewer than there are, so the writer is never stuck.</summary>
        public uint PinEnd => Math.Min(SlotCount - 1, RingLayout.ReaderEntries);

        public long EntryAt(uint index) => ReaderTableOffset + index * RingLayout.Entry.Bytes;

        public long SlotAt(uint slot) => HeaderSize + slot * SlotStride;

        public static RingGeometry Make(ulong generation, long capacity, int slots, ulong firstSequence)
        {
            var g = new RingGeometry
            {
                Generation = generation,
                HeaderSize = RingLayout.Header.Bytes,
                SlotCount = (uint)slots,
                SlotHeaderSize = RingLayout.Slot.Bytes,
                SlotStride = RingLayout.Slot.Bytes + RingPlanes.Align(capacity, RingLayout.Page),
                ReaderTableOffset = RingLayout.ReaderTableOffset,
                WaitingOffset = RingLayout.Header.Waiting,
                FirstSequence = firstSequence,
            };
            g.SegmentSize = g.HeaderSize + slots * g.SlotStride;
            return g;
        }

        /// <summary>
        /// Check untrusted header bytes (a private copy) against the record and the segment's true size. Throws NotARing-,
        /// VersionMismatch-, TruncatedSegment- or MalformedHeaderException.
        /// </summary>
        public static RingGeometry Check(string what, byte[] head, RingPointer pointer, long trueSize)
        {
            const string mend = "start the writer again";
            if (head.Length < 8 || BitConverter.ToUInt64(head, RingLayout.Header.Magic) != RingLayout.Magic)
                throw new NotARingException($"{what} is not a ring; remove it and {mend}");
            if (head.Length < RingLayout.Header.Bytes)
                throw new TruncatedSegmentException($"{what} has {head.Length} of {RingLayout.Header.Bytes} header bytes; {mend}");
            uint version = BitConverter.ToUInt32(head, RingLayout.Header.Version);
            if (version == 0)
                throw new VersionMismatchException($"{what} was never finished by its writer; {mend}");
            RingPlace.CheckVersion(what, version);
            ulong segmentSize = BitConverter.ToUInt64(head, RingLayout.Header.SegmentSize);
            ulong slotStride = BitConverter.ToUInt64(head, RingLayout.Header.SlotStride);
            uint headerSize = BitConverter.ToUInt32(head, RingLayout.Header.HeaderSize);
            uint slotHeaderSize = BitConverter.ToUInt32(head, RingLayout.Header.SlotHeaderSize);
            var g = new RingGeometry
            {
                Generation = BitConverter.ToUInt64(head, RingLayout.Header.Generation),
                SlotCount = BitConverter.ToUInt32(head, RingLayout.Header.SlotCount),
                ReaderTableOffset = BitConverter.ToUInt32(head, RingLayout.Header.ReaderTableOffset),
                WaitingOffset = BitConverter.ToUInt32(head, RingLayout.Header.WaitingOffset),
                FirstSequence = BitConverter.ToUInt64(head, RingLayout.Header.FirstSequence),
            };
            uint entries = BitConverter.ToUInt32(head, RingLayout.Header.ReaderEntries);
            uint entryStride = BitConverter.ToUInt32(head, RingLayout.Header.ReaderStride);
            uint policy = BitConverter.ToUInt32(head, RingLayout.Header.Policy);
            ulong tableEnd = (ulong)g.ReaderTableOffset + RingLayout.ReaderEntries * RingLayout.Entry.Bytes;
            ulong waitingEnd = (ulong)g.WaitingOffset + 4 * RingLayout.ReaderEntries;
            // Up to here words always lie in the same place; the rest of the header is where its offsets say.
            const uint fixedEnd = RingLayout.Header.Waiting;

            Refuse(g.Generation != pointer.Generation, what, $"generation {g.Generation:x16} under another name");
            Refuse(headerSize < RingLayout.Header.Bytes || headerSize % RingLayout.Page != 0, what, $"header size {headerSize}");
            Refuse(g.SlotCount < RingLayout.MinSlots || g.SlotCount > RingLayout.MaxSlots, what, $"{g.SlotCount} slots");
            Refuse(slotHeaderSize < RingLayout.Slot.Bytes || slotHeaderSize % RingLayout.Page != 0, what,
                $"slot header size {slotHeaderSize}");
            Refuse(slotStride <= slotHeaderSize || slotStride % RingLayout.Page != 0, what, $"slot stride {slotStride}");
            Refuse(segmentSize > RingLayout.MaxSegmentBytes || slotStride > segmentSize, what, $"segment size {segmentSize}");
            Refuse(segmentSize != headerSize + g.SlotCount * slotStride, what, "sizes that do not add up");
            Refuse(policy > (uint)Policy.Lossless, what, $"policy {policy}");
            Refuse(entries != RingLayout.ReaderEntries || entryStride != RingLayout.Entry.Bytes, what, "an unknown reader table");
            Refuse(g.ReaderTableOffset % RingLayout.Entry.Bytes != 0 || g.ReaderTableOffset < fixedEnd || tableEnd > headerSize, what,
                $"reader table at {g.ReaderTableOffset}");
            Refuse(g.WaitingOffset % 64 != 0 || g.WaitingOffset < fixedEnd || waitingEnd > headerSize, what,
                $"its waiting words at {g.WaitingOffset}");
            Refuse(g.ReaderTableOffset < waitingEnd && g.WaitingOffset < tableEnd, what, "a reader table over its waiting words");
            Refuse(g.FirstSequence == 0 || g.FirstSequence >> 56 != 0, what, $"first sequence {g.FirstSequence}");
            if ((ulong)trueSize < segmentSize)
                throw new TruncatedSegmentException($"{what} has {trueSize} bytes of memory, its header says {segmentSize}; {mend}");
            g.HeaderSize = headerSize;
            g.SegmentSize = (long)segmentSize;
            g.SlotHeaderSize = slotHeaderSize;
            g.SlotStride = (long)slotStride;
            return g;
        }

        /// <summary>Whether the writer had left in order when these header bytes were copied: such a ring has no news.</summary>
        public static bool IsClosed(byte[] head) =>
            BitConverter.ToUInt32(head, RingLayout.Header.State) == (uint)SegmentState.Closed;

        private static void Refuse(bool wrong, string what, string has)
        {
            if (wrong)
                throw new MalformedHeaderException($"{what} has {has}; start the writer again");
        }
    }
}
