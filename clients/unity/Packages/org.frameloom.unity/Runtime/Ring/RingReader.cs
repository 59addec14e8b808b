// The reading end of a ring: any number per channel, none but the lossless one able to hold the writer up.
//
// The reading order is bridge/PROTOCOL.md section 7; SYNC POINT R1 to R5 below are its names and each meets the writer's point of
// the same number (RingWriter.cs, bridge/ring/writer.py, frameloom.h). Nothing in a segment is trusted: headers and plane tables
// are checked on private copies.

using System;
using System.Runtime.InteropServices;
using System.Threading;

namespace Frameloom
{
    /// <summary>
    /// One reader of a channel. It need not wait for the writer to exist and follows it over restarts and resizes. Everything is
    /// found lazily: the methods throw NotARing-, VersionMismatch-, TruncatedSegment-, MalformedHeader-, MalformedSlot-,
    /// AccessDenied-, NoSpace-, OutOfResources-, ReaderExists- (lossless) and RingClosedException; after each of them the next call looks afresh.
    /// One object serves one thread at a time.
    /// </summary>
    public sealed unsafe class RingReader : IDisposable
    {
        private const double LookS = 0.1;

        /// <summary>How often one call retries a frame that is overwritten meanwhile, before it reports nothing new.</summary>
        private const int Attempts = 200;

        private const int TableEnd = (int)(RingLayout.PlaneTableOffset + RingLayout.MaxPlanes * RingLayout.Plane.Bytes);

        private readonly RingPlace place;
        private readonly bool lossless;
        private readonly RingFrame frame = new RingFrame();
        private readonly byte* head;
        private byte* copy;
        private long copySize;
        private ulong known;
        private ulong left;
        private Attachment at;
        private Attachment heldAt;
        private ulong heldSequence;
        private uint heldSlot;
        private bool holding;
        private bool heldIsCopy;
        private ulong lookAtNs;
        private bool closed;

        /// <summary>
        /// lossless: register as the one lossless reader, which gets every frame in order; else every call gives the newest.
        /// directory: that of the writer where it has one. Throws InvalidChannelException.
        /// </summary>
        public RingReader(string channel, bool lossless = false, string directory = null)
        {
            place = new RingPlace(channel, directory);
            this.lossless = lossless;
            head = (byte*)Marshal.AllocHGlobal(TableEnd);
        }

        ~RingReader()
        {
            FreeMemory();
        }

        public string Channel => place.Channel;

        /// <summary>Generation that was mapped last; 0 before the first.</summary>
        public ulong Generation => known;

        /// <summary>What is known of the writer now. A slow or stopped writer is live; a killed one is gone at once.</summary>
        public WriterState State
        {
            get
            {
                Attachment now = Attached();
                if (now == null)
                    return known == 0 ? WriterState.NoWriter : WriterState.WriterGone;
                return Gone(now, now.State) ? WriterState.WriterGone : WriterState.Live;
            }
        }

        // Attaching and following

        /// <summary>Whether the writer of an attachment, whose `state` that was, writes no more.</summary>
        private bool Gone(Attachment now, SegmentState state)
        {
            if (state == SegmentState.Closed)
                return true;
            if (state != SegmentState.Superseded)
                return !now.WriterLock.TakenElsewhere();
            // It has gone on to what the record points to.
            if (!place.ReadPointer(out RingPointer pointer))
                return true;
            using (RingLock writer = place.LockOfWriter(pointer))
                return !writer.TakenElsewhere();
        }

        /// <summary>The attachment to read from now, following the writer to a newer generation where there is one.</summary>
        private Attachment Attached()
        {
            if (closed)
                throw new RingClosedException($"channel {Channel}: this reader is closed; make a new one");
            bool gone = false;
            if (at != null)
            {
                if (!at.Mapping.Whole)
                {
                    Detach();
                    throw new TruncatedSegmentException($"channel {Channel}: its segment was cut by somebody; start the writer again");
                }
                if (at.Newest >> 8 > at.Last)
                    return at;
                ulong now = RingClock.NowNs;
                SegmentState state = at.State;
                if (state == SegmentState.Live && now < lookAtNs)
                    return at;
                lookAtNs = now + (ulong)(LookS * 1e9);
                gone = Gone(at, state);
                // What was published before it left must not be lost by leaving, too.
                if (at.Newest >> 8 > at.Last)
                    return at;
            }
            Attachment next = AttachNewer();
            if (next == null && gone && at.Newest >> 8 <= at.Last)
            {
                // Its memory is given back: the next writer may need it, and nothing more comes in it.
                left = at.Geometry.Generation;
                Detach();
            }
            return next ?? at;
        }

