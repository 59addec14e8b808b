// The conformance peer in C#: the contract is in peer.py beside this file. Compiled with the ring core of the Unity package:
//     mcs -unsafe -langversion:7.2 -optimize+ -out:Peer.exe tests/conformance/Peer.cs \
//         clients/unity/Packages/org.frameloom.unity/Runtime/Ring/*.cs

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Runtime.InteropServices;
using System.Threading;
using Frameloom;

internal static unsafe class Peer
{
    private const string WriteWords = "first frames width height slots policy capacity vary grow pause_us die timeout_ms";
    private const string ReadWords = "until how seconds hold_us pause_us die";
    private const string MeasureWords = "width height rounds";

    [DllImport("libc", EntryPoint = "kill")]
    private static extern int Kill(int pid, int signal);

    private static void Die()
    {
        if (Environment.OSVersion.Platform == PlatformID.Unix)
            Kill(Process.GetCurrentProcess().Id, 9);
        else
            Process.GetCurrentProcess().Kill();
        Thread.Sleep(60000);
        throw new InvalidOperationException("survived its own death");
    }

    private static void Say(string text)
    {
        Console.Out.Write(text + "\n");
        Console.Out.Flush();
    }

    private static string Text(string value)
    {
        return "\"" + value.Replace("\\", "\\\\").Replace("\"", "\\\"") + "\"";
    }

    private static string Number(double value)
    {
        return value.ToString("0.000000", CultureInfo.InvariantCulture);
    }

    /// <summary>The error as the contract wants it: the type's name as in bridge/ring/errors.py.</summary>
    private static string ErrorOf(RingException error)
    {
        if (error == null)
            return "null";
        string name = error.GetType().Name;
        return $"{{\"type\": {Text(name.Substring(0, name.Length - "Exception".Length))}, \"message\": {Text(error.Message)}}}";
    }

    /// <summary>The words of the command line.</summary>
    private sealed class Words
    {
        private readonly Dictionary<string, string> given = new Dictionary<string, string>();

        public bool Parse(string[] line, string known)
        {
            var names = new HashSet<string>((known + " channel directory").Split(' '));
            for (int i = 1; i < line.Length; i++)
            {
                int cut = line[i].IndexOf('=');
                if (cut < 0 || !names.Contains(line[i].Substring(0, cut)))
                    return false;
                given[line[i].Substring(0, cut)] = line[i].Substring(cut + 1);
            }
            return given.ContainsKey("channel");
        }

        public string Get(string name, string otherwise) => given.TryGetValue(name, out string value) ? value : otherwise;

        public ulong Number(string name, ulong otherwise) =>
            given.TryGetValue(name, out string value) ? ulong.Parse(value, CultureInfo.InvariantCulture) : otherwise;

        /// <summary>In whole milliseconds, at least one: Thread.Sleep takes less for none at all.</summary>
        public TimeSpan Pause(string name) => TimeSpan.FromMilliseconds(Math.Ceiling(Number(name, 0) / 1000.0));

        public bool Has(string name) => given.ContainsKey(name);
    }

    // Frame n

    private static readonly PixelFormat[] ColourSteps =
    {
        PixelFormat.RGBA8, PixelFormat.BGRA8, PixelFormat.RGB8, PixelFormat.RGBA16F, PixelFormat.RGBA32F, PixelFormat.R8,
    };

    private sealed class Script
    {
        private readonly int width;
        private readonly int height;
        private readonly ulong first;
        private readonly ulong grow;
        private readonly bool varySize;
        private readonly bool varyFormat;

        public Script(Words words)
        {
            width = (int)words.Number("width", 64);
            height = (int)words.Number("height", 48);
            first = words.Number("first", 1);
            grow = words.Number("grow", 0);
            string vary = words.Get("vary", "none");
            varySize = vary == "size" || vary == "all";
            varyFormat = vary == "format" || vary == "all";
        }

