// Open Sound Control 1.0, what a frameloom host needs of it: a bundle of messages with at most a few arguments each.

using System;
using System.Collections.Generic;
using System.Text;

namespace Frameloom
{
    /// <summary>Messages that take effect together. Numbers are 32 bits wide, as the host and everybody else reads them.</summary>
    public sealed class OscBundle
    {
        private readonly List<byte> bytes = new List<byte>();

        public OscBundle()
        {
            Clear();
        }

        /// <summary>Messages added since the last `Clear`.</summary>
        public int Count { get; private set; }

        public void Clear()
        {
            Count = 0;
            bytes.Clear();
            PutText("#bundle");
            // The time tag 1 means at once.
            PutInt(0);
            PutInt(1);
        }

        public byte[] ToArray()
        {
            return bytes.ToArray();
        }

        public void Add(string address)
        {
            Begin(address, ",");
            End();
        }

        public void Add(string address, string value)
        {
            Begin(address, ",s");
            PutText(value);
            End();
        }

        public void Add(string address, int value)
        {
            Begin(address, ",i");
            PutInt(value);
            End();
        }

        public void Add(string address, float value)
        {
            Begin(address, ",f");
            PutInt(BitConverter.ToInt32(BitConverter.GetBytes(value), 0));
            End();
        }

        public void Add(string address, string text, float value)
        {
            Begin(address, ",sf");
            PutText(text);
            PutInt(BitConverter.ToInt32(BitConverter.GetBytes(value), 0));
            End();
        }

        public void Add(string address, string[] texts)
        {
            Begin(address, "," + new string('s', texts.Length));
            foreach (string text in texts)
                PutText(text);
            End();
        }

        public void Add(string address, bool value)
        {
            Begin(address, value ? ",T" : ",F");
            End();
        }

        public void Add(string address, int[] values)
        {
            Begin(address, "," + new string('i', values.Length));
            foreach (int value in values)
                PutInt(value);
            End();
        }

        private int sizeAt;

        private void Begin(string address, string types)
        {
            sizeAt = bytes.Count;
            PutInt(0);
            PutText(address);
            PutText(types);
        }

        private void End()
        {
            int size = bytes.Count - sizeAt - 4;
            for (int i = 0; i < 4; i++)
                bytes[sizeAt + i] = (byte)(size >> (24 - 8 * i));
            Count++;
        }

        private void PutInt(int value)
        {
            for (int shift = 24; shift >= 0; shift -= 8)
                bytes.Add((byte)(value >> shift));
        }

        /// <summary>Zero-terminated, filled up to four bytes.</summary>
        private void PutText(string text)
        {
            bytes.AddRange(Encoding.UTF8.GetBytes(text));
            do
                bytes.Add(0);
            while (bytes.Count % 4 != 0);
        }

        /// <summary>
        /// Address and arguments (string, int, float, bool) of one message that came in; false for anything that is none. Arguments of
        /// other types end the list.
        /// </summary>
        public static bool TryRead(byte[] data, out string address, List<object> arguments)
        {
            int at = 0;
            arguments.Clear();
            if (!ReadText(data, ref at, out address) || address.Length == 0 || address[0] != '/')
                return false;
            if (!ReadText(data, ref at, out string types) || types.Length == 0 || types[0] != ',')
                return false;
            foreach (char type in types.Substring(1))
            {
                if (type == 'T' || type == 'F')
                    arguments.Add(type == 'T');
                else if (type == 's' && ReadText(data, ref at, out string text))
                    arguments.Add(text);
                else if ((type == 'i' || type == 'f') && at + 4 <= data.Length)
                {
                    int bits = data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3];
                    at += 4;
                    arguments.Add(type == 'i' ? (object)bits : BitConverter.ToSingle(BitConverter.GetBytes(bits), 0));
                }
                else
                    break;
            }
            return true;
        }

        private static bool ReadText(byte[] data, ref int at, out string text)
        {
            int end = at < data.Length ? Array.IndexOf(data, (byte)0, at) : -1;
            text = end < 0 ? "" : Encoding.UTF8.GetString(data, at, end - at);
            at = (end / 4 + 1) * 4;
            return end >= 0;
        }
    }
}
