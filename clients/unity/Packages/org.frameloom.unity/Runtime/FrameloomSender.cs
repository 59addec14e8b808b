using System.Collections;
using System.Collections.Generic;
using UnityEngine;
using UnityEngine.Experimental.Rendering;
using UnityEngine.Rendering;

namespace Frameloom
{
    /// <summary>
    /// Writes frames into a frameloom ring. At the end of every frame of play mode the picture is copied to a texture of the size to
    /// send, and the GPU delivers it into a slot of the ring, which is published when it is complete, one to three frames later.
    /// Nothing waits; what does not fit is dropped.
    /// </summary>
    [AddComponentMenu("frameloom/Frameloom Sender")]
    public sealed partial class FrameloomSender : MonoBehaviour
    {
        private const int MaxInFlight = 3;

        /// <summary>Room for the newest frame, two readers with views and MaxInFlight slots in hand.</summary>
        private const int Slots = 6;

        private const double RetryS = 0.5;
        private const double SilenceS = 1;

        /// <summary>A plane that is the same everywhere in so many looks in a row is told of; a short rest is no news.</summary>
        private const int ConstantLooks = 3;

        private const string AlphaAdvice =
            "the picture's alpha is zero everywhere; the host ignores alpha, other readers may show nothing: let the camera clear to an " +
            "opaque colour";

        private readonly List<SlotReadback> readbacks = new List<SlotReadback>();
        private WarnOnce warnings;
        private Coroutine loop;
        private RingWriter writer;
        private RenderTexture picture;
        private ScenePlanes scenePlanes;
        private PlaneSpec[] specs;
        private Camera capturedCamera;
        private bool cameraRendered;
        private bool readbackFailed;
        private double retryAt;
        private double silentSince;
        private int refusals;
        private int constantDepth;
        private int constantMotion;

        // What was begun with; another setting begins anew.
        private string openChannel;
        private string openDirectory;
        private CaptureMethod openMethod;
        private Camera openCamera;
        private bool openRange;
        private bool openDepth;
        private bool openMotion;

        private WarnOnce Warnings => warnings ?? (warnings = new WarnOnce(this));

        private bool Changed =>
            openChannel != _channel || openDirectory != _directory || openMethod != _captureMethod || openCamera != _sourceCamera ||
            openRange != _highDynamicRange || openDepth != _sendDepth || openMotion != _sendMotion;

        /// <summary>Whether a camera is missing that may come later.</summary>
        private bool NeedsCamera =>
            capturedCamera == null && _captureMethod == CaptureMethod.Camera || scenePlanes != null && !scenePlanes.HasCamera;

        private void OnEnable()
        {
            Warnings.Reset();
            Begin();
            loop = StartCoroutine(CaptureLoop());
        }

        private void OnDisable()
        {
            // A disabled component's coroutines go on.
            StopCoroutine(loop);
            End();
        }

        private void Begin()
        {
            openChannel = _channel;
            openDirectory = _directory;
            openMethod = _captureMethod;
            openCamera = _sourceCamera;
            openRange = _highDynamicRange;
            openDepth = _sendDepth;
            openMotion = _sendMotion;
            readbackFailed = false;
            retryAt = 0;
            refusals = 0;
            constantDepth = constantMotion = 0;
            silentSince = Time.realtimeSinceStartupAsDouble;
            Camera camera = _sourceCamera != null ? _sourceCamera : Camera.main;
            if (_sendDepth || _sendMotion)
                scenePlanes = new ScenePlanes(camera, _sendDepth, _sendMotion, Warnings);
            if (_captureMethod == CaptureMethod.Camera)
                Attach(camera);
        }

        private void End()
        {
            Detach();
            // The GPU writes into slots that are mapped only as long as they are in hand.
            AsyncGPUReadback.WaitAllRequests();
            foreach (SlotReadback readback in readbacks)
                readback.Release();
            readbacks.Clear();
            if (scenePlanes != null)
                scenePlanes.Release();
            scenePlanes = null;
            CloseWriter();
            Release(ref picture);
        }

        private void CloseWriter()
        {
            if (writer != null)
                writer.Dispose();
            writer = null;
        }

        private static void Release(ref RenderTexture texture)
        {
            if (texture == null)
                return;
            texture.Release();
            Destroy(texture);
            texture = null;
        }

        private IEnumerator CaptureLoop()
        {
            var endOfFrame = new WaitForEndOfFrame();
            while (true)
            {
                yield return endOfFrame;
                CaptureFrame();
            }
        }

        // The source

        private void Attach(Camera camera)
        {
            if (camera == null)
            {
                Warnings.Problem("there is no camera to capture; set Source Camera or tag a camera MainCamera");
                return;
            }
            if (GraphicsSettings.currentRenderPipeline == null)
            {
                Warnings.Problem(
                    "the Camera method needs URP or HDRP; use Game View, or let the camera render into a render texture and send that");
                return;
            }
#if FRAMELOOM_HAS_SRP
            capturedCamera = camera;
            CameraCaptureBridge.AddCaptureAction(camera, OnCameraCapture);
#else
            Warnings.Problem("the Camera method needs the package com.unity.render-pipelines.core; install URP or HDRP");
#endif
        }