        public PlaneSpec[] Specs(ulong n)
        {
            int w = width, h = height;
            if (varySize)
            {
                w += (int)(n / 8 % 5) * 3;
                h -= (int)(n / 8 % 3);
            }
            if (grow != 0)
                h += (int)((n - first) / grow) * 16;
            int step = varyFormat ? (int)(n / 4 % 8) : 0;
            if (step < 6)
                return new[] { new PlaneSpec(PlaneKind.Colour, ColourSteps[step], w, h) };
            if (step == 6)
                return new[]
                {
                    new PlaneSpec(PlaneKind.Colour, PixelFormat.RGBA8, w, h), new PlaneSpec(PlaneKind.Depth, PixelFormat.R32F, w, h),
                    new PlaneSpec(PlaneKind.Motion, PixelFormat.RG16F, w, h), new PlaneSpec(PlaneKind.Mask, PixelFormat.R8, w, h),
                };
            return new[]
            {
                new PlaneSpec(PlaneKind.Depth, PixelFormat.R16F, w, h), new PlaneSpec(PlaneKind.Normal, PixelFormat.RGBA32F, w, h),
                new PlaneSpec(PlaneKind.Points, PixelFormat.XYZI32F, w, h),
            };
        }

        public uint OriginOf(ulong n) => varyFormat ? (uint)(n / 4 % 2) : 0;

        public uint ColoursOf(ulong n) => varyFormat ? (uint)(n / 8 % 2) : 0;

        public bool Posed(ulong n) => varyFormat && n % 2 == 1;
    }

    private static ulong CodeOf(uint origin, uint colours, RingPlane[] planes, int count)
    {
        const ulong prime = 0x100000001b3;
        ulong h = 0xcbf29ce484222325;
        h = (h ^ origin) * prime;
        h = (h ^ colours) * prime;
        // Writers may list planes in any order; the code takes them by kind.
        for (uint kind = 1; kind <= (uint)PlaneKind.Points; kind++)
        {
            for (int i = 0; i < count; i++)
            {
                if ((uint)planes[i].Kind != kind)
                    continue;
                h = (h ^ kind) * prime;
                h = (h ^ (uint)planes[i].Format) * prime;
                h = (h ^ (uint)planes[i].Width) * prime;
                h = (h ^ (uint)planes[i].Height) * prime;
            }
        }
        return h;
    }

    private static ulong BaseOf(ulong n, PlaneKind kind, ulong code)
    {
        return n * 0x9e3779b97f4a7c15 ^ (uint)kind * 0xc2b2ae3d27d4eb4f ^ code;
    }

    private static void Paint(byte* pixels, long size, ulong word)
    {
        var words = (ulong*)pixels;
        long count = size / 8;
        for (long i = 0; i < count; i++)
            words[i] = word++;
        for (long i = count * 8; i < size; i++, word >>= 8)
            pixels[i] = (byte)word;
    }

    private static bool Painted(byte* pixels, long size, ulong word)
    {
        var words = (ulong*)pixels;
        long count = size / 8;
        for (long i = 0; i < count; i++)
            if (words[i] != word++)
                return false;
        for (long i = count * 8; i < size; i++, word >>= 8)
            if (pixels[i] != (byte)word)
                return false;
        return true;
    }

    // write

