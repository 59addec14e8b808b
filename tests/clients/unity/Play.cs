// A player of stub scenes: takes one command a line, plays it, answers with one line. tests/clients/test_unity.py speaks to it.
//
//     gpu [uv=top|bottom] [colours=linear|gamma] [pipeline=none|srp|urp14|urp17] [direct=yes|no] [compatible=yes|no] [asked=yes|no]
//                                compatible: URP 17 without Render Graph; asked: another pass wants depth and motion, such as TAA's
//     load PATH                  an assembly of the package that nothing refers to, as a player does at its start
//     scene still|even           from now on nothing moves / the camera sees the same depth everywhere, too; or: scene moving
//     source texture|screen|camera WIDTH HEIGHT [half|clear]   what the scene is drawn into, and thus the capture method
//     report WIDTH HEIGHT        a source texture that only says it has this size
//     sender|receiver|control NAME=VALUE ...   makes the component at the first call, sets its properties
//     inspect sender|receiver|control          the rows of its inspector
//     frames COUNT [MS]          plays frames, MS apart
//     trip COUNT SECONDS [OFF]   plays frames until the receiver has shown so many new ones, each pixel off by OFF at most
//     shown / target             size, format and pixels (hexadecimal, bottom row first) of the receiver's texture / render texture
//     state                      everything the components say of themselves
//     enable|disable|destroy sender|receiver
//     sample CHANNEL PORT        begins the package's sample scene; its components take the place of the others
//
// Frame n of the scene: red x * 7 + n * 13, green y * 11 + n, blue (x xor y) + n * 5, y from the top; alpha 255, or 0 when "clear".

using System;
using System.Collections.Generic;
using System.Globalization;
using System.Reflection;
using System.Text;
using System.Threading;
using Frameloom;
using StubUnity;
using UnityEngine;
using UnityEngine.Experimental.Rendering;
using UnityEngine.Rendering;

internal static class Play
{
    private static readonly GameObject Things = new GameObject("things");
    private static FrameloomSender sender;
    private static FrameloomReceiver receiver;
    private static FrameloomControl control;
    private static RenderTexture canvas;
    private static RenderTexture target;
    private static Camera camera;
    private static string method = "texture";
    private static bool clear;
    private static bool paints = true;
    private static string scene = "moving";

    // The scene

    private static byte[] Pixel(ulong n, int x, int y)
    {
        return new[] { (byte)(x * 7 + (int)n * 13), (byte)(y * 11 + (int)n), (byte)((x ^ y) + (int)n * 5), (byte)(clear ? 0 : 255) };
    }

    private static void Paint(ulong n)
    {
        bool half = canvas.graphicsFormat == GraphicsFormat.R16G16B16A16_SFloat;
        bool fromTop = method != "texture" && Gpu.UVStartsAtTop;
        byte[] pixels = Gpu.Pixels(canvas);
        for (int y = 0; y < canvas.height; y++)
        {
            for (int x = 0; x < canvas.width; x++)
            {
                int row = fromTop ? y : canvas.height - 1 - y;
                byte[] rgba = Pixel(n, x, y);
                for (int channel = 0; channel < 4; channel++)
                {
                    if (!half)
                    {
                        pixels[(row * canvas.width + x) * 4 + channel] = rgba[channel];
                        continue;
                    }
                    // Linear light up to 2, so that half of it is beyond what bytes hold.
                    ushort value = Half.FromDouble(channel == 3 ? 1 : rgba[channel] / 127.5);
                    pixels[(row * canvas.width + x) * 8 + 2 * channel] = (byte)value;
                    pixels[(row * canvas.width + x) * 8 + 2 * channel + 1] = (byte)(value >> 8);
                }
            }
        }
    }

