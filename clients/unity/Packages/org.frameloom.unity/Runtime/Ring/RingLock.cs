// Liveness: locks that the operating system takes back when a process dies, and that others test without blocking
// (PROTOCOL.md, "Locks"). Linux: open-file-description byte locks. macOS: flock, one file per lock. Windows: the existence of
// a named mutex, or a byte lock where the ring is file-backed. Knows nothing about rings.

using System;
using System.Threading;

namespace Frameloom
{
    internal abstract class RingLock : IDisposable
    {
        /// <summary>A tester without a non-taking test holds the lock for a moment, so a refusal counts after this long only.</summary>
        public const double PatienceS = 0.25;

        public bool Held { get; protected set; }

        /// <summary>Take the lock; false when somebody else holds it.</summary>
        public abstract bool Acquire();

        /// <summary>Give the lock back; harmless when it is not held.</summary>
        public abstract void Release();

        /// <summary>Give the lock back and leave nothing of it behind; harmless when it is not held.</summary>
        public abstract void Remove();

        /// <summary>Whether others still meet this lock: false once somebody else removed or replaced its file.</summary>
        public virtual bool Current()
        {
            return true;
        }

        /// <summary>Whether another holder is alive. Never blocks, never keeps the lock.</summary>
        public abstract bool TakenElsewhere();

        public abstract void Dispose();

        public bool AcquirePatiently(double patienceS)
        {
            ulong deadline = RingClock.NowNs + (ulong)(patienceS * 1e9);
            while (!Acquire())
            {
                if (RingClock.NowNs >= deadline)
                    return false;
                Thread.Sleep(10);
            }
            return true;
        }
    }

    /// <summary>
    /// A descriptor of its own, never handed to mmap. The owner of a lock may delete its file in leaving, so a lock counts only
    /// while its file is the one of that name.
    /// </summary>
    internal abstract class PosixLock : RingLock
    {
        protected readonly string path;
        protected int fd = -1;
        private readonly bool makesFile;

        protected PosixLock(string path, bool makesFile)
        {
            this.path = path;
            this.makesFile = makesFile;
            if (!makesFile)
                Open(false);
        }

        ~PosixLock()
        {
            Dispose();
        }

        protected abstract bool Try();

        protected abstract void Give();

        protected abstract bool Tested();

        /// <summary>Open the file of that name; false when there is none and none is to be made.</summary>
        private bool Open(bool create)
        {
            CloseFile();
            fd = Libc.Open(path, Libc.ReadWrite | Libc.NoFollow | (create ? Libc.Create : 0));
            if (fd < 0)
            {
                int error = Libc.LastError;
                if (error == Libc.ErrorNoEntry && !create)
                    return false;
                throw RingPlace.AccessError(path, error == Libc.ErrorNoDevice ? Libc.ErrorPermission : error);
            }
            // In a shared folder another user may have planted it.
            if (!Libc.Status(fd, null, out FileStatus status) || !RingPlace.IsOwn(status))
            {
                CloseFile();
                throw new AccessDeniedException(
                    $"{path}: is no file, or belongs to user id {status.User}; ask for its removal or use another channel");
            }
            return true;
        }

        public override bool Current()
        {
            if (!makesFile)
                return true;
            return Libc.Status(fd, path, out FileStatus ours) && Libc.Status(-1, path, out FileStatus named) && ours.IsSameFile(named);
        }

        public override bool Acquire()
        {
            while (true)
            {
                if (fd < 0 && !Open(makesFile))
                    return false;
                if (!Try())
                    return false;
                if (Current())
                {
                    Held = true;
                    return true;
                }
                CloseFile();
            }
        }

        public override void Release()
        {
            if (Held)
                Give();
            Held = false;
        }

        public override void Remove()
        {
            // Somebody who cleaned up by hand may have made room for another holder, whose file stays.
            if (Held && Current())
                Libc.Unlink(path);
            Release();
        }

        public override bool TakenElsewhere()
        {
            if (Held)
                return false;
            if (fd >= 0 && Tested())
                return true;
            // Free, or a file that is no longer the one of this name.
            if (fd < 0 || !Current())
                return Open(false) && Tested();
            return false;
        }

        private void CloseFile()
        {
            if (fd >= 0)
                Libc.Close(fd);
            fd = -1;
        }

        public override void Dispose()
        {
            Held = false;
            CloseFile();
            GC.SuppressFinalize(this);
        }
    }

    /// <summary>Linux: one byte of a file, by open-file-description lock.</summary>
    internal sealed unsafe class ByteLock : PosixLock
    {
        private const int GetLock = 36;
        private const int SetLock = 37;
        private const short WriteLock = 1;
        private const short Unlock = 2;
        private readonly long offset;

        public ByteLock(string path, long offset, bool makesFile) : base(path, makesFile)
        {
            this.offset = offset;
        }

