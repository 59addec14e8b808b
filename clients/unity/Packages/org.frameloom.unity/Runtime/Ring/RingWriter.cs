// The writing end of a ring: one live writer per channel, no lock and no garbage in the frame path.
//
// The publication order is bridge/PROTOCOL.md section 6; SYNC POINT W1 to W5 below are its names and each meets the reader's point
// of the same number (RingReader.cs, bridge/ring/reader.py, frameloom.h).

using System;
using System.Security.Cryptography;
using System.Threading;

namespace Frameloom
{
    /// <summary>
    /// A slot being written without a copy: fill the planes' memory, set the fields, then `Publish` or `Abandon`. Belongs to its
    /// writer, which hands it out again later. Times in nanoseconds of the ring's clock.
    /// </summary>
    public sealed unsafe class SlotInHand
    {
        /// <summary>Where the planes lie; only the first PlaneCount are of this frame. Rows are tight.</summary>
        public readonly RingPlane[] Planes = new RingPlane[RingLayout.MaxPlanes];

        /// <summary>Camera to world, row-major 4x4, metres; used with SlotFlag.Pose in Flags.</summary>
        public readonly float[] WorldCamera = new float[16];

        /// <summary>fx, fy, cx, cy in pixels; used with SlotFlag.Intrinsics in Flags.</summary>
        public readonly float[] Intrinsics = new float[4];

        /// <summary>The writer's own number of this frame; 0: its sequence.</summary>
        public ulong FrameId;

        public ulong SourceFrameId;

        /// <summary>Clock time of the capture; the time of `Begin` unless set.</summary>
        public ulong CaptureNs;

        public ulong ParamRevision;
        public SlotFlag Flags;
        public Origin Origin;
        public ColourSpace ColourSpace;

        internal readonly RingWriter Writer;
        internal readonly RingMapping Mapping;
        internal readonly uint Slot;
        internal readonly byte* Start;
        internal long DataSize;

        public int PlaneCount { get; internal set; }

        /// <summary>True from `Begin` to `Publish` or `Abandon`.</summary>
        public bool Open { get; internal set; }

        internal SlotInHand(RingWriter writer, RingMapping mapping, uint slot, byte* start)
        {
            Writer = writer;
            Mapping = mapping;
            Slot = slot;
            Start = start;
        }

        /// <summary>
        /// Publish the frame; returns its sequence, or 0 when it came too late, because the writer was closed or has begun another
        /// generation meanwhile.
        /// </summary>
        public ulong Publish()
        {
            return Writer.Commit(this);
        }

        /// <summary>Give the slot up; harmless when it is not open.</summary>
        public void Abandon()
        {
            Writer.GiveUp(this);
        }
    }

    /// <summary>
    /// The one writer of a channel. A stale ring of a dead writer is taken over. One object serves one thread at a time.
    /// </summary>
    public sealed unsafe class RingWriter : IDisposable
    {
        public const long DefaultCapacityBytes = 512 * 512 * 4;
        public const long DefaultMaxCapacityBytes = 1 << 30;

        private const double NapS = 0.05;

        /// <summary>Rounds of looking for a slot while readers move their pins; there are fewer pins than slots.</summary>
        private const int Attempts = 1000;

        private readonly RingPlace place;
        private readonly int slots;
        private readonly Policy policy;
        private readonly double timeoutS;
        private readonly long maxCapacity;
        private RingLock writerLock;
        private RingLock generationLock;
        private bool segmentLost;
        private ulong lookAtNs;
        private readonly RingWake[] events = new RingWake[RingLayout.ReaderEntries];
        private readonly RingPlane[] planned = new RingPlane[RingLayout.MaxPlanes];
        private RingMapping mapping;
        private RingGeometry geometry;
        private SlotInHand[] hands;
        private RingWake wake;
        private RingWake progressWake;
        private RingLock readerLock;
        private RingLock olderReaderLock;
        private bool letGo;
        private uint newestSlot;

