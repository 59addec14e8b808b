// Textures, copies between them, cameras, pipelines, asynchronous read-back. Textures are memory with rows as the graphics API
// stores them: in this stand-in, as in Unity, row 0 is the bottom one, but for the screen and a camera's target where
// SystemInfo.graphicsUVStartsAtTop says otherwise.

using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using Unity.Collections;
using Unity.Collections.LowLevel.Unsafe;
using UnityEngine.Experimental.Rendering;
using UnityEngine.Rendering;

namespace UnityEngine
{
    public enum ColorSpace
    {
        Uninitialized = -1,
        Gamma = 0,
        Linear = 1,
    }

    public enum TextureWrapMode
    {
        Repeat = 0,
        Clamp = 1,
    }

    public enum CameraClearFlags
    {
        Skybox = 1,
        SolidColor = 2,
    }

    [Flags]
    public enum DepthTextureMode
    {
        None = 0,
        Depth = 1,
        DepthNormals = 2,
        MotionVectors = 4,
    }

    public static class QualitySettings
    {
        public static ColorSpace activeColorSpace => StubUnity.Gpu.ColorSpace;
    }

    public static class Screen
    {
        public static int width => StubUnity.Gpu.Screen.width;
        public static int height => StubUnity.Gpu.Screen.height;
    }

    public static class SystemInfo
    {
        public static bool graphicsUVStartsAtTop => StubUnity.Gpu.UVStartsAtTop;
        public static bool supportsAsyncGPUReadback => StubUnity.Gpu.CanReadBack;
        public static int maxTextureSize => 16384;
        public static GraphicsDeviceType graphicsDeviceType => GraphicsDeviceType.Null;
    }

    public class Texture : Object
    {
        internal byte[] memory;
        internal byte[] shown;

        public int width { get; internal set; }
        public int height { get; internal set; }
        public GraphicsFormat graphicsFormat { get; internal set; }
        public TextureWrapMode wrapMode { get; set; }

        internal void Allocate(int w, int h, GraphicsFormat format)
        {
            if (w < 1 || h < 1 || w > SystemInfo.maxTextureSize || h > SystemInfo.maxTextureSize)
                throw new ArgumentException($"a texture of {w} x {h}");
            width = w;
            height = h;
            graphicsFormat = format;
            memory = new byte[w * h * StubUnity.Gpu.BytesPerPixel(format)];
            shown = memory;
        }

        internal virtual void Forget() { }
    }

    public class Texture2D : Texture
    {
        private NativeArray<byte> raw;
        private GCHandle pinned;

        public Texture2D(int width, int height, GraphicsFormat format, TextureCreationFlags flags)
        {
            Allocate(width, height, format);
            shown = new byte[memory.Length];
        }

        public unsafe NativeArray<T> GetRawTextureData<T>() where T : struct
        {
            if (!pinned.IsAllocated)
            {
                pinned = GCHandle.Alloc(memory, GCHandleType.Pinned);
                raw = NativeArrayUnsafeUtility.ConvertExistingDataToNativeArray<byte>(
                    (void*)pinned.AddrOfPinnedObject(), memory.Length, Allocator.None);
            }
            return (NativeArray<T>)(object)raw;
        }

        public void Apply(bool updateMipmaps, bool makeNoLongerReadable)
        {
            memory.CopyTo(shown, 0);
        }

        internal override void Forget()
        {
            if (pinned.IsAllocated)
                pinned.Free();
        }
    }

    public class RenderTexture : Texture
    {
        internal bool released;

        public RenderTexture(int width, int height, int depth)
        {
            Allocate(width, height, GraphicsFormat.R8G8B8A8_SRGB);
        }

        public RenderTexture(int width, int height, int depth, GraphicsFormat format)
        {
            Allocate(width, height, format);
        }

        public void Release()
        {
            released = true;
        }

        public static RenderTexture GetTemporary(int width, int height, int depthBuffer) => new RenderTexture(width, height, depthBuffer);