        /// <summary>An attachment to what the record points to, in the place of `at`; null where that is nothing newer.</summary>
        private Attachment AttachNewer()
        {
            // What was left is not news, whoever holds the lock of the channel by now (all that version 1.0 has).
            if (!place.ReadPointer(out RingPointer pointer) || pointer.Generation == (at == null ? left : at.Geometry.Generation))
                return null;
            RingLock writer = place.LockOfWriter(pointer);
            Attachment next = null;
            try
            {
                // A dead writer's last picture is not news: nobody attaches to it. And frames published between our look at
                // `newest` and the retirement must not be lost by following.
                if (!writer.TakenElsewhere() || (at != null && at.Newest >> 8 > at.Last))
                    return null;
                RingMapping.Found found = RingMapping.Peek(place, pointer, RingLayout.Header.Bytes);
                if (found == null)
                    return null;
                RingGeometry geometry;
                try
                {
                    geometry = RingGeometry.Check(place.SegmentName(pointer.Generation), found.Head, pointer, found.TrueSize);
                }
                catch (RingException)
                {
                    found.Drop();
                    throw;
                }
                if (RingGeometry.IsClosed(found.Head))
                {
                    // Its writer is just leaving; we may have had all that is in it.
                    found.Drop();
                    return null;
                }
                next = new Attachment(place, found.Map(place, geometry.SegmentSize), geometry, writer);
            }
            finally
            {
                if (next == null)
                    writer.Dispose();
            }
            // Before the old entry is given back: the writer takes a moment without either for our death.
            if (lossless && !Register(next))
                return null;
            Detach();
            at = next;
            known = next.Geometry.Generation;
            lookAtNs = RingClock.NowNs + (ulong)(LookS * 1e9);
            return next;
        }

        /// <summary>Become the one lossless reader; false when the writer has left this generation meanwhile.</summary>
        private bool Register(Attachment next)
        {
            // The writer tests this lock, which takes it for a moment where a test cannot do otherwise.
            ulong deadline = RingClock.NowNs + 250000000;
            bool claimed = next.Claim(RingLayout.LosslessEntry, ReaderKind.Free);
            while (!claimed && next.State == SegmentState.Live && RingClock.NowNs < deadline)
            {
                Thread.Sleep(10);
                claimed = next.Claim(RingLayout.LosslessEntry, ReaderKind.Free);
            }
            SegmentState state = next.State;
            // One that follows the writer gives this entry back while we ask for it; its frames here are taken.
            // Without a file it is left, too, or was removed by hand.
            if (state == SegmentState.Superseded || (!claimed && (state != SegmentState.Live || !place.HasSegment(next.Geometry.Generation))))
            {
                next.Detach();
                return false;
            }
            if (!claimed)
            {
                next.Detach();
                throw new ReaderExistsException($"channel {Channel} already has a lossless reader; stop it or read newest-wins");
            }
            ulong oldest = ulong.MaxValue;
            for (uint k = 0; k < next.Geometry.SlotCount; k++)
            {
                ulong word = Volatile.Read(ref *next.SequenceOf(k));
                if (word != 0 && (word & 1) == 0)
                    oldest = Math.Min(oldest, word >> 1);
            }
            next.Last = (oldest == ulong.MaxValue ? next.Geometry.FirstSequence : oldest) - 1;
            byte* entry = next.Entry(RingLayout.LosslessEntry);
            Volatile.Write(ref *(ulong*)(entry + RingLayout.Entry.Taken), next.Last);
            Volatile.Write(ref *(uint*)(entry + RingLayout.Entry.Kind), (uint)ReaderKind.Lossless);
            return true;
        }

        private void Detach()
        {
            if (at != null)
                at.Detach();
            at = null;
        }

        // Waiting

        /// <summary>Sleep until a frame newer than the last one taken is there; false after `timeoutS` seconds without one.</summary>
        public bool Wait(double timeoutS)
        {
            return Ready() != null || Sleep(timeoutS) != null;
        }

        /// <summary>Where a newer frame can be read now, or null.</summary>
        private Attachment Ready()
        {
            Attachment now = Attached();
            return now != null && now.Newest >> 8 > now.Last ? now : null;
        }