        /// <summary>
        /// capacityBytes: plane bytes that a slot holds at first; a larger frame makes the next generation, up to maxCapacityBytes.
        /// slots: 4 to 64; slots - 2 readers may hold views at once, and several slots may be in hand at once while readers leave
        /// room for it. directory: an existing folder for a file-backed ring instead of the system's usual place. timeoutS: how long
        /// a lossless writer waits for its reader. patienceS: how long to look again when the channel seems to be taken.
        /// Throws InvalidChannel-, WriterExists-, NoSpace- and AccessDeniedException.
        /// </summary>
        public RingWriter(
            string channel, long capacityBytes = DefaultCapacityBytes, int slots = (int)RingLayout.MinSlots,
            Policy policy = Policy.Newest, string directory = null, long maxCapacityBytes = DefaultMaxCapacityBytes,
            double timeoutS = 10, double patienceS = RingLock.PatienceS)
        {
            if (slots < RingLayout.MinSlots || slots > RingLayout.MaxSlots)
                throw new ArgumentOutOfRangeException(
                    nameof(slots), $"got {slots}; give {RingLayout.MinSlots} to {RingLayout.MaxSlots}");
            maxCapacity = Math.Max(capacityBytes, maxCapacityBytes);
            if (capacityBytes < 1 || maxCapacity > (long)RingLayout.MaxSegmentBytes / slots - 2 * RingLayout.Page)
                throw new ArgumentOutOfRangeException(
                    nameof(capacityBytes), $"got {capacityBytes}; give 1 up to {RingLayout.MaxSegmentBytes / (ulong)slots} in {slots} slots");
            this.slots = slots;
            this.policy = policy;
            this.timeoutS = timeoutS;
            place = new RingPlace(channel, directory);
            writerLock = place.WriterLock();
            bool opened = false;
            try
            {
                if (!writerLock.AcquirePatiently(patienceS))
                    throw new WriterExistsException(WhoWrites());
                RingMapping stale = MapStale(out RingGeometry staleGeometry);
                place.RemoveLeftovers(0);
                try
                {
                    OpenGeneration(capacityBytes, stale, staleGeometry);
                }
                catch (NoSpaceException)
                {
                    // Its memory is ours to give back: a killed writer must not need room for two rings to start again.
                    if (stale != null)
                        Retire(stale, staleGeometry, SegmentState.Closed);
                    OpenPatiently(capacityBytes);
                }
                opened = true;
            }
            finally
            {
                if (!opened)
                {
                    writerLock.Remove();
                    writerLock.Dispose();
                }
            }
        }

        /// <summary>Readers give the memory of a ring that is closed or dead back within moments.</summary>
        private void OpenPatiently(long capacityBytes)
        {
            ulong deadline = RingClock.NowNs + (ulong)(RingLock.PatienceS * 1e9);
            while (true)
            {
                try
                {
                    OpenGeneration(capacityBytes, null, new RingGeometry());
                    return;
                }
                catch (NoSpaceException) when (RingClock.NowNs < deadline)
                {
                    Thread.Sleep(10);
                }
            }
        }

        public string Channel => place.Channel;

        /// <summary>Sequence of the newest published frame; 0 before the first.</summary>
        public ulong Sequence { get; private set; }

        public ulong Generation => geometry.Generation;

        /// <summary>RingPlane bytes that a slot of the current generation holds.</summary>
        public long CapacityBytes => geometry.SlotStride - geometry.SlotHeaderSize;

        /// <summary>Bytes of the current generation.</summary>
        public long SegmentSize => geometry.SegmentSize;

        private string WhoWrites()
        {
            string pid = "unknown";
            try
            {
                if (place.ReadPointer(out RingPointer pointer))
                    pid = pointer.WriterPid.ToString();
            }
            catch (RingException)
            {
                // The record is damaged; the lock tells all the same that somebody lives.
            }
            return $"channel {Channel} already has a live writer (process {pid}); stop it or use another channel";
        }