        public static void ReleaseTemporary(RenderTexture temp)
        {
            temp.Release();
        }
    }

    public sealed class Shader : Object
    {
        internal static readonly Dictionary<string, Texture> Globals = new Dictionary<string, Texture>();
        private static readonly List<string> names = new List<string>();

        public static int PropertyToID(string name)
        {
            if (!names.Contains(name))
                names.Add(name);
            return names.IndexOf(name);
        }

        internal static string NameOf(int id) => names[id];

        public static Texture GetGlobalTexture(string name) => Globals.TryGetValue(name, out Texture found) ? found : null;
    }

    public class Material : Object
    {
        public readonly Shader shader;
        internal readonly Dictionary<string, Texture> textures = new Dictionary<string, Texture>();
        internal readonly Dictionary<string, Vector4> vectors = new Dictionary<string, Vector4>();

        public Material(Shader shader)
        {
            this.shader = shader;
        }

        public void SetVector(int nameID, Vector4 value)
        {
            vectors[Shader.NameOf(nameID)] = value;
        }

        public void SetTexture(int nameID, Texture value)
        {
            textures[Shader.NameOf(nameID)] = value;
        }
    }

    public sealed class MaterialPropertyBlock
    {
        internal readonly Dictionary<string, Texture> textures = new Dictionary<string, Texture>();

        public void SetTexture(string name, Texture value)
        {
            textures[name] = value;
        }

        public Texture GetTexture(string name) => textures.TryGetValue(name, out Texture found) ? found : null;
    }

    public class Renderer : Component
    {
        private readonly MaterialPropertyBlock own = new MaterialPropertyBlock();

        public void GetPropertyBlock(MaterialPropertyBlock properties)
        {
            foreach (KeyValuePair<string, Texture> pair in own.textures)
                properties.textures[pair.Key] = pair.Value;
        }

        public void SetPropertyBlock(MaterialPropertyBlock properties)
        {
            foreach (KeyValuePair<string, Texture> pair in properties.textures)
                own.textures[pair.Key] = pair.Value;
        }
    }

    public sealed class Camera : Behaviour
    {
        public delegate void CameraCallback(Camera cam);

        public static CameraCallback onPostRender;

        public static Camera main => StubUnity.Gpu.MainCamera;

        public int pixelWidth => targetTexture != null ? targetTexture.width : Screen.width;
        public int pixelHeight => targetTexture != null ? targetTexture.height : Screen.height;
        public DepthTextureMode depthTextureMode { get; set; }
        public RenderTexture targetTexture { get; set; }
        public CameraClearFlags clearFlags { get; set; } = CameraClearFlags.Skybox;
        public Color backgroundColor { get; set; }
    }

    public static class ScreenCapture
    {
        public static void CaptureScreenshotIntoRenderTexture(RenderTexture renderTexture)
        {
            StubUnity.Gpu.Copy(StubUnity.Gpu.Screen, renderTexture, new Vector2(1, 1), new Vector2(0, 0));
        }
    }

    public static class Graphics
    {
        public static void Blit(Texture source, RenderTexture dest)
        {
            StubUnity.Gpu.Copy(source, dest, new Vector2(1, 1), new Vector2(0, 0));
        }

        public static void Blit(Texture source, RenderTexture dest, Vector2 scale, Vector2 offset)
        {
            StubUnity.Gpu.Copy(source, dest, scale, offset);
        }

        public static void Blit(Texture source, RenderTexture dest, Material mat, int pass)
        {
            StubUnity.Gpu.Draw(dest, mat, pass);
        }
    }

    public static class Resources
    {
        public static T Load<T>(string path) where T : Object => StubUnity.Gpu.Assets.TryGetValue(path, out Object found) ? (T)found : null;
    }
}

