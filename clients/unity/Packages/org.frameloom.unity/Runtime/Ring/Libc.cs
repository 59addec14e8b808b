// The calls of the C library that the ring needs on Linux and macOS. Managed file streams cannot stand in for them: they
// neither take open-file-description locks nor refuse symbolic links, and Mono's named maps are local to the process.

using System;
using System.Runtime.InteropServices;

namespace Frameloom
{
    /// <summary>What the ring asks about a file.</summary>
    internal struct FileStatus
    {
        public ulong Device;
        public ulong Inode;
        public uint User;
        public uint Mode;
        public long Size;
        public long Blocks;

        public bool IsRegular => (Mode & 0xF000) == 0x8000;

        /// <summary>
        /// Bytes that have memory behind them. On Linux, where every writer reserves its segment, a hole does not count: reading one
        /// would allocate it.
        /// </summary>
        public long TrueSize => Libc.Linux ? Math.Min(Size, Blocks * 512) : Size;

        public bool IsSameFile(FileStatus other) => Device == other.Device && Inode == other.Inode;
    }

    internal static unsafe class Libc
    {
        public static readonly bool Linux = RuntimeInformation.IsOSPlatform(OSPlatform.Linux);

        public const int ReadOnly = 0;
        public const int ReadWrite = 2;
        public static readonly int Create = Linux ? 0x40 : 0x200;
        public static readonly int Exclusive = Linux ? 0x80 : 0x800;
        public static readonly int CloseOnExec = Linux ? 0x80000 : 0x1000000;
        public static readonly int NonBlocking = Linux ? 0x800 : 0x4;

        // O_NOFOLLOW is one of the few flags that differ between processors on Linux.
        public static readonly int NoFollow =
            !Linux ? 0x100
            : RuntimeInformation.ProcessArchitecture == Architecture.Arm64 || RuntimeInformation.ProcessArchitecture == Architecture.Arm
                ? 0x8000
                : 0x20000;

        public const int SeekEnd = 2;
        public const int ErrorPermission = 1;
        public const int ErrorNoEntry = 2;
        public const int ErrorNoDevice = 6;
        public const int ErrorAccess = 13;
        public const int ErrorNotADirectory = 20;
        public const int ErrorIsADirectory = 21;
        public const int ErrorFileTableFull = 23;
        public const int ErrorTooManyFiles = 24;
        public const int ErrorFileTooBig = 27;
        public const int ErrorNoSpace = 28;
        public static readonly int ErrorQuota = Linux ? 122 : 69;
        public static readonly int ErrorExists = 17;
        public static readonly int ErrorLoop = Linux ? 40 : 62;
        public static readonly int ErrorAgain = Linux ? 11 : 35;

        public const int ProtectReadWrite = 3;
        public const int MapShared = 1;
        public const int MapPopulate = 0x8000;

        public static int LastError => Marshal.GetLastWin32Error();

        // `open` takes its mode as a variadic argument, which Apple's 64-bit Arm expects on the stack, behind eight registers.
        // The other systems find it in the third register and do not look at the rest.
        [DllImport("libc", EntryPoint = "open", SetLastError = true)]
        private static extern int OpenVariadic(
            byte[] path, int flags, IntPtr mode, IntPtr r3, IntPtr r4, IntPtr r5, IntPtr r6, IntPtr r7, IntPtr onStack);

        [DllImport("libc", EntryPoint = "close", SetLastError = true)]
        public static extern int Close(int fd);

        [DllImport("libc", EntryPoint = "lseek", SetLastError = true)]
        public static extern long Seek(int fd, long offset, int whence);

        [DllImport("libc", EntryPoint = "read", SetLastError = true)]
        private static extern IntPtr ReadRaw(int fd, byte[] buffer, UIntPtr count);

        [DllImport("libc", EntryPoint = "write", SetLastError = true)]
        private static extern IntPtr WriteRaw(int fd, byte[] buffer, UIntPtr count);

        [DllImport("libc", EntryPoint = "unlink", SetLastError = true)]
        private static extern int UnlinkRaw(byte[] path);

        [DllImport("libc", EntryPoint = "rename", SetLastError = true)]
        private static extern int RenameRaw(byte[] from, byte[] to);

        [DllImport("libc", EntryPoint = "getuid")]
        public static extern uint UserId();

        [DllImport("libc", EntryPoint = "posix_fallocate")]
        public static extern int Allocate(int fd, long offset, long length);

        [DllImport("libc", EntryPoint = "mmap", SetLastError = true)]
        public static extern IntPtr Map(IntPtr address, UIntPtr length, int protection, int flags, int fd, long offset);

        [DllImport("libc", EntryPoint = "munmap", SetLastError = true)]
        public static extern int Unmap(IntPtr address, UIntPtr length);

        [DllImport("libc", EntryPoint = "flock", SetLastError = true)]
        public static extern int FileLock(int fd, int operation);

        // Used on Linux only, where a variadic argument is passed like any other.
        [DllImport("libc", EntryPoint = "fcntl", SetLastError = true)]
        public static extern int Control(int fd, int command, ByteRange* range);