        /// <summary>The segment that a dead writer left, if it is a sound one: its readers must be told where to go.</summary>
        private RingMapping MapStale(out RingGeometry found)
        {
            found = new RingGeometry();
            RingMapping.Found stale = null;
            try
            {
                if (!place.ReadPointer(out RingPointer pointer))
                    return null;
                // Readers of version 1.0 go by the lock of the channel, which is held again: they would take the last picture of the
                // dead writer for news.
                place.RemovePointer();
                stale = RingMapping.Peek(place, pointer, RingLayout.Header.Bytes);
                if (stale == null)
                    return null;
                found = RingGeometry.Check(place.SegmentName(pointer.Generation), stale.Head, pointer, stale.TrueSize);
                return stale.Map(place, found.SegmentSize);
            }
            catch (RingException)
            {
                if (stale != null)
                    stale.Drop();
                return null;
            }
        }

        private void OpenGeneration(long capacity, RingMapping previous, RingGeometry previousGeometry)
        {
            RingGeometry next = RingGeometry.Make(NewGeneration(), capacity, slots, Sequence + 1);
            RingMapping made = RingMapping.Create(place, next.Generation, next.SegmentSize);
            WriteHeader(made.Base, next);
            // Everything that may fail comes before the record: from there on this is the ring.
            RingLock itsLock = null, itsReader = null;
            bool announced = false;
            try
            {
                itsLock = place.GenerationLock(next.Generation);
                if (!itsLock.AcquirePatiently(RingLock.PatienceS))
                    throw new WriterExistsException(WhoWrites());
                // The newer lock tells whether the reader lives, the older whether it may still follow.
                if (policy == Policy.Lossless)
                    itsReader = place.ReaderLock(next.Generation, RingLayout.LosslessEntry, next.EntryAt(RingLayout.LosslessEntry));
                place.SwingPointer(next.Generation, (ulong)next.SegmentSize);
                announced = true;
            }
            finally
            {
                if (!announced)
                {
                    if (itsReader != null)
                        itsReader.Dispose();
                    if (itsLock != null)
                        itsLock.Dispose();
                    made.LetGo();
                    place.RemoveGeneration(next.Generation);
                }
            }
            if (policy == Policy.Lossless && mapping != null)
                FollowReader();
            readerLock = itsReader;
            RingLock left = generationLock;
            generationLock = itsLock;
            segmentLost = false;
            mapping = made;
            geometry = next;
            newestSlot = (uint)slots - 1;
            hands = new SlotInHand[slots];
            for (uint k = 0; k < slots; k++)
                hands[k] = new SlotInHand(this, made, k, made.Base + next.SlotAt(k));
            wake = place.NamedSection ? null : RingWake.For((uint*)(made.Base + RingLayout.Header.Wake), null);
            if (previous != null)
                Retire(previous, previousGeometry, SegmentState.Superseded);
            if (left != null)
            {
                left.Release();
                left.Dispose();
            }
            place.RemoveLeftovers(next.Generation);
            CloseEvents();
        }

        private bool RecordIsOurs()
        {
            try
            {
                return place.ReadPointer(out RingPointer pointer) && pointer.Generation == geometry.Generation;
            }
            catch (RingException)
            {
                return false;
            }
        }

        /// <summary>Twice a second: put back what somebody removed by hand, or leave when another writer has come in the meantime.</summary>
        private void LookAfterFiles()
        {
            lookAtNs = RingClock.NowNs + 500000000;
            if (!writerLock.Current())
            {
                RingLock again = place.WriterLock();
                if (!again.AcquirePatiently(RingLock.PatienceS))
                {
                    again.Dispose();
                    Dispose();
                    return;
                }
                writerLock.Dispose();
                writerLock = again;
            }
            // The next frame makes the next generation, then.
            segmentLost = !place.HasSegment(geometry.Generation);
            if (!segmentLost && !RecordIsOurs())
                place.SwingPointer(geometry.Generation, (ulong)geometry.SegmentSize);
        }

        private void LookSoon()
        {
            try
            {
                LookAfterFiles();
            }
            catch (RingException)
            {
                // The frame is published; what cannot be put back now is tried again in a second.
            }
        }

        private static ulong NewGeneration()
        {
            var random = new byte[8];
            using (RandomNumberGenerator source = RandomNumberGenerator.Create())
                source.GetBytes(random);
            return Math.Max(1, BitConverter.ToUInt64(random, 0));
        }

