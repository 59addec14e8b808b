// The ring's clock: nanoseconds, the same in all processes of one machine, without relation to the time of day.

using System;
using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Frameloom
{
    public static unsafe class RingClock
    {
        private const int ClockMonotonicLinux = 1;
        private const int ClockUptimeRawApple = 8;
        private static readonly bool Windows = RuntimeInformation.IsOSPlatform(OSPlatform.Windows);

        /// <summary>Now: CLOCK_MONOTONIC on Linux, mach_absolute_time on macOS, QueryPerformanceCounter on Windows.</summary>
        public static ulong NowNs
        {
            get
            {
                if (Windows)
                {
                    long ticks = Stopwatch.GetTimestamp(), perSecond = Stopwatch.Frequency;
                    return (ulong)(ticks / perSecond * 1000000000 + ticks % perSecond * 1000000000 / perSecond);
                }
                if (!Libc.Linux)
                    return Libc.ClockApple(ClockUptimeRawApple);
                long* now = stackalloc long[2];
                Libc.ClockLinux(ClockMonotonicLinux, now);
                return (ulong)(now[0] * 1000000000 + now[1]);
            }
        }
    }
}