        private bool Request(int command, ref short kind)
        {
            var range = new Libc.ByteRange { Kind = kind, Start = offset, Length = 1 };
            bool done = Libc.Control(fd, command, &range) == 0;
            kind = range.Kind;
            return done;
        }

        protected override bool Try()
        {
            short kind = WriteLock;
            if (Request(SetLock, ref kind))
                return true;
            if (Libc.LastError == Libc.ErrorAgain || Libc.LastError == Libc.ErrorAccess)
                return false;
            throw RingPlace.AccessError(path, Libc.LastError);
        }

        protected override void Give()
        {
            short kind = Unlock;
            Request(SetLock, ref kind);
        }

        protected override bool Tested()
        {
            short kind = WriteLock;
            if (!Request(GetLock, ref kind))
                throw RingPlace.AccessError(path, Libc.LastError);
            return kind != Unlock;
        }
    }

    /// <summary>macOS: flock on a file of its own.</summary>
    internal sealed class WholeFileLock : PosixLock
    {
        private const int Shared = 1;
        private const int Exclusive = 2;
        private const int NonBlocking = 4;
        private const int Unlock = 8;

        public WholeFileLock(string path) : base(path, true) { }

        protected override bool Try()
        {
            return Libc.FileLock(fd, Exclusive | NonBlocking) == 0;
        }

        protected override void Give()
        {
            Libc.FileLock(fd, Unlock);
        }

        protected override bool Tested()
        {
            if (Libc.FileLock(fd, Shared | NonBlocking) != 0)
                return true;
            Libc.FileLock(fd, Unlock);
            return false;
        }
    }

    /// <summary>Windows: alive while the mutex of this name exists. Its ownership would belong to a thread and is not used.</summary>
    internal sealed class NamedMutexLock : RingLock
    {
        private readonly string name;
        private IntPtr handle;

        public NamedMutexLock(string name)
        {
            this.name = name;
        }

        ~NamedMutexLock()
        {
            Release();
        }

        public override bool Acquire()
        {
            IntPtr made = Kernel32.CreateMutex(IntPtr.Zero, 0, name);
            int error = Kernel32.LastError;
            if (made == IntPtr.Zero)
                throw RingPlace.AccessError(name, error);
            if (error == Kernel32.ErrorAlreadyExists)
            {
                Kernel32.CloseHandle(made);
                return false;
            }
            handle = made;
            Held = true;
            return true;
        }

        public override void Release()
        {
            if (handle != IntPtr.Zero)
                Kernel32.CloseHandle(handle);
            handle = IntPtr.Zero;
            Held = false;
        }

        public override void Remove()
        {
            Release();
        }

        public override bool TakenElsewhere()
        {
            if (Held)
                return false;
            IntPtr found = Kernel32.OpenMutex(Kernel32.Synchronize, 0, name);
            if (found == IntPtr.Zero)
                return false;
            Kernel32.CloseHandle(found);
            return true;
        }

        public override void Dispose()
        {
            Release();
            GC.SuppressFinalize(this);
        }
    }

    /// <summary>Windows, file-backed rings: a byte of a file, which is made when `makesFile`.</summary>
    internal sealed unsafe class LockedByte : RingLock
    {
        private const uint FailImmediately = 1;
        private const uint Exclusive = 2;
        private readonly IntPtr file;
        private readonly long offset;
        private bool open;

        public LockedByte(string path, long offset, bool makesFile)
        {
            this.offset = offset;
            file = Kernel32.CreateFile(
                path, Kernel32.GenericReadWrite, Kernel32.ShareAll, IntPtr.Zero,
                makesFile ? Kernel32.OpenAlways : Kernel32.OpenExisting, 0, IntPtr.Zero);
            open = file != Kernel32.InvalidHandle;
            if (!open && makesFile)
                throw RingPlace.AccessError(path, Kernel32.LastError);
        }

        ~LockedByte()
        {
            Dispose();
        }

        private bool Take(uint flags)
        {
            var where = new Kernel32.Overlapped { Low = (uint)offset, High = (uint)(offset >> 32) };
            return Kernel32.LockFile(file, FailImmediately | flags, 0, 1, 0, &where) != 0;
        }

        private void Give()
        {
            var where = new Kernel32.Overlapped { Low = (uint)offset, High = (uint)(offset >> 32) };
            Kernel32.UnlockFile(file, 0, 1, 0, &where);
        }

        public override bool Acquire()
        {
            Held = open && Take(Exclusive);
            return Held;
        }

        public override void Release()
        {
            if (Held)
                Give();
            Held = false;
        }

        public override void Remove()
        {
            // An open file cannot be deleted here; it is empty and stays.
            Release();
        }

        public override bool TakenElsewhere()
        {
            if (Held || !open)
                return false;
            if (!Take(0))
                return true;
            Give();
            return false;
        }

        public override void Dispose()
        {
            if (open)
                Kernel32.CloseHandle(file);
            open = false;
            Held = false;
            GC.SuppressFinalize(this);
        }
    }
}