namespace UnityEngine.Experimental.Rendering
{
    public enum GraphicsFormat
    {
        None = 0,
        R8G8B8A8_SRGB = 4,
        R8G8B8A8_UNorm = 8,
        R16G16_SFloat = 46,
        R16G16B16A16_SFloat = 48,
        R32_SFloat = 49,
        R32G32B32A32_SFloat = 52,
        B8G8R8A8_SRGB = 57,
        B8G8R8A8_UNorm = 59,
    }

    [Flags]
    public enum TextureCreationFlags
    {
        None = 0,
    }

    public class GraphicsFormatUtility
    {
        public static bool IsIEEE754Format(GraphicsFormat format) => format.ToString().EndsWith("SFloat");
    }
}

namespace UnityEngine.Rendering
{
    public enum GraphicsDeviceType
    {
        Null = 4,
    }

    public class RenderPipelineAsset : Object { }

    public sealed class GraphicsSettings : Object
    {
        public static RenderPipelineAsset currentRenderPipeline => StubUnity.Gpu.Pipeline;

#if STUB_SRP
        public static T GetRenderPipelineSettings<T>() where T : class, IRenderPipelineGraphicsSettings => Activator.CreateInstance<T>();
#endif
    }

    public struct ScriptableRenderContext { }

    public static class RenderPipelineManager
    {
        public static event Action<ScriptableRenderContext, Camera> beginCameraRendering;
        public static event Action<ScriptableRenderContext, Camera> endCameraRendering;

        internal static void Begin(Camera camera)
        {
            beginCameraRendering?.Invoke(new ScriptableRenderContext(), camera);
        }

        internal static void End(Camera camera)
        {
            endCameraRendering?.Invoke(new ScriptableRenderContext(), camera);
        }
    }

    public struct RenderTargetIdentifier
    {
        internal Texture texture;

        public static implicit operator RenderTargetIdentifier(Texture tex) => new RenderTargetIdentifier { texture = tex };
    }

    public class CommandBuffer
    {
        internal static bool MaySetGlobals = true;

        public void SetGlobalTexture(int nameID, RenderTargetIdentifier value)
        {
            if (!MaySetGlobals)
                throw new InvalidOperationException("a pass that did not say it sets globals");
            StubUnity.Gpu.SetGlobal(Shader.NameOf(nameID), value.texture);
        }

        public void Blit(RenderTargetIdentifier source, RenderTargetIdentifier dest, Material mat, int pass)
        {
            StubUnity.Gpu.Draw((RenderTexture)dest.texture, mat, pass);
        }

        public void Blit(RenderTargetIdentifier source, RenderTargetIdentifier dest, Vector2 scale, Vector2 offset)
        {
            StubUnity.Gpu.Copy(source.texture, dest.texture, scale, offset);
        }
    }

#if STUB_SRP
    // From the package com.unity.render-pipelines.core.
    public static class CameraCaptureBridge
    {
        internal static readonly Dictionary<Camera, Action<RenderTargetIdentifier, CommandBuffer>> actions =
            new Dictionary<Camera, Action<RenderTargetIdentifier, CommandBuffer>>();

        public static void AddCaptureAction(Camera camera, Action<RenderTargetIdentifier, CommandBuffer> action)
        {
            actions[camera] = action;
        }

        public static void RemoveCaptureAction(Camera camera, Action<RenderTargetIdentifier, CommandBuffer> action)
        {
            actions.Remove(camera);
        }
    }
#endif

    public struct AsyncGPUReadbackRequest
    {
        internal byte[] data;

        public bool hasError { get; internal set; }

        public unsafe NativeArray<T> GetData<T>(int layer = 0) where T : struct
        {
            // Good for one frame, as documented: the memory is given back in the next.
            GCHandle pinned = GCHandle.Alloc(data, GCHandleType.Pinned);
            StubUnity.Gpu.Borrowed.Add(pinned);
            return NativeArrayUnsafeUtility.ConvertExistingDataToNativeArray<T>((void*)pinned.AddrOfPinnedObject(), data.Length, Allocator.None);
        }
    }

