// Where a ring's bytes live on each system: names, and the rendezvous record (PROTOCOL.md sections 1 and 2).

using System;
using System.IO;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using System.Threading;

namespace Frameloom
{
    /// <summary>What the rendezvous record says.</summary>
    internal struct RingPointer
    {
        public ulong Generation;
        public ulong SegmentSize;
        public ulong WriterPid;

        /// <summary>Minor version of the segment.</summary>
        public uint Minor;
    }

    /// <summary>The names of one channel.</summary>
    internal sealed class RingPlace
    {
        private static readonly Regex ChannelName = new Regex(@"\A[A-Za-z0-9][A-Za-z0-9._-]*\z");
        public static readonly bool Windows = RuntimeInformation.IsOSPlatform(OSPlatform.Windows);

        public readonly string Channel;
        private readonly string folder;
        private readonly string prefix;

        /// <summary>Whether segments are named sections (Windows) instead of files.</summary>
        public readonly bool NamedSection;

        /// <summary>An explicit directory makes a file-backed ring there, without a user in its names.</summary>
        public RingPlace(string channel, string directory)
        {
            if (channel == null || channel.Length > RingLayout.MaxChannelBytes || !ChannelName.IsMatch(channel))
            {
                string shown = channel == null ? "" : channel.Substring(0, Math.Min(channel.Length, 60));
                throw new InvalidChannelException(
                    $"channel '{shown}': use 1 to {RingLayout.MaxChannelBytes} letters, digits, dots, dashes or underscores, " +
                    "the first a letter or digit");
            }
            if (!BitConverter.IsLittleEndian)
                throw new NotARingException("rings are little-endian; this machine is not, use a network transport instead");
            Channel = channel;
            NamedSection = Windows && directory == null;
            if (directory != null)
            {
                folder = directory;
                prefix = "frameloom-" + channel;
                return;
            }
            if (Windows)
            {
                folder = Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData), "frameloom");
                Directory.CreateDirectory(folder);
            }
            else
                folder = Libc.Linux ? "/dev/shm" : Path.GetTempPath();
            string user = Windows ? Regex.Replace(Environment.UserName, "[^A-Za-z0-9]", "_") : Libc.UserId().ToString();
            prefix = "frameloom-" + user + "-" + channel;
        }

        public string Folder => folder;

        public string RecordPath => Path.Combine(folder, prefix + ".ring");

        public string LockPath => Path.Combine(folder, prefix + ".lock");

        public string SegmentPath(ulong generation) => Path.Combine(folder, SegmentName(generation) + ".seg");

        /// <summary>Without folder and ending; on Windows behind "Local\".</summary>
        public string SegmentName(ulong generation) => prefix + "-" + generation.ToString("x16");

        /// <summary>Name of the Windows event on which "r0" to "r15" or "writer" sleeps; null where there are none.</summary>
        public string EventName(ulong generation, string who) =>
            NamedSection ? "Local\\" + SegmentName(generation) + "-" + who + "-wake" : null;

        public RingLock WriterLock()
        {
            if (NamedSection)
                return new NamedMutexLock("Local\\" + prefix + "-writer");
            if (Windows)
                return new LockedByte(LockPath, 0, true);
            return Libc.Linux ? (RingLock)new ByteLock(LockPath, 0, true) : new WholeFileLock(LockPath);
        }

        /// <summary>The lock that the writer of this generation holds while it lives.</summary>
        public RingLock GenerationLock(ulong generation) => LockIn(generation, "w", "writer", RingLayout.WriterLockOffset);

        /// <summary>The lock that tells whether the writer of what a record points to lives.</summary>
        public RingLock LockOfWriter(RingPointer pointer)
        {
            // Version 1.0 knew the lock of the channel only, which the next writer of a dead ring holds, too.
            return pointer.Minor >= 1 ? GenerationLock(pointer.Generation) : WriterLock();
        }

        /// <summary>The lock of the owner of reader entry `index`, which lies at byte `offset` of the segment.</summary>
        public RingLock ReaderLock(ulong generation, uint index, long offset) => LockIn(generation, "r" + index, "r" + index, offset);

        private RingLock LockIn(ulong generation, string ending, string name, long offset)
        {
            if (NamedSection)
                return new NamedMutexLock("Local\\" + SegmentName(generation) + "-" + name);
            string path = SegmentPath(generation);
            if (Windows)
                return Kernel32.IsWine ? new LockedByte(path, offset, false) : new LockedByte(path + "." + ending, 0, true);
            return Libc.Linux ? (RingLock)new ByteLock(path, offset, false) : new WholeFileLock(path + "." + ending);
        }

        /// <summary>The error to throw for a failed open.</summary>
        public static RingException AccessError(string path, int error)
        {
            string text = Windows ? Kernel32.ErrorText(error) : Libc.ErrorText(error);
            bool denied = Windows
                ? error == Kernel32.ErrorAccessDenied || error == Kernel32.ErrorSharingViolation
                : error == Libc.ErrorAccess || error == Libc.ErrorPermission || error == Libc.ErrorLoop ||
                    error == Libc.ErrorIsADirectory;
            bool missing = Windows
                ? error == Kernel32.ErrorFileNotFound || error == Kernel32.ErrorPathNotFound
                : error == Libc.ErrorNoEntry || error == Libc.ErrorNotADirectory;
            if (!Windows && (error == Libc.ErrorTooManyFiles || error == Libc.ErrorFileTableFull))
                return new OutOfResourcesException($"{path}: {text}; close some files or raise the limit (ulimit -n)");
            if (!Windows && (error == Libc.ErrorNoSpace || error == Libc.ErrorQuota))
                return new NoSpaceException($"{path}: {text}; free some room there");
            // A socket; a pipe that nobody reads says so, too.
            if (!Windows && error == Libc.ErrorNoDevice)
                return new NotARingException($"{path} is not a file; remove it and start the writer again");
            if (missing)
                return new AccessDeniedException($"{path}: {text}; make the folder first or give an existing one");
            if (denied)
                return new AccessDeniedException($"{path}: {text}; run as the user who owns it, or remove it, or use another channel");
            return new AccessDeniedException($"{path}: {text}; free what it names or use another channel");
        }

        public static bool IsOwn(FileStatus status) => status.IsRegular && (status.User == Libc.UserId() || status.User == 0);

        /// <summary>Only plain files of this user or of root.</summary>
        public static void CheckFile(string path, FileStatus status)
        {
            if (!status.IsRegular)
                throw new NotARingException($"{path} is not a file; remove it and start the writer again");
            if (status.User != Libc.UserId() && status.User != 0)
                throw new AccessDeniedException(
                    $"{path}: belongs to user id {status.User}; ask for its removal or use another channel");
        }

        /// <summary>Throw VersionMismatchException unless the major versions agree.</summary>
        public static void CheckVersion(string what, uint version)
        {
            if (version >> 16 != RingLayout.VersionMajor)
                throw new VersionMismatchException(
                    $"{what} speaks ring version {version >> 16}.{version & 0xFFFF}, this program {RingLayout.VersionMajor}; " +
                    "run the same major version of frameloom on both sides");
        }

        /// <summary>The bytes of the record, at most a page; null when there is none.</summary>
        private byte[] ReadRecord()
        {
            if (Windows)
            {
                try
                {
                    using (var file = new FileStream(RecordPath, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete))
                    {
                        var content = new byte[RingLayout.Page];
                        Array.Resize(ref content, file.Read(content, 0, content.Length));
                        return content;
                    }
                }
                catch (FileNotFoundException)
                {
                    return null;
                }
                catch (UnauthorizedAccessException error)
                {
                    throw new AccessDeniedException($"{error.Message}; run as the user who owns it, or use another channel");
                }
            }
            int fd = Libc.Open(RecordPath, Libc.ReadOnly | Libc.NoFollow);
            if (fd < 0)
            {
                if (Libc.LastError == Libc.ErrorNoEntry)
                    return null;
                throw AccessError(RecordPath, Libc.LastError);
            }
            try
            {
                if (Libc.Status(fd, null, out FileStatus status))
                    CheckFile(RecordPath, status);
                var content = new byte[RingLayout.Page];
                Array.Resize(ref content, Math.Max(0, Libc.Read(fd, content)));
                return content;
            }
            finally
            {
                Libc.Close(fd);
            }
        }

        /// <summary>What the rendezvous record says; false when there is none. Throws for a damaged one or somebody else's.</summary>
        public bool ReadPointer(out RingPointer pointer)
        {
            pointer = new RingPointer();
            byte[] data = ReadRecord();
            if (data == null)
                return false;
            if (data.Length < 8 || BitConverter.ToUInt64(data, RingLayout.Record.Magic) != RingLayout.RecordMagic)
                throw new NotARingException($"{RecordPath} is not a ring record; remove it and start the writer again");
            if (data.Length < RingLayout.Record.Bytes)
                throw new TruncatedSegmentException(
                    $"{RecordPath} has {data.Length} of {RingLayout.Record.Bytes} bytes; remove it and start the writer again");
            CheckVersion(RecordPath, BitConverter.ToUInt32(data, RingLayout.Record.Version));
            pointer.Generation = BitConverter.ToUInt64(data, RingLayout.Record.Generation);
            pointer.SegmentSize = BitConverter.ToUInt64(data, RingLayout.Record.SegmentSize);
            pointer.WriterPid = BitConverter.ToUInt64(data, RingLayout.Record.WriterPid);
            pointer.Minor = BitConverter.ToUInt32(data, RingLayout.Record.Version) & 0xFFFF;
            if (pointer.Generation == 0 || BitConverter.ToUInt32(data, RingLayout.Record.RecordSize) < RingLayout.Record.Bytes)
                throw new MalformedHeaderException(
                    $"{RecordPath} names generation 0 or says it is too short; remove it and start the writer again");
            return true;
        }

        /// <summary>Point the well-known name at a generation, atomically.</summary>
        public void SwingPointer(ulong generation, ulong segmentSize)
        {
            var record = new byte[RingLayout.Record.Bytes];
            Put(record, RingLayout.Record.Version, RingLayout.Version);
            Put(record, RingLayout.Record.RecordSize, RingLayout.Record.Bytes);
            Put(record, RingLayout.Record.Magic, RingLayout.RecordMagic);
            Put(record, RingLayout.Record.Generation, generation);
            Put(record, RingLayout.Record.SegmentSize, segmentSize);
            Put(record, RingLayout.Record.WriterPid, ProcessId);
            Put(record, RingLayout.Record.CreatedNs, RingClock.NowNs);
            string temporary = RecordPath + "." + generation.ToString("x16") + ".tmp";
            if (Windows)
                SwingOnWindows(record, temporary);
            else
                SwingOnPosix(record, temporary);
        }

        private void SwingOnPosix(byte[] record, string temporary)
        {
            int fd = Libc.Open(temporary, 1 | Libc.Create | Libc.Exclusive | Libc.NoFollow);
            if (fd < 0)
                throw AccessError(temporary, Libc.LastError);
            bool written = Libc.WriteAll(fd, record);
            int error = Libc.LastError;
            Libc.Close(fd);
            if (!written)
            {
                Libc.Unlink(temporary);
                throw new NoSpaceException($"{temporary}: {Libc.ErrorText(error)}; free some room in {folder}");
            }
            if (!Libc.Rename(temporary, RecordPath))
            {
                error = Libc.LastError;
                Libc.Unlink(temporary);
                throw AccessError(RecordPath, error);
            }
        }

        private void SwingOnWindows(byte[] record, string temporary)
        {
            try
            {
                File.WriteAllBytes(temporary, record);
            }
            catch (IOException error)
            {
                throw new NoSpaceException($"{error.Message}; free some room in {folder}");
            }
            // Windows refuses to replace a file that a reader has open at this moment.
            for (int attempt = 0; Kernel32.MoveFile(temporary, RecordPath, Kernel32.ReplaceExisting) == 0; attempt++)
            {
                int error = Kernel32.LastError;
                if (attempt == 99)
                {
                    File.Delete(temporary);
                    throw AccessError(RecordPath, error);
                }
                Thread.Sleep(5);
            }
        }

        /// <summary>Delete files of generations other than `keep`; only the holder of the writer lock may.</summary>
        public void RemoveLeftovers(ulong keep)
        {
            var leftover = new Regex(
                @"\A" + Regex.Escape(prefix) + @"(-(?<generation>[0-9a-f]{16})\.seg(\.w|\.r\d+|\.sharedarray)?|\.ring\.[0-9a-f]{16}\.tmp)\z");
            string[] found;
            try
            {
                found = Directory.GetFiles(folder, prefix + "*");
            }
            catch (Exception error) when (error is IOException || error is UnauthorizedAccessException)
            {
                // Without the folder there are none; without a descriptor for it they stay until the next start.
                return;
            }
            foreach (string path in found)
            {
                Match name = leftover.Match(Path.GetFileName(path));
                if (name.Success && name.Groups["generation"].Value != keep.ToString("x16"))
                    Delete(path);
            }
        }

        /// <summary>Delete the files of one generation; its name is nobody else's.</summary>
        public void RemoveGeneration(ulong generation)
        {
            string path = SegmentPath(generation);
            Delete(path);
            Delete(path + ".w");
            for (int i = 0; i < RingLayout.ReaderEntries; i++)
                Delete(path + ".r" + i);
        }

        public bool HasSegment(ulong generation)
        {
            return NamedSection || File.Exists(SegmentPath(generation));
        }

        public void RemovePointer()
        {
            // Windows refuses while a reader has it open; without its segment the record says nothing, so it may stay.
            Delete(RecordPath);
        }

        private static void Delete(string path)
        {
            if (!Windows)
            {
                Libc.Unlink(path);
                return;
            }
            try
            {
                File.Delete(path);
            }
            catch (IOException)
            {
                // A file that is still mapped somewhere; the next start gets it.
            }
            catch (UnauthorizedAccessException)
            {
            }
        }

        public static readonly ulong ProcessId = (ulong)System.Diagnostics.Process.GetCurrentProcess().Id;

        private static void Put(byte[] target, int at, uint value)
        {
            BitConverter.GetBytes(value).CopyTo(target, at);
        }

        private static void Put(byte[] target, int at, ulong value)
        {
            BitConverter.GetBytes(value).CopyTo(target, at);
        }
    }
}