        private void WriteHeader(byte* header, RingGeometry g)
        {
            *(ulong*)(header + RingLayout.Header.Magic) = RingLayout.Magic;
            *(uint*)(header + RingLayout.Header.HeaderSize) = (uint)g.HeaderSize;
            *(ulong*)(header + RingLayout.Header.SegmentSize) = (ulong)g.SegmentSize;
            *(ulong*)(header + RingLayout.Header.Generation) = g.Generation;
            *(uint*)(header + RingLayout.Header.SlotCount) = g.SlotCount;
            *(uint*)(header + RingLayout.Header.SlotHeaderSize) = (uint)g.SlotHeaderSize;
            *(ulong*)(header + RingLayout.Header.SlotStride) = (ulong)g.SlotStride;
            *(ulong*)(header + RingLayout.Header.WriterPid) = RingPlace.ProcessId;
            *(ulong*)(header + RingLayout.Header.WriterStartNs) = RingClock.NowNs;
            *(uint*)(header + RingLayout.Header.Policy) = (uint)policy;
            *(uint*)(header + RingLayout.Header.ReaderTableOffset) = g.ReaderTableOffset;
            *(uint*)(header + RingLayout.Header.ReaderEntries) = RingLayout.ReaderEntries;
            *(uint*)(header + RingLayout.Header.ReaderStride) = RingLayout.Entry.Bytes;
            *(uint*)(header + RingLayout.Header.WaitingOffset) = g.WaitingOffset;
            *(ulong*)(header + RingLayout.Header.FirstSequence) = g.FirstSequence;
            byte[] name = System.Text.Encoding.UTF8.GetBytes(Channel);
            for (int i = 0; i < name.Length; i++)
                header[RingLayout.Header.Channel + i] = name[i];
            *(uint*)(header + RingLayout.Header.State) = (uint)SegmentState.Live;
            *(ulong*)(header + RingLayout.Header.HeartbeatNs) = RingClock.NowNs;
            Volatile.Write(ref *(uint*)(header + RingLayout.Header.Version), RingLayout.Version);
        }

        /// <summary>Tell the readers of a segment that nothing more will come in it, and let go of it.</summary>
        private void Retire(RingMapping old, RingGeometry oldGeometry, SegmentState state)
        {
            if (old.Whole)
            {
                var word = (uint*)(old.Base + RingLayout.Header.Wake);
                Volatile.Write(ref *(uint*)(old.Base + RingLayout.Header.State), (uint)state);
                Thread.MemoryBarrier();
                Volatile.Write(ref *word, *word + 1);
                for (uint i = 0; i < RingLayout.ReaderEntries; i++)
                {
                    string name = place.EventName(oldGeometry.Generation, "r" + i);
                    RingWake sleeper = RingWake.For(word, name);
                    sleeper.Wake();
                    sleeper.Close();
                    if (name == null)
                        break;
                }
            }
            old.LetGo();
        }

        private void CloseEvents()
        {
            for (int i = 0; i < events.Length; i++)
            {
                if (events[i] != null)
                    events[i].Close();
                events[i] = null;
            }
            if (progressWake != null)
                progressWake.Close();
            progressWake = null;
        }

        private ulong* SequenceOf(uint slot) => (ulong*)(mapping.Base + geometry.SlotAt(slot) + RingLayout.Slot.Sequence);

        private void CheckOpen()
        {
            if (!writerLock.Held)
                throw new RingClosedException(
                    $"channel {Channel}: this writer is closed, or another took the channel after its files had been removed; make a " +
                    "new one");
            if (!mapping.Whole)
                throw new TruncatedSegmentException($"channel {Channel}: its segment was cut by somebody; make a new writer");
        }