    public static class AsyncGPUReadback
    {
        public static AsyncGPUReadbackRequest Request(
            Texture src, int mipIndex = 0, Action<AsyncGPUReadbackRequest> callback = null)
        {
            StubUnity.Gpu.Queue(src, IntPtr.Zero, 0, callback);
            return new AsyncGPUReadbackRequest();
        }

        public static unsafe AsyncGPUReadbackRequest RequestIntoNativeArray<T>(
            ref NativeArray<T> output, Texture src, int mipIndex = 0, Action<AsyncGPUReadbackRequest> callback = null) where T : struct
        {
            StubUnity.Gpu.Queue(src, (IntPtr)NativeArrayUnsafeUtility.GetUnsafePtr(output), output.Length, callback);
            return new AsyncGPUReadbackRequest();
        }

        public static void WaitAllRequests()
        {
            StubUnity.Gpu.DeliverAll();
        }
    }
}

namespace Unity.Collections
{
    public enum Allocator
    {
        Invalid = 0,
        None = 1,
        Temp = 2,
        TempJob = 3,
        Persistent = 4,
    }

    public unsafe struct NativeArray<T> where T : struct
    {
        internal void* memory;

        public int Length { get; internal set; }

        public T this[int index]
        {
            get
            {
                if ((uint)index >= (uint)Length)
                    throw new IndexOutOfRangeException();
                return (T)(object)((byte*)memory)[index];
            }
        }
    }
}

namespace Unity.Collections.LowLevel.Unsafe
{
    public struct AtomicSafetyHandle
    {
        internal int number;

        public static AtomicSafetyHandle Create()
        {
            StubUnity.Gpu.SafetyHandles++;
            return new AtomicSafetyHandle { number = StubUnity.Gpu.SafetyHandles };
        }

        public static void Release(AtomicSafetyHandle handle)
        {
            if (handle.number == 0)
                throw new InvalidOperationException("a safety handle that was never made");
            StubUnity.Gpu.SafetyHandles--;
        }
    }

    public static unsafe class NativeArrayUnsafeUtility
    {
        public static NativeArray<T> ConvertExistingDataToNativeArray<T>(void* dataPointer, int length, Allocator allocator) where T : struct
        {
            return new NativeArray<T> { memory = dataPointer, Length = length };
        }

        public static void SetAtomicSafetyHandle<T>(ref NativeArray<T> array, AtomicSafetyHandle safety) where T : struct { }

        public static void* GetUnsafePtr<T>(NativeArray<T> nativeArray) where T : struct => nativeArray.memory;

        public static void* GetUnsafeReadOnlyPtr<T>(NativeArray<T> nativeArray) where T : struct => nativeArray.memory;
    }

    public static unsafe class UnsafeUtility
    {
        public static void MemCpy(void* destination, void* source, long size)
        {
            Buffer.MemoryCopy(source, destination, size, size);
        }
    }
}

namespace StubUnity
{
    using UnityEngine;

    /// <summary>The graphics device of the tests: memory, a queue of read-backs that are two frames late, switches.</summary>
    public static class Gpu
    {
        private const int LateFrames = 2;

        public static ColorSpace ColorSpace = ColorSpace.Linear;
        public static bool UVStartsAtTop = true;
        public static bool CanReadBack = true;

        /// <summary>Whether a read-back into memory of the caller's fails.</summary>
        public static bool RefusesDirect;

        public static RenderTexture Screen = new RenderTexture(64, 48, 0);
        public static Camera MainCamera;
        public static RenderPipelineAsset Pipeline;
        public static readonly Dictionary<string, Object> Assets = new Dictionary<string, Object>();

        /// <summary>What a pass of a material draws: bytes of the pixel (x, y), row 0 the bottom one.</summary>
        public static Func<Material, int, int, int, byte[]> Fragment;

        public static int SafetyHandles;
        internal static readonly List<GCHandle> Borrowed = new List<GCHandle>();
        private static readonly List<Pending> queue = new List<Pending>();