    private static void DrawScene()
    {
        if (canvas == null || !paints)
            return;
        Paint(sender == null ? 1 : sender.frameId + 1);
        if (camera != null)
        {
            Gpu.SetGlobal("_CameraDepthTexture", SceneDepth());
            Gpu.SetGlobal("_CameraMotionVectorsTexture", SceneMotion());
            Gpu.SetGlobal("_MotionVectorTexture", SceneMotion());
            Gpu.Rendered(camera, canvas);
        }
    }

    /// <summary>Metres: 1 + x + 100 y, y from the top. Like every texture, stored with the bottom row first.</summary>
    private static Texture SceneDepth()
    {
        var depth = new RenderTexture(canvas.width, canvas.height, 0, GraphicsFormat.R32_SFloat);
        for (int y = 0; y < canvas.height; y++)
            for (int x = 0; x < canvas.width; x++)
                BitConverter.GetBytes(scene == "even" ? 7f : 1f + x + 100f * y).CopyTo(Gpu.Pixels(depth), ((canvas.height - 1 - y) * canvas.width + x) * 4);
        return depth;
    }

    /// <summary>What moved one pixel to the right and two down since the previous frame, in Unity's measure.</summary>
    private static Texture SceneMotion()
    {
        var motion = new RenderTexture(canvas.width, canvas.height, 0, GraphicsFormat.R16G16_SFloat);
        byte[] pixels = Gpu.Pixels(motion);
        // A part of the scene rests: four pixels at the left of the lowest row.
        for (int i = scene == "moving" ? 4 * 4 : pixels.Length; i < pixels.Length; i += 4)
        {
            BitConverter.GetBytes(Half.FromDouble(1.0 / canvas.width)).CopyTo(pixels, i);
            BitConverter.GetBytes(Half.FromDouble(-2.0 / canvas.height)).CopyTo(pixels, i + 2);
        }
        return motion;
    }

    /// <summary>The two passes of FrameloomPlanes.shader, for a camera whose depth texture holds metres already.</summary>
    private static byte[] Fragment(Material material, int pass, int x, int y)
    {
        Vector4 size = Gpu.VectorOf(material, "_FrameloomSize");
        Texture from = Gpu.TextureOf(material, pass == 0 ? "_FrameloomDepth" : "_FrameloomMotion");
        int fromX = x * from.width / (int)size.x, fromY = ((int)size.y - 1 - y) * from.height / (int)size.y;
        int at = fromY * from.width + fromX;
        var result = new byte[4];
        Array.Copy(Gpu.Pixels(from), at * 4, result, 0, 4);
        if (pass == 0)
            return result;
        double right = Half.ToDouble(BitConverter.ToUInt16(result, 0)), up = Half.ToDouble(BitConverter.ToUInt16(result, 2));
        BitConverter.GetBytes(Half.FromDouble(-right * size.x)).CopyTo(result, 0);
        BitConverter.GetBytes(Half.FromDouble(up * size.y)).CopyTo(result, 2);
        return result;
    }

    // Commands

    private static string SetGpu(string name, string value)
    {
        switch (name)
        {
            case "uv":
                Gpu.UVStartsAtTop = value == "top";
                return "ok";
            case "colours":
                Gpu.ColorSpace = value == "linear" ? ColorSpace.Linear : ColorSpace.Gamma;
                return "ok";
            case "pipeline":
                Gpu.Pipeline = value == "srp" ? new RenderPipelineAsset()
                    : value.StartsWith("urp") ? new UnityEngine.Rendering.Universal.UniversalRenderPipelineAsset()
                    : null;
                Urp.Version = value == "urp14" ? 14 : 17;
                return "ok";
            case "compatible":
                Urp.Compatible = value == "yes";
                return "ok";
            case "asked":
                Urp.OthersAsk = value == "yes";
                return "ok";
            case "direct":
                Gpu.RefusesDirect = value == "no";
                return "ok";
            default:
                return "no such switch: " + name;
        }
    }