    private static int Write(Words words)
    {
        var script = new Script(words);
        ulong first = words.Number("first", 1), frames = words.Number("frames", 1000), doom = words.Number("die", 0);
        ulong capacity = words.Number("capacity", words.Number("width", 64) * words.Number("height", 48) * 64);
        TimeSpan pause = words.Pause("pause_us");
        Policy policy = words.Get("policy", "newest") == "lossless" ? Policy.Lossless : Policy.Newest;
        var generations = new HashSet<ulong>();
        ulong written = 0, last = 0;
        double seconds = 0;
        RingException problem = null;
        try
        {
            using (var writer = new RingWriter(
                words.Get("channel", null), (long)capacity, (int)words.Number("slots", 4), policy, words.Get("directory", null),
                timeoutS: words.Number("timeout_ms", 10000) / 1000.0))
            {
                Say("READY");
                Stopwatch watch = Stopwatch.StartNew();
                for (ulong n = first; n < first + frames; n++)
                {
                    SlotInHand hand = writer.Begin(script.Specs(n));
                    hand.Origin = (Origin)script.OriginOf(n);
                    hand.ColourSpace = (ColourSpace)script.ColoursOf(n);
                    ulong code = CodeOf((uint)hand.Origin, (uint)hand.ColourSpace, hand.Planes, hand.PlaneCount);
                    for (int i = 0; i < hand.PlaneCount; i++)
                    {
                        RingPlane plane = hand.Planes[i];
                        if (n == doom)
                        {
                            Paint(plane.Data, plane.Size / 2, BaseOf(n, plane.Kind, code));
                            Die();
                        }
                        Paint(plane.Data, plane.Size, BaseOf(n, plane.Kind, code));
                    }
                    hand.FrameId = n;
                    hand.SourceFrameId = n + 7;
                    hand.ParamRevision = code;
                    hand.Flags = (SlotFlag)((uint)(n % 65536) << 16);
                    if (script.Posed(n))
                    {
                        hand.Flags |= SlotFlag.Pose | SlotFlag.Intrinsics;
                        for (int i = 0; i < 16; i++)
                            hand.WorldCamera[i] = n % 1000 + (float)i;
                        for (int i = 0; i < 4; i++)
                            hand.Intrinsics[i] = n % 1000 + i / 2f;
                    }
                    hand.Publish();
                    generations.Add(writer.Generation);
                    written++;
                    last = n;
                    if (pause > TimeSpan.Zero)
                        Thread.Sleep(pause);
                }
                seconds = watch.Elapsed.TotalSeconds;
                Say("DONE");
                Console.In.ReadToEnd();
            }
        }
        catch (RingException error)
        {
            problem = error;
        }
        Say($"{{\"role\": \"write\", \"written\": {written}, \"last\": {last}, \"generations\": {generations.Count}, " +
            $"\"seconds\": {Number(seconds)}, \"error\": {ErrorOf(problem)}}}");
        return problem != null ? 1 : 0;
    }

    // read

    private sealed class Checker
    {
        public ulong Taken, First, Last, Torn, Wrong, Older, Missed;
        public readonly HashSet<ulong> Generations = new HashSet<ulong>();
        private byte[] rows = new byte[0];

        public bool Pixels(RingFrame frame, ulong code)
        {
            for (int i = 0; i < frame.PlaneCount; i++)
            {
                RingPlane plane = frame.Planes[i];
                ulong word = BaseOf(frame.FrameId, plane.Kind, code);
                long row = plane.RowBytes, size = row * plane.Height;
                if (plane.RowStride == row)
                {
                    if (!Painted(plane.Data, size, word))
                        return false;
                    continue;
                }
                if (rows.Length < size)
                    rows = new byte[size];
                fixed (byte* tight = rows)
                {
                    for (long y = 0; y < plane.Height; y++)
                        Buffer.MemoryCopy(plane.Data + y * plane.RowStride, tight + y * row, row, row);
                    if (!Painted(tight, size, word))
                        return false;
                }
            }
            return true;
        }

        private static bool Described(RingFrame frame, ulong code)
        {
            ulong n = frame.FrameId;
            SlotFlag known = frame.Flags & (SlotFlag.Pose | SlotFlag.Intrinsics);
            bool right = frame.ParamRevision == code && frame.SourceFrameId == n + 7 &&
                (uint)frame.Flags == ((uint)(n % 65536) << 16 | (uint)known);
            for (int i = 0; i < 16 && (known & SlotFlag.Pose) != 0; i++)
                right &= frame.WorldCamera[i] == n % 1000 + (float)i;
            for (int i = 0; i < 4 && (known & SlotFlag.Intrinsics) != 0; i++)
                right &= frame.Intrinsics[i] == n % 1000 + i / 2f;
            return right;
        }

        /// <summary>Count one frame; returns its code.</summary>
        public ulong Judge(RingFrame frame)
        {
            ulong code = CodeOf((uint)frame.Origin, (uint)frame.ColourSpace, frame.Planes, frame.PlaneCount);
            Wrong += Described(frame, code) ? 0u : 1u;
            Torn += Pixels(frame, code) ? 0u : 1u;
            ulong n = frame.FrameId;
            if (Taken == 0)
                First = n;
            else
            {
                Older += n <= Last ? 1u : 0u;
                Missed += n > Last + 1 ? n - Last - 1 : 0;
            }
            Taken++;
            Last = n;
            Generations.Add(frame.Generation);
            return code;
        }
    }