        [DllImport("libc", EntryPoint = "syscall", SetLastError = true)]
        public static extern IntPtr Futex(IntPtr number, uint* word, IntPtr operation, IntPtr value, long* timeout, IntPtr unused1, IntPtr unused2);

        [DllImport("libc", EntryPoint = "clock_gettime")]
        public static extern int ClockLinux(int clock, long* secondsAndNanoseconds);

        [DllImport("libc", EntryPoint = "clock_gettime_nsec_np")]
        public static extern ulong ClockApple(int clock);

        [DllImport("libc", EntryPoint = "strerror")]
        private static extern IntPtr ErrorTextRaw(int error);

        // statx has one layout on all processors, stat has not.
        [DllImport("libc", EntryPoint = "statx", SetLastError = true)]
        private static extern int StatusLinux(int fd, byte[] path, int flags, uint mask, byte* result);

        [DllImport("libc", EntryPoint = "fstat", SetLastError = true)]
        private static extern int StatusOfFileAppleArm(int fd, byte* result);

        [DllImport("libc", EntryPoint = "stat", SetLastError = true)]
        private static extern int StatusOfPathAppleArm(byte[] path, byte* result);

        [DllImport("libc", EntryPoint = "fstat$INODE64", SetLastError = true)]
        private static extern int StatusOfFileAppleIntel(int fd, byte* result);

        [DllImport("libc", EntryPoint = "stat$INODE64", SetLastError = true)]
        private static extern int StatusOfPathAppleIntel(byte[] path, byte* result);

        /// <summary>struct flock of 64-bit Linux.</summary>
        [StructLayout(LayoutKind.Explicit, Size = 32)]
        public struct ByteRange
        {
            [FieldOffset(0)] public short Kind;
            [FieldOffset(2)] public short Whence;
            [FieldOffset(8)] public long Start;
            [FieldOffset(16)] public long Length;
            [FieldOffset(24)] public int Process;
        }

        private static byte[] Path(string path)
        {
            return System.Text.Encoding.UTF8.GetBytes(path + "\0");
        }

        public static string ErrorText(int error)
        {
            return Marshal.PtrToStringAnsi(ErrorTextRaw(error));
        }

        /// <summary>
        /// A descriptor that forked programs do not keep, or -1. Files are created for their owner only; a pipe that somebody planted
        /// under this name holds nobody up.
        /// </summary>
        public static int Open(string path, int flags)
        {
            var mode = (IntPtr)0x180;
            return OpenVariadic(
                Path(path), flags | CloseOnExec | NonBlocking, mode, IntPtr.Zero, IntPtr.Zero, IntPtr.Zero, IntPtr.Zero, IntPtr.Zero, mode);
        }

        public static int Read(int fd, byte[] buffer)
        {
            return (int)ReadRaw(fd, buffer, (UIntPtr)buffer.Length);
        }

        public static bool WriteAll(int fd, byte[] data)
        {
            return (long)WriteRaw(fd, data, (UIntPtr)data.Length) == data.Length;
        }

        public static bool Unlink(string path)
        {
            return UnlinkRaw(Path(path)) == 0;
        }

        public static bool Rename(string from, string to)
        {
            return RenameRaw(Path(from), Path(to)) == 0;
        }

        /// <summary>About an open file, or about `path` (the link itself, on Linux) when `fd` is negative.</summary>
        public static bool Status(int fd, string path, out FileStatus status)
        {
            byte* raw = stackalloc byte[256];
            int result;
            status = new FileStatus();
            if (Linux)
            {
                const int emptyPath = 0x1000, noFollow = 0x100, workingDirectory = -100;
                result = fd >= 0
                    ? StatusLinux(fd, Path(""), emptyPath, 0x7FF, raw)
                    : StatusLinux(workingDirectory, Path(path), noFollow, 0x7FF, raw);
                if (result != 0)
                    return false;
                status.User = *(uint*)(raw + 20);
                status.Mode = *(ushort*)(raw + 28);
                status.Inode = *(ulong*)(raw + 32);
                status.Size = *(long*)(raw + 40);
                status.Blocks = *(long*)(raw + 48);
                status.Device = (ulong)*(uint*)(raw + 136) << 32 | *(uint*)(raw + 140);
                return true;
            }
            if (RuntimeInformation.ProcessArchitecture == Architecture.Arm64)
                result = fd >= 0 ? StatusOfFileAppleArm(fd, raw) : StatusOfPathAppleArm(Path(path), raw);
            else
                result = fd >= 0 ? StatusOfFileAppleIntel(fd, raw) : StatusOfPathAppleIntel(Path(path), raw);
            if (result != 0)
                return false;
            status.Device = *(uint*)raw;
            status.Mode = *(ushort*)(raw + 4);
            status.Inode = *(ulong*)(raw + 8);
            status.User = *(uint*)(raw + 16);
            status.Size = *(long*)(raw + 96);
            status.Blocks = *(long*)(raw + 104);
            return true;
        }
    }
}