        /// <summary>Where a newer frame can be read, as soon as there is one; null after `timeoutS` seconds.</summary>
        private Attachment Sleep(double timeoutS)
        {
            ulong deadline = RingClock.NowNs + (ulong)(Math.Max(0, timeoutS) * 1e9);
            int napMs = 1;
            for (ulong now = RingClock.NowNs; now < deadline; now = RingClock.NowNs)
            {
                double leftS = (deadline - now) / 1e9;
                if (at == null || at.State != SegmentState.Live)
                {
                    Thread.Sleep(Math.Min(napMs, (int)Math.Ceiling(leftS * 1000)));
                    napMs = Math.Min(10, napMs + 1);
                }
                else
                    at.SleepOnWake(Math.Min(leftS, LookS));
                Attachment ready = Ready();
                if (ready != null)
                    return ready;
            }
            return null;
        }

        // Finding a frame

        /// <summary>Sequence and slot of the frame to deliver next; false when there is nothing new.</summary>
        private bool Next(Attachment now, out ulong sequence, out uint slot)
        {
            ulong newest = now.Newest;
            sequence = newest >> 8;
            slot = (uint)(newest & 0xFF);
            if (sequence <= now.Last)
                return false;
            if (slot >= now.Geometry.SlotCount)
            {
                Detach();
                throw new MalformedHeaderException($"channel {Channel}: newest frame in slot {slot}; start the writer again");
            }
            if (!lossless)
                return true;
            for (uint k = 0; k < now.Geometry.SlotCount; k++)
            {
                ulong word = Volatile.Read(ref *now.SequenceOf(k));
                if ((word & 1) == 0 && word >> 1 > now.Last && word >> 1 < sequence)
                {
                    sequence = word >> 1;
                    slot = k;
                }
            }
            return true;
        }

        /// <summary>
        /// Read and check the description of a frame into `frame`, with planes that point into the slot; false when it is being
        /// overwritten. Throws MalformedSlotException for one that is whole and wrong; it counts as taken then.
        /// </summary>
        private bool Find(Attachment now, ulong sequence, uint slot)
        {
            byte* start = now.Mapping.Base + now.Geometry.SlotAt(slot);
            // SYNC POINT R3: `newest` was read before the slot's sequence; if they disagree, look again. Meets W3.
            // SYNC POINT R2: the even sequence is seen before anything it covers is read. Meets W2.
            if (Volatile.Read(ref *now.SequenceOf(slot)) != 2 * sequence)
                return false;
            Buffer.MemoryCopy(start, head, TableEnd, TableEnd);
            uint origin = *(uint*)(head + RingLayout.Slot.Origin), colours = *(uint*)(head + RingLayout.Slot.ColourSpace);
            uint count = *(uint*)(head + RingLayout.Slot.PlaneCount);
            string wrong = RingPlanes.Parse(
                head + RingLayout.PlaneTableOffset, count, now.Geometry.SlotHeaderSize, now.Geometry.SlotStride, frame.Planes);
            if (origin > (uint)Origin.BottomLeft || colours > (uint)ColourSpace.Linear)
                wrong = $"origin {origin}, colour space {colours}";
            if (!Intact(now, sequence, slot))
                return false;
            if (wrong != null)
            {
                Take(now, sequence);
                throw new MalformedSlotException(
                    $"channel {Channel}: malformed slot: {wrong}; the writer breaks PROTOCOL.md, update or restart it");
            }
            frame.PlaneCount = (int)count;
            for (int i = 0; i < frame.PlaneCount; i++)
                frame.Planes[i].Data = start + frame.Planes[i].Offset;
            frame.Sequence = sequence;
            frame.Generation = now.Geometry.Generation;
            frame.Describe(head);
            return true;
        }

        private static bool Intact(Attachment now, ulong sequence, uint slot)
        {
            // SYNC POINT R2, second half: what the sequence covers was read before the sequence is looked at again.
            Thread.MemoryBarrier();
            return Volatile.Read(ref *now.SequenceOf(slot)) == 2 * sequence;
        }

        private void Take(Attachment now, ulong sequence)
        {
            now.Last = sequence;
            if (lossless)
                now.Report();
        }

        // Reading

        /// <summary>
        /// A copy of the next frame, newer than the last one taken, or null when there is none within `timeoutS` seconds. It is good
        /// until the next call.
        /// </summary>
        public RingFrame Read(double timeoutS = 0)
        {
            return Copy(timeoutS, null, 0);
        }