    private static int Read(Words words)
    {
        string how = words.Get("how", "read");
        ulong until = words.Number("until", 0), doom = words.Number("die", 0);
        TimeSpan hold = words.Pause("hold_us");
        TimeSpan pause = words.Pause("pause_us");
        double patience = double.Parse(words.Get("seconds", "60"), CultureInfo.InvariantCulture);
        var seen = new Checker();
        RingException problem = null;
        Say("READY");
        Stopwatch watch = Stopwatch.StartNew();
        try
        {
            using (var reader = new RingReader(words.Get("channel", null), how == "lossless", words.Get("directory", null)))
            {
                while (seen.Last < until && watch.Elapsed.TotalSeconds < patience)
                {
                    RingFrame frame = how == "read" ? reader.Read(0.1) : reader.View(0.1);
                    if (frame == null)
                        continue;
                    ulong code = seen.Judge(frame);
                    if (doom != 0 && seen.Last >= doom)
                        Die();
                    if (how != "read")
                    {
                        if (hold > TimeSpan.Zero)
                            Thread.Sleep(hold);
                        seen.Torn += seen.Pixels(frame, code) ? 0u : 1u;
                        seen.Torn += reader.GiveBack() ? 0u : 1u;
                    }
                    if (pause > TimeSpan.Zero)
                        Thread.Sleep(pause);
                }
            }
        }
        catch (RingException error)
        {
            problem = error;
        }
        bool late = problem == null && seen.Last < until;
        ulong missed = how == "lossless" ? seen.Missed : 0;
        Say($"{{\"role\": \"read\", \"taken\": {seen.Taken}, \"first\": {seen.First}, \"last\": {seen.Last}, \"torn\": {seen.Torn}, " +
            $"\"wrong\": {seen.Wrong}, \"older\": {seen.Older}, \"missed\": {missed}, \"generations\": {seen.Generations.Count}, " +
            $"\"seconds\": {Number(watch.Elapsed.TotalSeconds)}, \"timeout\": {(late ? "true" : "false")}, \"error\": {ErrorOf(problem)}}}");
        if (problem != null)
            return 1;
        return seen.Torn + seen.Wrong + seen.Older + missed != 0 ? 3 : late ? 4 : 0;
    }

    // measure

    private static double Median(double[] values)
    {
        Array.Sort(values);
        return (values[(values.Length - 1) / 2] + values[values.Length / 2]) / 2;
    }

    private static int Measure(Words words)
    {
        int width = (int)words.Number("width", 1920), height = (int)words.Number("height", 1080);
        int rounds = (int)words.Number("rounds", 200);
        long size = 4L * width * height;
        var specs = new[] { new PlaneSpec(PlaneKind.Colour, PixelFormat.RGBA8, width, height) };
        var reads = new double[rounds];
        var copies = new double[rounds];
        double perUs = Stopwatch.Frequency / 1e6;
        var buffer = (byte*)Marshal.AllocHGlobal((IntPtr)size);
        string directory = words.Get("directory", null);
        using (var writer = new RingWriter(words.Get("channel", null), size, directory: directory))
        using (var reader = new RingReader(words.Get("channel", null), directory: directory))
        {
            for (int i = 0; i < rounds; i++)
            {
                writer.Begin(specs).Publish();
                long began = Stopwatch.GetTimestamp();
                reader.ReadInto(buffer, size);
                reads[i] = (Stopwatch.GetTimestamp() - began) / perUs;
                writer.Begin(specs).Publish();
                RingPlane source = reader.View().Planes[0];
                began = Stopwatch.GetTimestamp();
                Buffer.MemoryCopy(source.Data, buffer, size, size);
                copies[i] = (Stopwatch.GetTimestamp() - began) / perUs;
                reader.GiveBack();
            }
        }
        Marshal.FreeHGlobal((IntPtr)buffer);
        Say($"{{\"role\": \"measure\", \"read_us\": {Number(Median(reads))}, \"copy_us\": {Number(Median(copies))}, " +
            $"\"bytes\": {size}, \"error\": null}}");
        return 0;
    }

    private static int Main(string[] line)
    {
        var words = new Words();
        string role = line.Length == 0 ? "" : line[0];
        if (role == "write" && words.Parse(line, WriteWords))
            return Write(words);
        if (role == "read" && words.Parse(line, ReadWords) && words.Has("until"))
            return Read(words);
        if (role == "measure" && words.Parse(line, MeasureWords))
            return Measure(words);
        Console.Error.WriteLine("usage: PEER write|read|measure channel=NAME [name=value ...]; see tests/conformance/peer.py");
        return 2;
    }
}