        /// <summary>
        /// Take a slot to write these planes into. Null when every slot is in hand, pinned or the newest, which can only be while
        /// another slot is in hand. A frame beyond the capacity begins a new generation; slots in hand are of the old one then and
        /// are not published any more. Throws InvalidFrame-, FrameTooLarge-, NoSpace-, ReaderTimeout- (lossless), TruncatedSegment-
        /// and RingClosedException.
        /// </summary>
        public SlotInHand Begin(PlaneSpec[] specs)
        {
            long size = RingPlanes.LayOut(specs, planned);
            CheckOpen();
            if (size > CapacityBytes || segmentLost)
            {
                if (size > maxCapacity)
                    throw new FrameTooLargeException(
                        $"a frame of {size} bytes is beyond the capacity of {maxCapacity}; write a smaller frame or give the writer a " +
                        "larger maxCapacityBytes");
                if (policy == Policy.Lossless)
                    AwaitRegistration();
                LookAfterFiles();
                CheckOpen();
                OpenGeneration(Math.Max(size, CapacityBytes), mapping, geometry);
            }
            if (!TakeSlot(out uint slot))
                return null;
            SlotInHand hand = hands[slot];
            hand.PlaneCount = specs.Length;
            hand.DataSize = size;
            for (int i = 0; i < specs.Length; i++)
            {
                hand.Planes[i] = planned[i];
                hand.Planes[i].Data = hand.Start + planned[i].Offset;
            }
            hand.FrameId = hand.SourceFrameId = hand.ParamRevision = 0;
            hand.CaptureNs = RingClock.NowNs;
            hand.Flags = SlotFlag.None;
            hand.Origin = Origin.TopLeft;
            hand.ColourSpace = ColourSpace.Srgb;
            hand.Open = true;
            mapping.Hold();
            return hand;
        }

        private bool Pinned(uint slot)
        {
            for (uint i = 1; i < geometry.PinEnd; i++)
                if (Volatile.Read(ref *(uint*)(mapping.Base + geometry.EntryAt(i) + RingLayout.Entry.Pin)) == slot + 1)
                    return true;
            return false;
        }

        /// <summary>Choose the least recently published slot that may be overwritten, and mark it as being written.</summary>
        private bool TakeSlot(out uint slot)
        {
            slot = 0;
            for (int i = 0; i < Attempts; i++)
            {
                ulong taken = policy == Policy.Lossless ? Taken() : ulong.MaxValue;
                ulong oldest = ulong.MaxValue;
                bool inHand = false;
                for (uint k = 0; k < slots; k++)
                {
                    inHand |= hands[k].Open;
                    ulong word = Volatile.Read(ref *SequenceOf(k));
                    if (k == newestSlot || hands[k].Open || word >> 1 > taken || word >= oldest || Pinned(k))
                        continue;
                    oldest = word;
                    slot = k;
                }
                if (oldest == ulong.MaxValue)
                {
                    if (inHand)
                        return false;
                    if (policy == Policy.Lossless)
                        AwaitReader(taken);
                    continue;
                }
                // Which of several slots in hand becomes the next frame shows at publication; until then any odd number will do.
                Volatile.Write(ref *SequenceOf(slot), 2 * Sequence + 1);
                // SYNC POINT W1: the odd sequence is visible before pins are looked at again and before any pixel changes. Meets R1:
                // either the reader's check sees it, or we see the pin.
                Thread.MemoryBarrier();
                if (!Pinned(slot))
                    return true;
                Volatile.Write(ref *SequenceOf(slot), oldest);
            }
            throw new InvalidOperationException($"channel {Channel}: readers break PROTOCOL.md and pin every slot; update or stop them");
        }

        internal void GiveUp(SlotInHand hand)
        {
            if (!hand.Open)
                return;
            hand.Open = false;
            if (hand.Mapping.Whole)
                Volatile.Write(ref *(ulong*)(hand.Start + RingLayout.Slot.Sequence), 0UL);
            hand.Mapping.LetGo();
        }

