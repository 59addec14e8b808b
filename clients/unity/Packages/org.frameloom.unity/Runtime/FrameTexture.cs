using Unity.Collections;
using Unity.Collections.LowLevel.Unsafe;
using UnityEngine;
using UnityEngine.Experimental.Rendering;

namespace Frameloom
{
    /// <summary>
    /// The colour plane of a frame as a texture. One copy brings the rows into Unity's order, bottom row first; formats that graphics
    /// cards do not have (RGB8, R8) are widened to RGBA on the way.
    /// </summary>
    internal sealed unsafe class FrameTexture
    {
        public Texture2D Texture { get; private set; }

        /// <summary>Copy the plane into the texture's memory. Nothing is shown before `Show`.</summary>
        public void Load(RingFrame frame, RingPlane plane)
        {
            GraphicsFormat format = FormatOf(plane.Format, frame.ColourSpace);
            if (Texture == null || Texture.width != plane.Width || Texture.height != plane.Height || Texture.graphicsFormat != format)
            {
                Release();
                Texture = new Texture2D(plane.Width, plane.Height, format, TextureCreationFlags.None)
                {
                    name = "frameloom frame",
                    wrapMode = TextureWrapMode.Clamp,
                };
            }
            NativeArray<byte> pixels = Texture.GetRawTextureData<byte>();
            var target = (byte*)NativeArrayUnsafeUtility.GetUnsafePtr(pixels);
            long targetRow = pixels.Length / plane.Height;
            for (int y = 0; y < plane.Height; y++)
            {
                int row = frame.Origin == Origin.TopLeft ? plane.Height - 1 - y : y;
                CopyRow(plane.Data + y * plane.RowStride, target + row * targetRow, plane);
            }
        }

        private static void CopyRow(byte* from, byte* to, RingPlane plane)
        {
            if (plane.Format != PixelFormat.RGB8 && plane.Format != PixelFormat.R8)
            {
                UnsafeUtility.MemCpy(to, from, plane.RowBytes);
                return;
            }
            int step = plane.Format == PixelFormat.RGB8 ? 1 : 0;
            for (int x = 0; x < plane.Width; x++, to += 4, from += 1 + 2 * step)
            {
                to[0] = from[0];
                to[1] = from[step];
                to[2] = from[2 * step];
                to[3] = 255;
            }
        }

        private static GraphicsFormat FormatOf(PixelFormat format, ColourSpace colours)
        {
            bool encoded = colours == ColourSpace.Srgb;
            switch (format)
            {
                case PixelFormat.RGBA16F:
                    return GraphicsFormat.R16G16B16A16_SFloat;
                case PixelFormat.RGBA32F:
                    return GraphicsFormat.R32G32B32A32_SFloat;
                case PixelFormat.BGRA8:
                    return encoded ? GraphicsFormat.B8G8R8A8_SRGB : GraphicsFormat.B8G8R8A8_UNorm;
                default:
                    return encoded ? GraphicsFormat.R8G8B8A8_SRGB : GraphicsFormat.R8G8B8A8_UNorm;
            }
        }

        /// <summary>Whether the picture's alpha, looked at in a few places of the texture's memory, is zero everywhere.</summary>
        public bool Transparent()
        {
            const int samples = 64;
            NativeArray<byte> pixels = Texture.GetRawTextureData<byte>();
            int bytes = pixels.Length / (Texture.width * Texture.height), alpha = bytes / 4;
            int step = Mathf.Max(1, Texture.width * Texture.height / samples);
            for (int pixel = 0; pixel < Texture.width * Texture.height; pixel += step)
                for (int i = bytes - alpha; i < bytes; i++)
                    if (pixels[pixel * bytes + i] != 0)
                        return false;
            return true;
        }

        public void Show()
        {
            Texture.Apply(false, false);
        }

        public void Release()
        {
            if (Texture != null)
                Object.Destroy(Texture);
            Texture = null;
        }
    }
}