        private void Detach()
        {
#if FRAMELOOM_HAS_SRP
            if (capturedCamera != null)
                CameraCaptureBridge.RemoveCaptureAction(capturedCamera, OnCameraCapture);
#endif
            capturedCamera = null;
            cameraRendered = false;
        }

#if FRAMELOOM_HAS_SRP
        private void OnCameraCapture(RenderTargetIdentifier source, CommandBuffer commands)
        {
            // A pipeline may call once more after the component was disabled.
            if (capturedCamera == null || !PreparePicture(capturedCamera.pixelWidth, capturedCamera.pixelHeight))
                return;
            bool flip = RowsFromBottom(true);
            commands.Blit(source, picture, new Vector2(1, flip ? -1 : 1), new Vector2(0, flip ? 1 : 0));
            cameraRendered = true;
        }
#endif

        /// <summary>
        /// Whether the source's first row is the bottom one, as in all of Unity's textures. The screen and a camera's target are
        /// stored as the graphics API does it. Slots always begin with the top row, which saves the host from turning them.
        /// </summary>
        private bool RowsFromBottom(bool screen)
        {
            return !(screen && SystemInfo.graphicsUVStartsAtTop) != _flipVertically;
        }

        /// <summary>Copy this frame's picture to the texture to send; false when there is none.</summary>
        private bool TakePicture()
        {
            if (_captureMethod == CaptureMethod.Camera)
            {
                bool rendered = cameraRendered;
                cameraRendered = false;
                if (!rendered && capturedCamera != null && Time.realtimeSinceStartupAsDouble - silentSince > SilenceS)
                    Warnings.Problem($"camera {capturedCamera.name} renders nothing; enable it, or choose another Source Camera");
                return rendered;
            }
            if (_captureMethod == CaptureMethod.GameView)
            {
                if (!PreparePicture(Screen.width, Screen.height))
                    return false;
                RenderTexture screen = RenderTexture.GetTemporary(Screen.width, Screen.height, 0);
                ScreenCapture.CaptureScreenshotIntoRenderTexture(screen);
                Blit(screen, RowsFromBottom(true));
                RenderTexture.ReleaseTemporary(screen);
                return true;
            }
            if (_sourceTexture == null)
            {
                Warnings.Problem("there is no texture to send; set Source Texture or choose another capture method");
                return false;
            }
            if (!PreparePicture(_sourceTexture.width, _sourceTexture.height))
                return false;
            if (!_highDynamicRange && GraphicsFormatUtility.IsIEEE754Format(_sourceTexture.graphicsFormat))
                Warnings.Advice(
                    $"texture {_sourceTexture.name} has floats and is sent as bytes: light above 1 is cut; tone-map it first or tick " +
                    "High Dynamic Range");
            Blit(_sourceTexture, RowsFromBottom(false));
            return true;
        }

        private void Blit(Texture source, bool flip)
        {
            Graphics.Blit(source, picture, new Vector2(1, flip ? -1 : 1), new Vector2(0, flip ? 1 : 0));
        }

        /// <summary>A texture of the size and format to send; false, with a warning, when there cannot be one.</summary>
        private bool PreparePicture(int sourceWidth, int sourceHeight)
        {
            int width = _size.x > 0 ? _size.x : sourceWidth, height = _size.y > 0 ? _size.y : sourceHeight;
            if (sourceWidth < 1 || sourceHeight < 1)
            {
                Warnings.Problem($"the source is {sourceWidth} x {sourceHeight} pixels; give it a size");
                return false;
            }
            GraphicsFormat format = _highDynamicRange ? GraphicsFormat.R16G16B16A16_SFloat : GraphicsFormat.R8G8B8A8_SRGB;
            int bytesPerPixel = (_highDynamicRange ? 8 : 4) + (_sendDepth ? 4 : 0) + (_sendMotion ? 4 : 0);
            if (width > SystemInfo.maxTextureSize || height > SystemInfo.maxTextureSize ||
                (long)width * height * bytesPerPixel > RingWriter.DefaultMaxCapacityBytes)
            {
                Warnings.Problem(
                    $"a picture of {width} x {height} pixels is too large (sides up to {SystemInfo.maxTextureSize}, " +
                    $"{RingWriter.DefaultMaxCapacityBytes >> 20} MiB in all); set Size to what the host works at, such as 512 x 512");
                return false;
            }
            if (picture != null && (picture.width != width || picture.height != height || picture.graphicsFormat != format))
                Release(ref picture);
            if (picture == null)
            {
                picture = new RenderTexture(width, height, 0, format) { name = "frameloom sender" };
                specs = null;
            }
            return true;
        }

        // The ring