        /// <summary>
        /// Copy the next frame's colour plane into `buffer` of `size` bytes, rows tight; the frame's one plane lies in it. Null when
        /// there is none within `timeoutS` seconds. Throws BufferMismatchException, without consuming the frame, when it does not fit
        /// or the frame has no colour plane.
        /// </summary>
        public RingFrame ReadInto(byte* buffer, long size, double timeoutS = 0)
        {
            if (buffer == null)
                throw new BufferMismatchException("no buffer; give memory for the colour plane");
            return Copy(timeoutS, buffer, size);
        }

        private RingFrame Copy(double timeoutS, byte* buffer, long size)
        {
            if (holding)
                throw new InvalidOperationException($"channel {Channel}: give the previous view back first");
            Attachment now = Ready() ?? (timeoutS > 0 ? Sleep(timeoutS) : null);
            if (now == null)
                return null;
            for (int i = 0; i < Attempts && Next(now, out ulong sequence, out uint slot); i++)
            {
                if (!Find(now, sequence, slot))
                    continue;
                if (buffer == null)
                    CopyPlanes();
                else
                    CopyColour(buffer, size);
                if (!Intact(now, sequence, slot))
                    continue;
                Take(now, sequence);
                return frame;
            }
            // A damaged ring may promise a frame that never comes; whoever asks in a loop must not spin.
            Thread.Sleep(1);
            return null;
        }

        private void CopyPlanes()
        {
            long needed = 0;
            for (int i = 0; i < frame.PlaneCount; i++)
                needed += RingPlanes.Align(frame.Planes[i].Size, RingLayout.PlaneAlignment);
            if (needed > copySize)
            {
                if (copy != null)
                    Marshal.FreeHGlobal((IntPtr)copy);
                copySize = 0;
                copy = null;
                try
                {
                    copy = (byte*)Marshal.AllocHGlobal((IntPtr)needed);
                }
                catch (OutOfMemoryException)
                {
                    throw new OutOfResourcesException($"no memory for a copy of {needed} bytes; close other programs, or use View");
                }
                copySize = needed;
            }
            long at = 0;
            for (int i = 0; i < frame.PlaneCount; i++)
            {
                long size = frame.Planes[i].Size;
                Buffer.MemoryCopy(frame.Planes[i].Data, copy + at, size, size);
                frame.Planes[i].Data = copy + at;
                at += RingPlanes.Align(size, RingLayout.PlaneAlignment);
            }
        }

        private void CopyColour(byte* buffer, long size)
        {
            if (!frame.TryPlane(PlaneKind.Colour, out RingPlane plane))
                throw new BufferMismatchException("this frame has no colour plane; use Read or View");
            long row = plane.RowBytes, needed = row * plane.Height;
            if (size < needed)
                throw new BufferMismatchException(
                    $"the colour plane, {plane.Width} x {plane.Height} {plane.Format}, needs {needed} bytes, the buffer has {size}");
            if (plane.RowStride == row)
                Buffer.MemoryCopy(plane.Data, buffer, size, needed);
            else
                for (long y = 0; y < plane.Height; y++)
                    Buffer.MemoryCopy(plane.Data + y * plane.RowStride, buffer + y * row, row, row);
            plane.Data = buffer;
            plane.RowStride = row;
            frame.Planes[0] = plane;
            frame.PlaneCount = 1;
        }

        /// <summary>
        /// The next frame without a copy, or null when there is none within `timeoutS` seconds: its planes are the ring itself,
        /// pinned, so that the writer leaves the slot alone until `GiveBack`. Do not write to them. When slots - 2 other readers own
        /// the entries that may pin, the planes are copies.
        /// </summary>
        public RingFrame View(double timeoutS = 0)
        {
            if (holding)
                throw new InvalidOperationException($"channel {Channel}: give the previous view back first");
            Attachment now = Ready() ?? (timeoutS > 0 ? Sleep(timeoutS) : null);
            if (now == null)
                return null;
            uint* pin = lossless ? null : now.PinWord();
            if (pin == null && !lossless)
            {
                RingFrame copied = Copy(0, null, 0);
                holding = heldIsCopy = copied != null;
                return copied;
            }
            bool found = false;
            // An exception detaches, and the pin must still be there to be taken back.
            now.Mapping.Hold();
            try
            {
                for (int i = 0; i < Attempts && !found && Next(now, out ulong sequence, out uint slot); i++)
                {
                    if (pin != null)
                    {
                        Volatile.Write(ref *pin, slot + 1);
                        // SYNC POINT R1: the pin is visible before the sequence is checked. Meets W1.
                        Thread.MemoryBarrier();
                    }
                    found = Find(now, sequence, slot);
                    heldSequence = sequence;
                    heldSlot = slot;
                }
            }
            finally
            {
                if (!found && pin != null)
                    Volatile.Write(ref *pin, 0u);
                if (!found)
                    now.Mapping.LetGo();
            }
            if (!found)
            {
                // As in `Copy`.
                Thread.Sleep(1);
                return null;
            }
            heldAt = now;
            holding = true;
            heldIsCopy = false;
            if (pin != null)
                now.Last = heldSequence;
            return frame;
        }

