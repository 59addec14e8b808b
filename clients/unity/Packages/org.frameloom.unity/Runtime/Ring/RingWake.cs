// Sleeping until a 32-bit word of a segment changes: futex on Linux, named events on Windows, bounded naps elsewhere.
// A wake-up is a hint. Every wait has a timeout and nothing here spins.

using System;
using System.Runtime.InteropServices;
using System.Threading;

namespace Frameloom
{
    internal abstract unsafe class RingWake
    {
        /// <summary>
        /// Sleep until the word may differ from `expected`, at most so many seconds. May return early. True: somebody woke us; false:
        /// nobody did until the end; null: neither is known.
        /// </summary>
        public abstract bool? Wait(uint expected, double timeoutS);

        /// <summary>Wake every sleeper.</summary>
        public abstract void Wake();

        public virtual void Close() { }

        /// <summary>`eventName` names the sleeper's own event on Windows; without one the sleeper naps there.</summary>
        public static RingWake For(uint* word, string eventName)
        {
            if (eventName != null)
                return new NamedEvent(eventName);
            return Libc.Linux && Futex.Number != 0 ? (RingWake)new Futex(word) : new Naps(word);
        }

        private sealed class Futex : RingWake
        {
            public static readonly int Number =
                RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 202
                : RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 98
                : 0;

            private static readonly int TimedOut = Libc.Linux ? 110 : 60;
            private const int WaitOperation = 0;
            private const int WakeOperation = 1;
            private readonly uint* word;

            public Futex(uint* word)
            {
                this.word = word;
            }

            public override bool? Wait(uint expected, double timeoutS)
            {
                long* timeout = stackalloc long[2];
                long ns = Math.Max(0, (long)(timeoutS * 1e9));
                timeout[0] = ns / 1000000000;
                timeout[1] = ns % 1000000000;
                // The kernel compares the word after a full barrier, so a change since the caller's last look returns at once.
                if (Libc.Futex((IntPtr)Number, word, (IntPtr)WaitOperation, (IntPtr)(long)expected, timeout, IntPtr.Zero, IntPtr.Zero) == IntPtr.Zero)
                    return true;
                return Libc.LastError == TimedOut ? false : (bool?)null;
            }

            public override void Wake()
            {
                Libc.Futex((IntPtr)Number, word, (IntPtr)WakeOperation, (IntPtr)0x7FFFFFFF, null, IntPtr.Zero, IntPtr.Zero);
            }
        }

        private sealed class Naps : RingWake
        {
            private readonly uint* word;

            public Naps(uint* word)
            {
                this.word = word;
            }

            public override bool? Wait(uint expected, double timeoutS)
            {
                ulong deadline = RingClock.NowNs + (ulong)(timeoutS * 1e9);
                for (int ms = 1; Volatile.Read(ref *word) == expected && RingClock.NowNs < deadline; ms = Math.Min(10, ms + 1))
                    Thread.Sleep(ms);
                return null;
            }

            public override void Wake() { }
        }

        /// <summary>One auto-reset event per sleeper. It stays set until somebody sleeps, so a wake-up is never lost.</summary>
        private sealed class NamedEvent : RingWake
        {
            private IntPtr handle;

            public NamedEvent(string name)
            {
                handle = Kernel32.CreateEvent(IntPtr.Zero, 0, 0, name);
                if (handle == IntPtr.Zero)
                    throw RingPlace.AccessError(name, Kernel32.LastError);
            }

            ~NamedEvent()
            {
                Close();
            }

            public override bool? Wait(uint expected, double timeoutS)
            {
                uint ended = Kernel32.WaitForSingleObject(handle, (uint)Math.Max(1, timeoutS * 1000));
                return ended == 0 ? true : ended == Kernel32.TimedOut ? false : (bool?)null;
            }

            public override void Wake()
            {
                Kernel32.SetEvent(handle);
            }

            public override void Close()
            {
                if (handle != IntPtr.Zero)
                    Kernel32.CloseHandle(handle);
                handle = IntPtr.Zero;
                GC.SuppressFinalize(this);
            }
        }
    }
}