        internal ulong Commit(SlotInHand hand)
        {
            if (!hand.Open)
                throw new InvalidOperationException("this slot was published or abandoned already; Begin another");
            if (!writerLock.Held || hand.Mapping != mapping || !mapping.Whole)
            {
                GiveUp(hand);
                return 0;
            }
            ulong sequence = Sequence + 1, now = RingClock.NowNs;
            byte* start = hand.Start;
            *(ulong*)(start + RingLayout.Slot.FrameId) = hand.FrameId == 0 ? sequence : hand.FrameId;
            *(ulong*)(start + RingLayout.Slot.SourceFrameId) = hand.SourceFrameId;
            *(ulong*)(start + RingLayout.Slot.CaptureNs) = hand.CaptureNs;
            *(ulong*)(start + RingLayout.Slot.PublishNs) = now;
            *(ulong*)(start + RingLayout.Slot.ParamRevision) = hand.ParamRevision;
            *(uint*)(start + RingLayout.Slot.Flags) = (uint)hand.Flags;
            *(uint*)(start + RingLayout.Slot.Origin) = (uint)hand.Origin;
            *(uint*)(start + RingLayout.Slot.ColourSpace) = (uint)hand.ColourSpace;
            *(uint*)(start + RingLayout.Slot.PlaneCount) = (uint)hand.PlaneCount;
            *(ulong*)(start + RingLayout.Slot.DataSize) = (ulong)hand.DataSize;
            if ((hand.Flags & SlotFlag.Pose) != 0)
                for (int i = 0; i < 16; i++)
                    *(float*)(start + RingLayout.Slot.TWorldCamera + 4 * i) = hand.WorldCamera[i];
            if ((hand.Flags & SlotFlag.Intrinsics) != 0)
                for (int i = 0; i < 4; i++)
                    *(float*)(start + RingLayout.Slot.Intrinsics + 4 * i) = hand.Intrinsics[i];
            RingPlanes.WriteTable(start + RingLayout.PlaneTableOffset, hand.Planes, hand.PlaneCount);
            byte* header = mapping.Base;
            Volatile.Write(ref *(ulong*)(header + RingLayout.Header.HeartbeatNs), now);
            // SYNC POINT W2: pixels and description are visible before the even sequence. Meets R2.
            Volatile.Write(ref *(ulong*)(start + RingLayout.Slot.Sequence), 2 * sequence);
            // SYNC POINT W3: the even sequence before `newest`. Meets R3; a reader that sees them otherwise retries.
            Volatile.Write(ref *(ulong*)(header + RingLayout.Header.Newest), sequence << 8 | hand.Slot);
            Sequence = sequence;
            newestSlot = hand.Slot;
            // SYNC POINT W4: `newest` before the wake word. Meets R4.
            Volatile.Write(ref *(uint*)(header + RingLayout.Header.Wake), (uint)sequence);
            // SYNC POINT W5: the wake word before `waiting` is read. Meets R5: either we see a sleeper, or it sees the word.
            Thread.MemoryBarrier();
            WakeReaders((uint*)(header + geometry.WaitingOffset));
            hand.Open = false;
            hand.Mapping.LetGo();
            if (now >= lookAtNs)
                LookSoon();
            return sequence;
        }

        private void WakeReaders(uint* waiting)
        {
            for (uint i = 0; i < RingLayout.ReaderEntries; i++)
            {
                if (Volatile.Read(ref waiting[i]) == 0)
                    continue;
                if (wake != null)
                {
                    wake.Wake();
                    return;
                }
                if (events[i] == null)
                    events[i] = RingWake.For(null, place.EventName(geometry.Generation, "r" + i));
                events[i].Wake();
            }
        }

        private byte* LosslessEntry => mapping.Base + geometry.EntryAt(RingLayout.LosslessEntry);

        private bool ReaderRegistered =>
            Volatile.Read(ref *(uint*)(LosslessEntry + RingLayout.Entry.Kind)) == (uint)ReaderKind.Lossless;

        private bool ReaderCame => Volatile.Read(ref *(ulong*)(LosslessEntry + RingLayout.Entry.Pid)) != 0;

        /// <summary>Before a resize: keep the lock that the lossless reader holds until it has followed, if one ever came.</summary>
        private void FollowReader()
        {
            if (ReaderRegistered)
                letGo = false;
            if (!ReaderCame)
            {
                readerLock.Dispose();
                return;
            }
            if (olderReaderLock != null)
                olderReaderLock.Dispose();
            olderReaderLock = readerLock;
        }

        /// <summary>
        /// A reader goes straight to the newest generation, so one with frames must have been entered before the next is made.
        /// </summary>
        private void AwaitRegistration()
        {
            while (Sequence >= geometry.FirstSequence && !letGo && !ReaderRegistered)
                AwaitReader(geometry.FirstSequence - 1);
        }