        /// <summary>
        /// End a view. True when the planes were whole to the end (they are, unless a writer breaks the protocol); harmless, and
        /// true, when there is none.
        /// </summary>
        public bool GiveBack()
        {
            if (!holding)
                return true;
            holding = false;
            if (heldIsCopy)
                return true;
            bool valid = heldAt.Mapping.Whole && Intact(heldAt, heldSequence, heldSlot);
            // Once detached, the entry is given back already and may be another reader's.
            if (heldAt == at && heldAt.Mapping.Whole)
            {
                if (lossless)
                    Take(heldAt, heldSequence);
                else
                    Volatile.Write(ref *heldAt.PinWord(), 0u);
            }
            heldAt.Mapping.LetGo();
            heldAt = null;
            return valid;
        }

        private void FreeMemory()
        {
            Marshal.FreeHGlobal((IntPtr)head);
            if (copy != null)
                Marshal.FreeHGlobal((IntPtr)copy);
            copy = null;
        }

        /// <summary>Let go of the ring; a view ends with it. Harmless when closed already.</summary>
        public void Dispose()
        {
            if (closed)
                return;
            GiveBack();
            Detach();
            closed = true;
            FreeMemory();
            GC.SuppressFinalize(this);
        }

        /// <summary>One mapped generation and this reader's entries in it.</summary>
        private sealed class Attachment
        {
            public readonly RingMapping Mapping;
            public readonly RingGeometry Geometry;
            public ulong Last;
            private readonly RingPlace place;
            private readonly RingLock[] held = new RingLock[RingLayout.ReaderEntries];
            private RingWake wake;
            private uint* waiting;
            private uint* pin;
            private bool pinSought;

            /// <summary>The lock that the writer of this generation holds.</summary>
            public readonly RingLock WriterLock;

            /// <summary>
            /// Whole sleeps in a row to whose end a frame came without a wake-up; some writers cannot wake. One alone may have ended
            /// just as the frame came.
            /// </summary>
            private int missedWakes;

            /// <summary>The writer woke us once, so it can.</summary>
            private bool wakes;

            public Attachment(RingPlace place, RingMapping mapping, RingGeometry geometry, RingLock writerLock)
            {
                WriterLock = writerLock;
                this.place = place;
                Mapping = mapping;
                Geometry = geometry;
            }

            public ulong Newest => Volatile.Read(ref *(ulong*)(Mapping.Base + RingLayout.Header.Newest));

            public SegmentState State => (SegmentState)Volatile.Read(ref *(uint*)(Mapping.Base + RingLayout.Header.State));

            public ulong* SequenceOf(uint slot) => (ulong*)(Mapping.Base + Geometry.SlotAt(slot) + RingLayout.Slot.Sequence);

            public byte* Entry(uint index) => Mapping.Base + Geometry.EntryAt(index);

            private uint* Waiting(uint index) => (uint*)(Mapping.Base + Geometry.WaitingOffset) + index;

            /// <summary>Own a reader entry: its lock is the ownership. False when another has it or the segment is gone.</summary>
            public bool Claim(uint index, ReaderKind kind)
            {
                RingLock entryLock = place.ReaderLock(Geometry.Generation, index, Geometry.EntryAt(index));
                if (!entryLock.Acquire())
                {
                    entryLock.Dispose();
                    return false;
                }
                held[index] = entryLock;
                byte* entry = Entry(index);
                // A dead owner may have left these set.
                Volatile.Write(ref *(uint*)(entry + RingLayout.Entry.Pin), 0u);
                Volatile.Write(ref *Waiting(index), 0u);
                Volatile.Write(ref *(ulong*)(entry + RingLayout.Entry.Pid), RingPlace.ProcessId);
                Volatile.Write(ref *(uint*)(entry + RingLayout.Entry.Kind), (uint)kind);
                return true;
            }