        private sealed class Pending
        {
            public byte[] Data;
            public IntPtr Target;
            public int Length;
            public Action<AsyncGPUReadbackRequest> Callback;
            public bool Failed;
            public int Frames = LateFrames;
        }

        public static int BytesPerPixel(GraphicsFormat format)
        {
            switch (format)
            {
                case GraphicsFormat.R32G32B32A32_SFloat:
                    return 16;
                case GraphicsFormat.R16G16B16A16_SFloat:
                    return 8;
                default:
                    return 4;
            }
        }

        /// <summary>A texture's pixels as the GPU sees them.</summary>
        public static byte[] Pixels(Texture texture) => texture.shown;

        public static void SetGlobal(string name, Texture texture)
        {
            Shader.Globals[name] = texture;
        }

        public static Vector4 VectorOf(Material material, string name) => material.vectors[name];

        /// <summary>What a shader samples by that name: the material's own texture, else the global one.</summary>
        public static Texture TextureOf(Material material, string name)
        {
            return material.textures.TryGetValue(name, out Texture own) ? own : Shader.Globals[name];
        }

        /// <summary>Both pipelines' notice that a camera has rendered into `target`.</summary>
        public static void Rendered(Camera camera, Texture target)
        {
            if (Pipeline == null)
            {
                Camera.onPostRender?.Invoke(camera);
                return;
            }
            RenderPipelineManager.Begin(camera);
#if STUB_SRP
            if (Pipeline is UnityEngine.Rendering.Universal.UniversalRenderPipelineAsset)
                Urp.Render(camera);
            if (CameraCaptureBridge.actions.TryGetValue(camera, out Action<RenderTargetIdentifier, CommandBuffer> action))
                action(target, new CommandBuffer());
#endif
            RenderPipelineManager.End(camera);
        }

        internal static void Copy(Texture source, Texture dest, Vector2 scale, Vector2 offset)
        {
            if (dest is RenderTexture target && target.released)
                throw new InvalidOperationException("a copy to a released texture");
            int from = BytesPerPixel(source.graphicsFormat), to = BytesPerPixel(dest.graphicsFormat);
            for (int y = 0; y < dest.height; y++)
            {
                for (int x = 0; x < dest.width; x++)
                {
                    float u = (x + 0.5f) / dest.width * scale.x + offset.x, v = (y + 0.5f) / dest.height * scale.y + offset.y;
                    int sourceX = Math.Min(source.width - 1, Math.Max(0, (int)Math.Floor(u * source.width)));
                    int sourceY = Math.Min(source.height - 1, Math.Max(0, (int)Math.Floor(v * source.height)));
                    int at = (sourceY * source.width + sourceX) * from, put = (y * dest.width + x) * to;
                    if (source.graphicsFormat == dest.graphicsFormat)
                        Array.Copy(source.shown, at, dest.memory, put, to);
                    else
                        Write(dest.graphicsFormat, dest.memory, put, Read(source.graphicsFormat, source.shown, at));
                }
            }
        }

        private static bool Encoded(GraphicsFormat format) => ColorSpace == ColorSpace.Linear && format.ToString().EndsWith("_SRGB");

        /// <summary>Where a channel (red first) lies in a pixel.</summary>
        private static int Place(GraphicsFormat format, int channel)
        {
            return channel < 3 && format.ToString().StartsWith("B8") ? 2 - channel : channel;
        }

        /// <summary>One pixel as the hardware samples it: linear light, red first.</summary>
        private static double[] Read(GraphicsFormat format, byte[] memory, int at)
        {
            var rgba = new double[4];
            for (int channel = 0; channel < 4; channel++)
            {
                int place = Place(format, channel);
                double value = BytesPerPixel(format) == 16 ? BitConverter.ToSingle(memory, at + 4 * place)
                    : BytesPerPixel(format) == 8 ? Half.ToDouble(BitConverter.ToUInt16(memory, at + 2 * place))
                    : memory[at + place] / 255.0;
                bool decode = Encoded(format) && channel < 3;
                rgba[channel] = !decode ? value : value <= 0.04045 ? value / 12.92 : Math.Pow((value + 0.055) / 1.055, 2.4);
            }
            return rgba;
        }