    private static string Load(string path)
    {
        foreach (Type type in Assembly.LoadFrom(path).GetTypes())
            foreach (MethodInfo found in type.GetMethods(BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic))
                if (found.GetCustomAttribute<RuntimeInitializeOnLoadMethodAttribute>() != null)
                    found.Invoke(null, null);
        return "ok";
    }

    private static string Source(string[] words)
    {
        method = words[1];
        int width = int.Parse(words[2]), height = int.Parse(words[3]);
        bool half = Array.IndexOf(words, "half") > 0;
        clear = Array.IndexOf(words, "clear") > 0;
        canvas = half
            ? new RenderTexture(width, height, 0, GraphicsFormat.R16G16B16A16_SFloat)
            : new RenderTexture(width, height, 0, GraphicsFormat.R8G8B8A8_SRGB);
        canvas.name = "canvas";
        if (method == "screen")
            Gpu.Screen = canvas;
        if (camera == null && method == "camera")
        {
            camera = new GameObject("eye").AddComponent<Camera>();
            Gpu.MainCamera = camera;
        }
        if (camera != null)
            camera.targetTexture = canvas;
        return "ok";
    }

    private static string Report(string[] words)
    {
        var odd = new Odd(int.Parse(words[1]), int.Parse(words[2]));
        paints = false;
        sender.captureMethod = CaptureMethod.Texture;
        sender.sourceTexture = odd;
        return "ok";
    }

    /// <summary>A texture that only says it has a size; the GPU would refuse to make it.</summary>
    private sealed class Odd : Texture
    {
        public Odd(int width, int height)
        {
            const BindingFlags any = BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic;
            typeof(Texture).GetProperty("width", any).SetValue(this, width, null);
            typeof(Texture).GetProperty("height", any).SetValue(this, height, null);
        }
    }

    private static void Set(object component, string name, string value)
    {
        if (component is FrameloomSender && name == "size")
        {
            string[] sides = value.Split('x');
            sender.size = new Vector2Int(int.Parse(sides[0]), int.Parse(sides[1]));
            return;
        }
        if (component is FrameloomReceiver && name == "target")
        {
            string[] sides = value.Split('x');
            target = new RenderTexture(int.Parse(sides[0]), int.Parse(sides[1]), 0);
            receiver.targetTexture = target;
            return;
        }
        object holder = component;
        FieldInfo field = null;
        if (component is FrameloomControl && typeof(FrameloomControl).GetProperty(name) == null)
        {
            holder = control.parameters;
            field = typeof(FrameloomParams).GetField(name);
        }
        PropertyInfo property = holder.GetType().GetProperty(name);
        Type type = field != null ? field.FieldType : property.PropertyType;
        object converted = type.IsEnum ? Enum.Parse(type, value)
            : type == typeof(int[]) ? Array.ConvertAll(value.Split(new[] { ',' }, StringSplitOptions.RemoveEmptyEntries), int.Parse)
            : Convert.ChangeType(value, type, CultureInfo.InvariantCulture);
        if (field != null)
            field.SetValue(holder, converted);
        else
            property.SetValue(holder, converted, null);
    }

    private static string Component(string[] words)
    {
        MonoBehaviour component;
        bool made = false;
        if (words[0] == "sender")
        {
            made = sender == null;
            if (made)
                sender = Things.AddComponent<FrameloomSender>();
            component = sender;
            if (canvas != null && made)
            {
                sender.size = new Vector2Int(0, 0);
                sender.sourceTexture = canvas;
                sender.captureMethod = method == "screen" ? CaptureMethod.GameView
                    : method == "camera" ? CaptureMethod.Camera
                    : CaptureMethod.Texture;
            }
        }
        else if (words[0] == "receiver")
        {
            made = receiver == null;
            if (made)
                receiver = Things.AddComponent<FrameloomReceiver>();
            component = receiver;
            if (made)
                receiver.targetRenderer = GameObject.CreatePrimitive(PrimitiveType.Quad).GetComponent<Renderer>();
        }
        else
        {
            if (control == null)
                control = Things.AddComponent<FrameloomControl>();
            component = control;
        }
        for (int i = 1; i < words.Length; i++)
        {
            int cut = words[i].IndexOf('=');
            Set(component, words[i].Substring(0, cut), words[i].Substring(cut + 1));
        }
        return "ok";
    }

