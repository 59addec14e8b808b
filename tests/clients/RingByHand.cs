// A C# reader that does what it is told: RingByHand.exe DIRECTORY, then one command a line, one answer a line.
//   read MS | view MS   take a frame within so many milliseconds: "SEQUENCE MICROSECONDS", 0 for none, or the type of the error
//   fresh MS            the same as read, by a reader that has seen nothing yet and looks at every byte of the planes
//   back                give the view back: "true" or "false"

using System;
using System.Diagnostics;
using Frameloom;

internal static class RingByHand
{
    private static void Main(string[] given)
    {
        using (var reader = new RingReader("a", false, given[0]))
            for (string line = Console.ReadLine(); line != null; line = Console.ReadLine())
            {
                string[] words = line.Split(' ');
                if (words[0] == "back")
                {
                    Console.WriteLine(reader.GiveBack() ? "true" : "false");
                    continue;
                }
                double timeoutS = double.Parse(words[1]) / 1000;
                Stopwatch clock = Stopwatch.StartNew();
                try
                {
                    if (words[0] == "fresh")
                    {
                        Console.WriteLine(Fresh(given[0], timeoutS));
                        continue;
                    }
                    RingFrame frame = words[0] == "view" ? reader.View(timeoutS) : reader.Read(timeoutS);
                    Console.WriteLine((frame == null ? 0 : frame.Sequence) + " " + clock.ElapsedTicks * 1000000 / Stopwatch.Frequency);
                }
                catch (RingException error)
                {
                    Console.WriteLine(error.GetType().Name);
                }
            }
    }

    private static unsafe string Fresh(string directory, double timeoutS)
    {
        using (var reader = new RingReader("a", false, directory))
        {
            RingFrame frame = reader.Read(timeoutS);
            ulong sum = 0;
            for (int i = 0; frame != null && i < frame.PlaneCount; i++)
                for (long at = 0; at < frame.Planes[i].Size; at++)
                    sum += frame.Planes[i].Data[at];
            return (frame == null ? 0 : frame.Sequence) + " " + sum;
        }
    }
}
