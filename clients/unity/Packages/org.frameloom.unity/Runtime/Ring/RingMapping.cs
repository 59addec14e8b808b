// Segments: creating, looking at and mapping them. Knows nothing of what a segment holds beyond its header's length.

using System;
using System.Threading;

namespace Frameloom
{
    /// <summary>
    /// A mapped segment. It is unmapped when its last holder lets go, never earlier: nobody pulls memory from under a running copy.
    /// </summary>
    internal sealed unsafe class RingMapping
    {
        public readonly byte* Base;
        public readonly long Size;
        private readonly bool view;
        private int fd;
        private IntPtr file = Kernel32.InvalidHandle;
        private IntPtr section;
        private int holders = 1;

        private RingMapping(byte* address, long size, int fd)
        {
            Base = address;
            Size = size;
            this.fd = fd;
        }

        private RingMapping(byte* address, long size, IntPtr section, IntPtr file)
        {
            Base = address;
            Size = size;
            view = true;
            fd = -1;
            this.section = section;
            this.file = file;
        }

        ~RingMapping()
        {
            Close();
        }

        /// <summary>False when somebody cut the file: touching the lost part would kill the process.</summary>
        public bool Whole => fd < 0 || Libc.Seek(fd, 0, Libc.SeekEnd) >= Size;

        public void Hold()
        {
            Interlocked.Increment(ref holders);
        }

        public void LetGo()
        {
            if (Interlocked.Decrement(ref holders) == 0)
            {
                Close();
                GC.SuppressFinalize(this);
            }
        }

        private void Close()
        {
            if (view)
            {
                Kernel32.UnmapViewOfFile((IntPtr)Base);
                Kernel32.CloseHandle(section);
                if (file != Kernel32.InvalidHandle)
                    Kernel32.CloseHandle(file);
                return;
            }
            Libc.Unmap((IntPtr)Base, (UIntPtr)(ulong)Size);
            if (fd >= 0)
                Libc.Close(fd);
            fd = -1;
        }

        /// <summary>A new segment of zero bytes, for its owner only, with memory behind it. Throws NoSpaceException.</summary>
        public static RingMapping Create(RingPlace place, ulong generation, long size)
        {
            if (RingPlace.Windows)
                return CreateOnWindows(place, generation, size);
            string path = place.SegmentPath(generation);
            int fd = Libc.Open(path, Libc.ReadWrite | Libc.Create | Libc.Exclusive | Libc.NoFollow);
            if (fd < 0)
                throw RingPlace.AccessError(path, Libc.LastError);
            // Memory that exists now is an error here when there is none, and not a crash at the first touch later.
            int error = Libc.Linux ? Libc.Allocate(fd, 0, size) : FillWithZeros(fd, size);
            if (error == 0 && Libc.Status(fd, null, out FileStatus status) && status.TrueSize < size)
                error = Libc.ErrorNoSpace;
            IntPtr address = error != 0 ? (IntPtr)(-1) : MapFile(fd, size);
            if (address == (IntPtr)(-1))
            {
                error = error != 0 ? error : Libc.LastError;
                Libc.Close(fd);
                Libc.Unlink(path);
                throw NoSpace(
                    place, size, Libc.ErrorText(error),
                    error == Libc.ErrorFileTooBig ? "raise the file size limit (ulimit -f)"
                        : "free some room there, or give another folder");
            }
            return new RingMapping((byte*)address, size, fd);
        }

        private static NoSpaceException NoSpace(RingPlace place, long size, string text, string fix)
        {
            string where = place.NamedSection ? "the page file" : place.Folder;
            string mebibytes = (size / 1048576.0).ToString("0.0", System.Globalization.CultureInfo.InvariantCulture);
            return new NoSpaceException(
                $"no room for a segment of {mebibytes} MiB in {where} ({text}); {fix}, use fewer slots or smaller frames");
        }

        private static int FillWithZeros(int fd, long size)
        {
            var zeros = new byte[1 << 20];
            for (long at = 0; at < size; at += zeros.Length)
            {
                if (size - at < zeros.Length)
                    zeros = new byte[size - at];
                if (!Libc.WriteAll(fd, zeros))
                    return Libc.LastError;
            }
            return 0;
        }

        private static IntPtr MapFile(int fd, long size)
        {
            int flags = Libc.MapShared;
            // Only memory that exists already: populating a sparse file would allocate it.
            if (Libc.Linux && Libc.Status(fd, null, out FileStatus status) && status.TrueSize >= size)
                flags |= Libc.MapPopulate;
            return Libc.Map(IntPtr.Zero, (UIntPtr)(ulong)size, Libc.ProtectReadWrite, flags, fd, 0);
        }

