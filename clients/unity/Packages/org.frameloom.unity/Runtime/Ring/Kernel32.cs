// The calls of Windows that the ring needs. Called directly because IL2CPP supports neither named mutexes nor named events
// through their managed classes.

using System;
using System.Runtime.InteropServices;

namespace Frameloom
{
    internal static unsafe class Kernel32
    {
        public const int ErrorFileNotFound = 2;
        public const int ErrorPathNotFound = 3;
        public const int ErrorAccessDenied = 5;
        public const int ErrorSharingViolation = 32;
        public const int ErrorAlreadyExists = 183;
        public const uint TimedOut = 258;
        public const uint Synchronize = 0x00100000;
        public const uint MapAllAccess = 0x000F001F;
        public const uint PageReadWrite = 4;
        public const uint GenericReadWrite = 0xC0000000;
        public const uint ShareAll = 7;
        public const uint CreateNew = 1;
        public const uint OpenExisting = 3;
        public const uint OpenAlways = 4;
        public const uint ReplaceExisting = 1;
        public static readonly IntPtr InvalidHandle = (IntPtr)(-1);

        public static int LastError => Marshal.GetLastWin32Error();

        [DllImport("kernel32", EntryPoint = "CloseHandle", SetLastError = true)]
        public static extern int CloseHandle(IntPtr handle);

        [DllImport("kernel32", EntryPoint = "CreateMutexW", CharSet = CharSet.Unicode, SetLastError = true)]
        public static extern IntPtr CreateMutex(IntPtr security, int owned, string name);

        [DllImport("kernel32", EntryPoint = "OpenMutexW", CharSet = CharSet.Unicode, SetLastError = true)]
        public static extern IntPtr OpenMutex(uint access, int inherit, string name);

        [DllImport("kernel32", EntryPoint = "CreateEventW", CharSet = CharSet.Unicode, SetLastError = true)]
        public static extern IntPtr CreateEvent(IntPtr security, int manual, int set, string name);

        [DllImport("kernel32", EntryPoint = "SetEvent", SetLastError = true)]
        public static extern int SetEvent(IntPtr handle);

        [DllImport("kernel32", EntryPoint = "WaitForSingleObject", SetLastError = true)]
        public static extern uint WaitForSingleObject(IntPtr handle, uint milliseconds);

        [DllImport("kernel32", EntryPoint = "CreateFileW", CharSet = CharSet.Unicode, SetLastError = true)]
        public static extern IntPtr CreateFile(
            string path, uint access, uint share, IntPtr security, uint disposition, uint flags, IntPtr template);

        [DllImport("kernel32", EntryPoint = "GetFileSizeEx", SetLastError = true)]
        public static extern int GetFileSize(IntPtr file, out long size);

        [DllImport("kernel32", EntryPoint = "LockFileEx", SetLastError = true)]
        public static extern int LockFile(IntPtr file, uint flags, uint reserved, uint countLow, uint countHigh, Overlapped* where);

        [DllImport("kernel32", EntryPoint = "UnlockFileEx", SetLastError = true)]
        public static extern int UnlockFile(IntPtr file, uint reserved, uint countLow, uint countHigh, Overlapped* where);

        [DllImport("kernel32", EntryPoint = "GetModuleHandleW", CharSet = CharSet.Unicode)]
        private static extern IntPtr ModuleHandle(string name);

        [DllImport("kernel32", EntryPoint = "GetProcAddress", CharSet = CharSet.Ansi, ExactSpelling = true)]
        private static extern IntPtr ProcedureAddress(IntPtr module, string name);

        [DllImport("kernel32", EntryPoint = "CreateFileMappingW", CharSet = CharSet.Unicode, SetLastError = true)]
        public static extern IntPtr CreateFileMapping(
            IntPtr file, IntPtr security, uint protection, uint sizeHigh, uint sizeLow, string name);

        [DllImport("kernel32", EntryPoint = "OpenFileMappingW", CharSet = CharSet.Unicode, SetLastError = true)]
        public static extern IntPtr OpenFileMapping(uint access, int inherit, string name);

        [DllImport("kernel32", EntryPoint = "MapViewOfFile", SetLastError = true)]
        public static extern IntPtr MapViewOfFile(IntPtr mapping, uint access, uint high, uint low, UIntPtr count);

        [DllImport("kernel32", EntryPoint = "UnmapViewOfFile", SetLastError = true)]
        public static extern int UnmapViewOfFile(IntPtr address);

        [DllImport("kernel32", EntryPoint = "VirtualQuery", SetLastError = true)]
        public static extern UIntPtr VirtualQuery(IntPtr address, MemoryRegion* region, UIntPtr length);

        [DllImport("kernel32", EntryPoint = "MoveFileExW", CharSet = CharSet.Unicode, SetLastError = true)]
        public static extern int MoveFile(string from, string to, uint flags);

        /// <summary>MEMORY_BASIC_INFORMATION of 64-bit Windows.</summary>
        [StructLayout(LayoutKind.Explicit, Size = 48)]
        public struct MemoryRegion
        {
            [FieldOffset(0)] public IntPtr BaseAddress;
            [FieldOffset(24)] public UIntPtr Size;
        }

        /// <summary>OVERLAPPED of 64-bit Windows, as far as locks use it.</summary>
        [StructLayout(LayoutKind.Explicit, Size = 32)]
        public struct Overlapped
        {
            [FieldOffset(16)] public uint Low;
            [FieldOffset(20)] public uint High;
        }

        /// <summary>Whether this Windows is Wine, where file locks are those of the Linux programs beside it.</summary>
        public static bool IsWine => ProcedureAddress(ModuleHandle("ntdll.dll"), "wine_get_version") != IntPtr.Zero;

        public static string ErrorText(int error)
        {
            return new System.ComponentModel.Win32Exception(error).Message;
        }
    }
}