        private static void Write(GraphicsFormat format, byte[] memory, int at, double[] rgba)
        {
            for (int channel = 0; channel < 4; channel++)
            {
                int place = Place(format, channel);
                double value = rgba[channel];
                if (Encoded(format) && channel < 3)
                    value = value <= 0.0031308 ? value * 12.92 : 1.055 * Math.Pow(value, 1 / 2.4) - 0.055;
                if (BytesPerPixel(format) == 16)
                    BitConverter.GetBytes((float)value).CopyTo(memory, at + 4 * place);
                else if (BytesPerPixel(format) == 8)
                    BitConverter.GetBytes(Half.FromDouble(value)).CopyTo(memory, at + 2 * place);
                else
                    memory[at + place] = (byte)Math.Round(255 * Math.Min(1, Math.Max(0, value)));
            }
        }

        internal static void Draw(RenderTexture dest, Material material, int pass)
        {
            int size = BytesPerPixel(dest.graphicsFormat);
            for (int y = 0; y < dest.height; y++)
                for (int x = 0; x < dest.width; x++)
                    Array.Copy(Fragment(material, pass, x, y), 0, dest.memory, (y * dest.width + x) * size, size);
        }

        internal static void Queue(Texture source, IntPtr target, int length, Action<AsyncGPUReadbackRequest> callback)
        {
            queue.Add(new Pending { Data = (byte[])source.shown.Clone(), Target = target, Length = length, Callback = callback });
        }

        internal static void Deliver()
        {
            foreach (GCHandle pinned in Borrowed)
                pinned.Free();
            Borrowed.Clear();
            foreach (Pending pending in queue.ToArray())
                if (--pending.Frames <= 0)
                    Complete(pending);
        }

        /// <summary>Every transfer is done now; whether the callbacks come now or with the next frame is not documented.</summary>
        internal static void DeliverAll()
        {
            foreach (Pending pending in queue)
                Transfer(pending);
        }

        private static void Transfer(Pending pending)
        {
            bool direct = pending.Target != IntPtr.Zero;
            pending.Failed |= direct && (RefusesDirect || pending.Length < pending.Data.Length);
            if (direct && !pending.Failed)
                Marshal.Copy(pending.Data, 0, pending.Target, pending.Data.Length);
            pending.Target = IntPtr.Zero;
        }

        private static void Complete(Pending pending)
        {
            if (!queue.Remove(pending))
                return;
            Transfer(pending);
            pending.Callback?.Invoke(new AsyncGPUReadbackRequest { data = pending.Data, hasError = pending.Failed });
        }
    }

    /// <summary>IEEE 754 half precision, for finite numbers not below the smallest normal one.</summary>
    public static class Half
    {
        public static double ToDouble(ushort half)
        {
            int exponent = half >> 10 & 31, fraction = half & 1023;
            double magnitude = exponent == 0 ? fraction * Math.Pow(2, -24) : (1 + fraction / 1024.0) * Math.Pow(2, exponent - 15);
            return half >> 15 == 0 ? magnitude : -magnitude;
        }

        public static ushort FromDouble(double value)
        {
            int sign = value < 0 ? 0x8000 : 0;
            value = Math.Abs(value);
            if (value < Math.Pow(2, -14))
                return (ushort)(sign | (int)Math.Round(value * Math.Pow(2, 24)));
            int exponent = (int)Math.Floor(Math.Log(value, 2));
            int fraction = (int)Math.Round((value / Math.Pow(2, exponent) - 1) * 1024);
            return (ushort)(sign | ((exponent + 15) << 10) + fraction);
        }
    }
}
