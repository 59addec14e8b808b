// A C# reader that does what it is told: RingByHand.exe DIRECTORY, then one command a line, one answer a line.
//   read MS | view MS   take a frame within so many milliseconds: "SEQUENCE MICROSECONDS", 0 for none, or the type of the error
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
                    RingFrame frame = words[0] == "view" ? reader.View(timeoutS) : reader.Read(timeoutS);
                    Console.WriteLine((frame == null ? 0 : frame.Sequence) + " " + clock.ElapsedTicks * 1000000 / Stopwatch.Frequency);
                }
                catch (RingException error)
                {
                    Console.WriteLine(error.GetType().Name);
                }
            }
    }
}