        /// <summary>Newest sequence that may be overwritten under the lossless policy.</summary>
        private ulong Taken()
        {
            if (ReaderRegistered)
                return Volatile.Read(ref *(ulong*)(LosslessEntry + RingLayout.Entry.Taken));
            return letGo ? ulong.MaxValue : geometry.FirstSequence - 1;
        }

        /// <summary>
        /// Sleep until the lossless reader is further than `before`, leaves or dies; throws when it does nothing of that. `before` is
        /// what the search for a slot went by: a newer value would make us wait for a reader that has taken everything already.
        /// </summary>
        private void AwaitReader(ulong before)
        {
            var progress = (uint*)(LosslessEntry + RingLayout.Entry.Progress);
            var sleeping = (uint*)(mapping.Base + RingLayout.Header.WriterWaiting);
            if (progressWake == null)
                progressWake = RingWake.For(progress, place.EventName(geometry.Generation, "writer"));
            ulong deadline = RingClock.NowNs + (ulong)(timeoutS * 1e9);
            while (true)
            {
                uint seen = Volatile.Read(ref *progress);
                Volatile.Write(ref *sleeping, 1u);
                Thread.MemoryBarrier();
                if (Taken() != before)
                    break;
                // A reader that follows takes its new lock before it gives back the old one, so the old one is asked first.
                // Whether one came is read before its lock is tested: it takes the lock first.
                bool known = olderReaderLock != null || ReaderCame;
                bool alive = olderReaderLock != null && olderReaderLock.TakenElsewhere();
                alive |= readerLock.TakenElsewhere();
                if (known && !alive && readerLock.Acquire())
                {
                    // It died or left: let it go and write on; another may register later. Under its lock, lest that other one
                    // registers just now and is taken for the dead one.
                    Volatile.Write(ref *(uint*)(LosslessEntry + RingLayout.Entry.Kind), (uint)ReaderKind.Free);
                    readerLock.Release();
                    if (olderReaderLock != null)
                        olderReaderLock.Dispose();
                    olderReaderLock = null;
                    letGo = true;
                    break;
                }
                ulong now = RingClock.NowNs;
                if (now >= deadline)
                {
                    Volatile.Write(ref *sleeping, 0u);
                    throw new ReaderTimeoutException(
                        $"channel {Channel}: its lossless reader took nothing for {timeoutS} s; start or speed up that reader, or use " +
                        "the newest-wins policy");
                }
                progressWake.Wait(seen, Math.Min(NapS, (deadline - now) / 1e9));
                CheckOpen();
                if (now >= lookAtNs)
                {
                    LookSoon();
                    CheckOpen();
                }
            }
            Volatile.Write(ref *sleeping, 0u);
        }

        /// <summary>Refresh the heartbeat, for display, while there is nothing to write.</summary>
        public void Beat()
        {
            if (!writerLock.Held || !mapping.Whole)
                return;
            ulong now = RingClock.NowNs;
            Volatile.Write(ref *(ulong*)(mapping.Base + RingLayout.Header.HeartbeatNs), now);
            if (now >= lookAtNs)
                LookSoon();
        }

        /// <summary>
        /// Leave the channel: readers see the writer gone, the files are removed. Slots in hand stay mapped until they are given up.
        /// Harmless when closed already.
        /// </summary>
        public void Dispose()
        {
            if (!writerLock.Held)
                return;
            // Only what is ours: after somebody removed the files by hand another may write here.
            bool ours = writerLock.Current();
            Retire(mapping, geometry, SegmentState.Closed);
            if (RecordIsOurs())
                place.RemovePointer();
            place.RemoveGeneration(geometry.Generation);
            if (ours)
                place.RemoveLeftovers(0);
            CloseEvents();
            if (readerLock != null)
                readerLock.Dispose();
            if (olderReaderLock != null)
                olderReaderLock.Dispose();
            generationLock.Release();
            generationLock.Dispose();
            writerLock.Remove();
            writerLock.Dispose();
        }
    }
}