        /// <summary>
        /// Look at a segment: its first bytes as private memory, which cannot change after it was checked, and its true size.
        /// Null when it is gone. `Map` what was found, or `Drop` it.
        /// </summary>
        public static Found Peek(RingPlace place, RingPointer pointer, int count)
        {
            if (RingPlace.Windows)
                return PeekOnWindows(place, pointer, count);
            string path = place.SegmentPath(pointer.Generation);
            int fd = Libc.Open(path, Libc.ReadWrite | Libc.NoFollow);
            if (fd < 0)
            {
                if (Libc.LastError == Libc.ErrorNoEntry)
                    return null;
                throw RingPlace.AccessError(path, Libc.LastError);
            }
            var found = new Found { Fd = fd, Head = new byte[count] };
            try
            {
                if (!Libc.Status(fd, null, out FileStatus status))
                    throw RingPlace.AccessError(path, Libc.LastError);
                RingPlace.CheckFile(path, status);
                found.TrueSize = status.TrueSize;
                Array.Resize(ref found.Head, Math.Max(0, Libc.Read(fd, found.Head)));
                return found;
            }
            catch (RingException)
            {
                found.Drop();
                throw;
            }
        }

        /// <summary>A segment that was looked at and is not mapped for use yet.</summary>
        public sealed class Found
        {
            public byte[] Head;
            public long TrueSize;
            internal int Fd = -1;
            internal RingMapping Mapped;

            public void Drop()
            {
                if (Fd >= 0)
                    Libc.Close(Fd);
                if (Mapped != null)
                    Mapped.LetGo();
                Fd = -1;
                Mapped = null;
            }

            /// <summary>Map `size` bytes, which the caller checked against the true size.</summary>
            public RingMapping Map(RingPlace place, long size)
            {
                if (Mapped != null)
                    return Mapped;
                IntPtr address = MapFile(Fd, size);
                if (address == (IntPtr)(-1))
                {
                    int error = Libc.LastError;
                    Drop();
                    throw NoSpace(place, size, Libc.ErrorText(error), "free some memory");
                }
                return new RingMapping((byte*)address, size, Fd);
            }
        }

        // Windows

        private static RingMapping CreateOnWindows(RingPlace place, ulong generation, long size)
        {
            IntPtr file = Kernel32.InvalidHandle;
            if (!place.NamedSection)
                file = OpenFile(place.SegmentPath(generation), Kernel32.CreateNew);
            string name = place.NamedSection ? "Local\\" + place.SegmentName(generation) : null;
            IntPtr section = Kernel32.CreateFileMapping(
                file, IntPtr.Zero, Kernel32.PageReadWrite, (uint)(size >> 32), (uint)size, name);
            RingMapping mapping = section == IntPtr.Zero ? null : View(section, file, size);
            if (mapping == null)
            {
                string text = Kernel32.ErrorText(Kernel32.LastError);
                if (file != Kernel32.InvalidHandle)
                    Kernel32.CloseHandle(file);
                throw NoSpace(place, size, text, "free some room there");
            }
            for (long at = 0; at < size; at += RingLayout.Page)
                mapping.Base[at] = 0;
            return mapping;
        }

        private static RingMapping View(IntPtr section, IntPtr file, long size)
        {
            IntPtr address = Kernel32.MapViewOfFile(section, Kernel32.MapAllAccess, 0, 0, (UIntPtr)(ulong)size);
            if (address == IntPtr.Zero)
            {
                Kernel32.CloseHandle(section);
                return null;
            }
            return new RingMapping((byte*)address, size, section, file);
        }

        private static IntPtr OpenFile(string path, uint disposition)
        {
            IntPtr file = Kernel32.CreateFile(
                path, Kernel32.GenericReadWrite, Kernel32.ShareAll, IntPtr.Zero, disposition, 0, IntPtr.Zero);
            if (file == Kernel32.InvalidHandle && Kernel32.LastError != Kernel32.ErrorFileNotFound)
                throw RingPlace.AccessError(path, Kernel32.LastError);
            return file;
        }

        private static Found PeekOnWindows(RingPlace place, RingPointer pointer, int count)
        {
            IntPtr file = Kernel32.InvalidHandle, section;
            long size = (long)pointer.SegmentSize;
            string name = "Local\\" + place.SegmentName(pointer.Generation);
            if (place.NamedSection)
            {
                section = Kernel32.OpenFileMapping(Kernel32.MapAllAccess, 0, name);
                if (section == IntPtr.Zero)
                    return null;
            }
            else
            {
                name = place.SegmentPath(pointer.Generation);
                file = OpenFile(name, Kernel32.OpenExisting);
                if (file == Kernel32.InvalidHandle)
                    return null;
                Kernel32.GetFileSize(file, out size);
                section = Kernel32.CreateFileMapping(file, IntPtr.Zero, Kernel32.PageReadWrite, 0, 0, null);
            }
            // A view of the record's size is refused when the section is shorter, so this size is a true one.
            RingMapping mapping = section == IntPtr.Zero ? null : View(section, file, size);
            if (mapping == null || size < count)
            {
                if (mapping != null)
                    mapping.LetGo();
                else if (file != Kernel32.InvalidHandle)
                    Kernel32.CloseHandle(file);
                throw new TruncatedSegmentException($"{name} is shorter than its record says; start the writer again");
            }
            var found = new Found { Mapped = mapping, TrueSize = size, Head = new byte[count] };
            System.Runtime.InteropServices.Marshal.Copy((IntPtr)mapping.Base, found.Head, 0, count);
            return found;
        }
    }
}