            /// <summary>Our pin word, or null when all entries that may pin are owned by others.</summary>
            public uint* PinWord()
            {
                if (pinSought)
                    return pin;
                for (uint index = 1; index < Geometry.PinEnd && pin == null; index++)
                    if (held[index] != null || Claim(index, ReaderKind.Newest))
                        pin = (uint*)(Entry(index) + RingLayout.Entry.Pin);
                pinSought = true;
                return pin;
            }

            private void ChooseWake()
            {
                var word = (uint*)(Mapping.Base + RingLayout.Header.Wake);
                for (uint index = RingLayout.ReaderEntries - 1; index >= 1 && waiting == null; index--)
                {
                    if (held[index] == null && !Claim(index, ReaderKind.Newest))
                        continue;
                    waiting = Waiting(index);
                    wake = RingWake.For(word, place.EventName(Geometry.Generation, "r" + index));
                }
                if (wake == null)
                    wake = RingWake.For(word, null);
            }

            /// <summary>Sleep until something may have been published, at most so many seconds.</summary>
            public void SleepOnWake(double timeoutS)
            {
                if (wake == null)
                    ChooseWake();
                // SYNC POINT R4: the wake word is read before `newest`, so that a publication in between makes the sleep return at
                // once. Meets W4.
                uint seen = Volatile.Read(ref *(uint*)(Mapping.Base + RingLayout.Header.Wake));
                if (waiting != null)
                    Volatile.Write(ref *waiting, 1u);
                // SYNC POINT R5: `waiting` is visible before the last look. Meets W5.
                Thread.MemoryBarrier();
                if (Newest >> 8 <= Last && State == SegmentState.Live)
                {
                    // Without an entry nobody is bound to wake us: sleep shortly, whatever the system offers.
                    bool trusted = waiting != null && (wakes || missedWakes < 2);
                    bool? woken = wake.Wait(seen, trusted ? timeoutS : Math.Min(timeoutS, 0.01));
                    // Cut while we slept, the ring has no words left to touch.
                    if (!Mapping.Whole)
                        return;
                    wakes |= waiting != null && woken == true;
                    bool changed = Volatile.Read(ref *(uint*)(Mapping.Base + RingLayout.Header.Wake)) != seen;
                    if (trusted && timeoutS >= LookS)
                        missedWakes = woken == false && changed ? missedWakes + 1 : 0;
                }
                if (waiting != null)
                    Volatile.Write(ref *waiting, 0u);
            }

            /// <summary>Tell a lossless writer how far we are.</summary>
            public void Report()
            {
                byte* entry = Entry(RingLayout.LosslessEntry);
                var progress = (uint*)(entry + RingLayout.Entry.Progress);
                Thread.MemoryBarrier();
                Volatile.Write(ref *(ulong*)(entry + RingLayout.Entry.Taken), Last);
                Volatile.Write(ref *progress, *progress + 1);
                Thread.MemoryBarrier();
                if (Volatile.Read(ref *(uint*)(Mapping.Base + RingLayout.Header.WriterWaiting)) != 0)
                {
                    RingWake writer = RingWake.For(progress, place.EventName(Geometry.Generation, "writer"));
                    writer.Wake();
                    writer.Close();
                }
            }

            /// <summary>Give the entries back. The memory stays mapped while somebody holds it.</summary>
            public void Detach()
            {
                for (uint index = 0; index < held.Length; index++)
                {
                    if (held[index] == null)
                        continue;
                    if (Mapping.Whole)
                    {
                        byte* entry = Entry(index);
                        Volatile.Write(ref *(uint*)(entry + RingLayout.Entry.Pin), 0u);
                        Volatile.Write(ref *Waiting(index), 0u);
                        Volatile.Write(ref *(uint*)(entry + RingLayout.Entry.Kind), (uint)ReaderKind.Free);
                    }
                    held[index].Release();
                    held[index].Dispose();
                    held[index] = null;
                }
                WriterLock.Dispose();
                if (wake != null)
                    wake.Close();
                Mapping.LetGo();
            }
        }
    }
}