    private static MonoBehaviour Named(string name)
    {
        return name == "sender" ? (MonoBehaviour)sender : name == "receiver" ? (MonoBehaviour)receiver : control;
    }

    private static string Inspect(string name)
    {
        Inspector.Draw("Frameloom.Editor", Named(name));
        return List(Inspector.Rows);
    }

    private static string Frames(string[] words)
    {
        int pause = words.Length > 2 ? int.Parse(words[2]) : 2;
        for (int i = 0; i < int.Parse(words[1]); i++)
        {
            Player.Frame();
            Thread.Sleep(pause);
        }
        return "ok";
    }

    /// <summary>Play until the receiver has shown so many new frames; each must be the picture of its source frame.</summary>
    private static string Trip(string[] words)
    {
        int wanted = int.Parse(words[1]), shown = 0, wrong = 0, older = 0;
        double deadline = Player.Seconds + double.Parse(words[2], CultureInfo.InvariantCulture);
        ulong before = receiver.framesReceived, last = 0;
        float slowest = 0;
        int off = words.Length > 3 ? int.Parse(words[3]) : 0;
        while (shown < wanted && Player.Seconds < deadline)
        {
            Player.Frame();
            Thread.Sleep(2);
            if (receiver.framesReceived == before)
                continue;
            before = receiver.framesReceived;
            shown++;
            older += receiver.sourceFrameId < last ? 1 : 0;
            last = receiver.sourceFrameId;
            wrong += Same(last, off) ? 0 : 1;
            slowest = Math.Max(slowest, receiver.latencyMs);
        }
        return $"{{\"shown\": {shown}, \"wrong\": {wrong}, \"older\": {older}, \"last\": {last}, \"slowest_ms\": {Number(slowest)}}}";
    }

    private static bool Same(ulong n, int off)
    {
        Texture2D texture = receiver.texture;
        if (texture.width != canvas.width || texture.height != canvas.height)
            return false;
        byte[] pixels = Gpu.Pixels(texture);
        for (int y = 0; y < texture.height; y++)
        {
            for (int x = 0; x < texture.width; x++)
            {
                byte[] rgba = Pixel(n, x, y);
                int at = ((texture.height - 1 - y) * texture.width + x) * 4;
                for (int channel = 0; channel < 3; channel++)
                    if (Math.Abs(pixels[at + channel] - rgba[channel]) > off)
                        return false;
            }
        }
        return true;
    }

    private static string Pixels(Texture texture)
    {
        if (texture == null)
            return "ok";
        string pixels = BitConverter.ToString(Gpu.Pixels(texture)).Replace("-", "").ToLowerInvariant();
        return $"{{\"width\": {texture.width}, \"height\": {texture.height}, \"format\": \"{texture.graphicsFormat}\", \"pixels\": \"{pixels}\"}}";
    }

    private static string State()
    {
        var text = new StringBuilder("{\"console\": " + List(Player.Warnings) + $", \"safety_handles\": {Gpu.SafetyHandles}");
        if (sender != null)
            text.Append($", \"sender\": {{\"frame\": {sender.frameId}, \"dropped\": {sender.framesDropped}, \"warning\": {Text(sender.warning)}}}");
        if (receiver != null)
        {
            var block = new MaterialPropertyBlock();
            receiver.targetRenderer.GetPropertyBlock(block);
            bool onRenderer = receiver.texture != null && block.GetTexture(receiver.targetMaterialProperty) == receiver.texture;
            text.Append(
                $", \"receiver\": {{\"frames\": {receiver.framesReceived}, \"source\": {receiver.sourceFrameId}, " +
                $"\"latency_ms\": {Number(receiver.latencyMs)}, \"writer\": \"{receiver.writerState}\", " +
                $"\"on_renderer\": {(onRenderer ? "true" : "false")}, \"warning\": {Text(receiver.warning)}}}");
        }
        if (control != null)
            text.Append($", \"control\": {{\"answers\": {(control.hostAnswers ? "true" : "false")}, \"warning\": {Text(control.warning)}}}");
        return text.Append("}").ToString();
    }