        private void CaptureFrame()
        {
            if (Changed)
            {
                End();
                Warnings.Reset();
                Begin();
            }
            else if (NeedsCamera && Time.realtimeSinceStartupAsDouble - silentSince > SilenceS)
            {
                End();
                Begin();
            }
            if (!SystemInfo.supportsAsyncGPUReadback)
            {
                Warnings.Problem($"{SystemInfo.graphicsDeviceType} cannot read back asynchronously; choose another graphics API");
                return;
            }
            if (!TakePicture() || !OpenWriter())
                return;
            if (specs == null)
                specs = Describe();
            SlotInHand slot = null;
            SlotReadback readback = FreeReadback();
            try
            {
                if (readback != null && (scenePlanes == null || scenePlanes.Ready(picture.width, picture.height)))
                    slot = writer.Begin(specs);
            }
            catch (RingException error)
            {
                Refused(error);
                return;
            }
            if (slot == null)
            {
                framesDropped++;
                return;
            }
            slot.SourceFrameId = ++frameId;
            slot.ColourSpace = _highDynamicRange && QualitySettings.activeColorSpace == ColorSpace.Linear
                ? ColourSpace.Linear
                : ColourSpace.Srgb;
            bool direct = _directReadback && !readbackFailed;
            readback.Begin(slot, direct);
            readback.Request(0, picture);
            for (int i = 1; i < specs.Length; i++)
                readback.Request(i, scenePlanes.TextureOf(specs[i].Kind));
        }

        private PlaneSpec[] Describe()
        {
            var planes = new List<PlaneSpec>
            {
                new PlaneSpec(
                    PlaneKind.Colour, _highDynamicRange ? PixelFormat.RGBA16F : PixelFormat.RGBA8, picture.width, picture.height),
            };
            if (_sendDepth)
                planes.Add(new PlaneSpec(PlaneKind.Depth, PixelFormat.R32F, picture.width, picture.height));
            if (_sendMotion)
                planes.Add(new PlaneSpec(PlaneKind.Motion, PixelFormat.RG16F, picture.width, picture.height));
            return planes.ToArray();
        }

        private SlotReadback FreeReadback()
        {
            foreach (SlotReadback readback in readbacks)
                if (!readback.Busy)
                    return readback;
            if (readbacks.Count >= MaxInFlight)
                return null;
            var another = new SlotReadback(OnPublished, OnLook, OnReadbackFailed);
            readbacks.Add(another);
            return another;
        }

        private bool OpenWriter()
        {
            if (writer != null)
                return true;
            double now = Time.realtimeSinceStartupAsDouble;
            if (now < retryAt)
                return false;
            try
            {
                // No patience here: it would be a hitch. Trying again in the next frames is the same.
                writer = new RingWriter(
                    _channel, PicturesBytes(), Slots, directory: string.IsNullOrEmpty(_directory) ? null : _directory, patienceS: 0);
                refusals = 0;
                return true;
            }
            catch (WriterExistsException error)
            {
                // Somebody who only looks whether a writer lives may hold the lock for a moment.
                retryAt = now + RetryS / 5;
                if (++refusals > 3)
                    Refused(error);
            }
            catch (RingException error)
            {
                Refused(error);
            }
            return false;
        }

        private long PicturesBytes()
        {
            return (long)picture.width * picture.height * ((_highDynamicRange ? 8 : 4) + (_sendDepth ? 4 : 0) + (_sendMotion ? 4 : 0)) + 256;
        }

        private void Refused(RingException error)
        {
            Warnings.Problem(error.Message);
            retryAt = Time.realtimeSinceStartupAsDouble + RetryS;
            if (error is TruncatedSegmentException)
                CloseWriter();
        }

        private void OnPublished()
        {
            silentSince = Time.realtimeSinceStartupAsDouble;
            Warnings.Solved();
        }

        private void OnLook(RingPlane plane)
        {
            if (plane.Kind == PlaneKind.Depth)
                Watch(plane, "depth", ref constantDepth);
            else if (plane.Kind == PlaneKind.Motion)
                Watch(plane, "motion", ref constantMotion);
            else if (SlotReadback.Transparent(plane))
                Warnings.Advice(AlphaAdvice);
        }

        /// <summary>A pipeline that does not deliver a texture may bind an even one instead, and nobody would notice.</summary>
        private void Watch(RingPlane plane, string what, ref int looks)
        {
            looks = SlotReadback.Constant(plane) ? looks + 1 : 0;
            string advice = $"the {what} plane has been the same everywhere for a while; if the scene is not, {ScenePlanes.Help}";
            if (looks == 0)
                Warnings.Withdraw(advice);
            else if (looks >= ConstantLooks)
                Warnings.Advice(advice);
        }

        private void OnReadbackFailed(bool direct)
        {
            framesDropped++;
            if (direct)
            {
                readbackFailed = true;
                Warnings.Advice("this GPU cannot write into shared memory by itself; frames are copied once more instead");
            }
            else
                Warnings.Problem("the GPU could not deliver the picture; look for an error of the graphics driver above");
        }
    }
}