    private static string Text(string value)
    {
        return "\"" + value.Replace("\\", "\\\\").Replace("\"", "\\\"") + "\"";
    }

    private static string Number(float value)
    {
        return value.ToString("0.000", CultureInfo.InvariantCulture);
    }

    private static string List(List<string> items)
    {
        return "[" + string.Join(", ", items.ConvertAll(Text).ToArray()) + "]";
    }

    private static string Do(string[] words)
    {
        switch (words[0])
        {
            case "gpu":
                string answer = "ok";
                for (int i = 1; i < words.Length && answer == "ok"; i++)
                    answer = SetGpu(words[i].Split('=')[0], words[i].Split('=')[1]);
                return answer;
            case "source":
                return Source(words);
            case "load":
                return Load(words[1]);
            case "scene":
                scene = words[1];
                return "ok";
            case "report":
                return Report(words);
            case "sender":
            case "receiver":
            case "control":
                return Component(words);
            case "save":
                control.SavePreset(words[1]);
                return "ok";
            case "recall":
                control.RecallPreset(words[1], words.Length > 2 ? float.Parse(words[2], CultureInfo.InvariantCulture) : 0);
                return "ok";
            case "rename":
                control.RenamePreset(words[1], words[2]);
                return "ok";
            case "delete":
                control.DeletePreset(words[1]);
                return "ok";
            case "restore":
                control.RestorePreset(words[1]);
                return "ok";
            case "reorder":
                control.ReorderPresets(new List<string>(words).GetRange(1, words.Length - 1).ToArray());
                return "ok";
            case "inspect":
                return Inspect(words[1]);
            case "frames":
                return Frames(words);
            case "trip":
                return Trip(words);
            case "shown":
                return Pixels(receiver.texture);
            case "target":
                return Pixels(target);
            case "state":
                return State();
            case "enable":
            case "disable":
                Named(words[1]).enabled = words[0] == "enable";
                return "ok";
            case "destroy":
                UnityEngine.Object.Destroy(Named(words[1]));
                Player.Frame();
                return "ok";
            case "sample":
                return Sample(words);
            default:
                return "no such command: " + words[0];
        }
    }

    /// <summary>With channels and a port of its own: a machine may have a real host running.</summary>
    private static string Sample(string[] words)
    {
        var mirror = new GameObject("mirror").AddComponent<FrameloomMirror>();
        Player.Start(mirror);
        sender = mirror.GetComponent<FrameloomSender>();
        receiver = mirror.GetComponent<FrameloomReceiver>();
        control = mirror.GetComponent<FrameloomControl>();
        sender.channel = words[1] + ".in";
        receiver.channel = words[1] + ".out";
        control.port = int.Parse(words[2]);
        return "ok";
    }

    private static int Main()
    {
        Player.Scene = DrawScene;
        Gpu.Fragment = Fragment;
        Gpu.Assets["FrameloomPlanes"] = new Shader { name = "FrameloomPlanes" };
        for (string line = Console.In.ReadLine(); line != null; line = Console.In.ReadLine())
        {
            // A value with spaces in it comes in a line whose words are parted by tabs.
            string[] words = line.Split(line.IndexOf('\t') >= 0 ? '\t' : ' ');
            Console.Out.WriteLine(Do(words));
            Console.Out.Flush();
        }
        foreach (MonoBehaviour left in new MonoBehaviour[] { sender, receiver, control })
            if (left != null)
                UnityEngine.Object.Destroy(left);
        Player.Frame();
        return 0;
    }
}
