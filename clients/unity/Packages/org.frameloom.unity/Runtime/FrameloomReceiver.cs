using UnityEngine;

namespace Frameloom
{
    /// <summary>
    /// Shows the newest frame of a frameloom ring, in every Update of play mode that finds a new one. The frame is copied once,
    /// from the ring into the texture's memory. Nothing waits.
    /// </summary>
    [AddComponentMenu("frameloom/Frameloom Receiver")]
    public sealed partial class FrameloomReceiver : MonoBehaviour
    {
        private const double RetryS = 0.5;
        private const double LookS = 1;
        private const ulong AlphaEvery = 60;

        private readonly FrameTexture frameTexture = new FrameTexture();
        private WarnOnce warnings;
        private MaterialPropertyBlock block;
        private RingReader reader;
        private double retryAt;
        private double lookAt;

        // The newest frame could not be shown: that its writer lives solves nothing.
        private bool refused;

        // What was begun with; another setting begins anew.
        private string openChannel;
        private string openDirectory;

        private WarnOnce Warnings => warnings ?? (warnings = new WarnOnce(this));

        private void OnEnable()
        {
            Begin();
        }

        private void OnDisable()
        {
            CloseReader();
            frameTexture.Release();
        }

        private void Begin()
        {
            Warnings.Reset();
            CloseReader();
            openChannel = _channel;
            openDirectory = _directory;
            retryAt = 0;
            // A writer that starts together with us gets a moment.
            lookAt = Time.realtimeSinceStartupAsDouble + LookS;
            framesReceived = sourceFrameId = 0;
            refused = false;
            writerState = WriterState.NoWriter;
        }

        private void CloseReader()
        {
            if (reader != null)
                reader.Dispose();
            reader = null;
        }

        private void Update()
        {
            if (openChannel != _channel || openDirectory != _directory)
                Begin();
            double now = Time.realtimeSinceStartupAsDouble;
            if (now < retryAt)
                return;
            try
            {
                if (reader == null)
                    reader = new RingReader(_channel, directory: string.IsNullOrEmpty(_directory) ? null : _directory);
                RingFrame frame = reader.View();
                if (frame != null)
                    Receive(frame);
                if (now >= lookAt)
                {
                    lookAt = now + LookS;
                    Look();
                }
            }
            catch (RingException error)
            {
                Warnings.Problem(error.Message);
                // One bad frame costs one frame; everything else is looked at again in a moment.
                if (!(error is MalformedSlotException))
                    retryAt = now + RetryS;
            }
        }

        private void Look()
        {
            writerState = reader.State;
            refused &= writerState == WriterState.Live;
            if (writerState == WriterState.NoWriter)
                Warnings.Problem($"nobody writes channel {_channel}; start the host (python3 run.py host --channel {ChannelOfHost()})");
            else if (writerState == WriterState.WriterGone)
                Warnings.Problem($"the writer of channel {_channel} has ended and the picture is its last; start it again");
            else if (!refused)
                Warnings.Solved();
        }

        private string ChannelOfHost()
        {
            return _channel.EndsWith(".out") ? _channel.Substring(0, _channel.Length - 4) : _channel;
        }

        private void Receive(RingFrame frame)
        {
            bool loaded = false;
            ulong captureNs = frame.CaptureNs, source = frame.SourceFrameId;
            try
            {
                loaded = Load(frame);
                refused = !loaded;
            }
            finally
            {
                // A view that did not hold is not shown; the next frame is a matter of milliseconds.
                loaded &= reader.GiveBack();
            }
            if (!loaded)
                return;
            frameTexture.Show();
            if (framesReceived++ % AlphaEvery == 0 && frameTexture.Transparent())
                Warnings.Advice(
                    $"the frames of channel {_channel} have an alpha of zero everywhere; show them with an opaque material, or let the " +
                    "writer send an opaque picture");
            sourceFrameId = source;
            latencyMs = (long)(RingClock.NowNs - captureNs) / 1e6f;
            writerState = WriterState.Live;
            Warnings.Solved();
            Output();
        }

        private bool Load(RingFrame frame)
        {
            if (!frame.TryPlane(PlaneKind.Colour, out RingPlane plane))
            {
                Warnings.Problem($"the frames of channel {_channel} have no colour plane; let the writer send one");
                return false;
            }
            if (plane.Width > SystemInfo.maxTextureSize || plane.Height > SystemInfo.maxTextureSize)
            {
                Warnings.Problem(
                    $"the frames of channel {_channel} are {plane.Width} x {plane.Height} pixels, this GPU shows sides up to " +
                    $"{SystemInfo.maxTextureSize}; let the writer send smaller ones");
                return false;
            }
            bool floats = plane.Format == PixelFormat.RGBA16F || plane.Format == PixelFormat.RGBA32F;
            bool linearProject = QualitySettings.activeColorSpace == ColorSpace.Linear;
            if (floats && frame.ColourSpace == ColourSpace.Srgb && linearProject)
                Warnings.Advice(
                    $"the frames of channel {_channel} are sRGB-encoded floats, which a linear project shows too bright; let the writer " +
                    "send linear floats, or bytes");
            if (frame.ColourSpace == ColourSpace.Linear && !linearProject)
                Warnings.Advice(
                    $"the frames of channel {_channel} are linear light, which a gamma project shows too dark; choose the linear colour " +
                    "space in the player settings, or let the writer send sRGB");
            frameTexture.Load(frame, plane);
            return true;
        }

        private void Output()
        {
            if (_targetTexture != null)
                Graphics.Blit(frameTexture.Texture, _targetTexture);
            if (_targetRenderer == null)
                return;
            if (block == null)
                block = new MaterialPropertyBlock();
            _targetRenderer.GetPropertyBlock(block);
            block.SetTexture(_targetMaterialProperty, frameTexture.Texture);
            _targetRenderer.SetPropertyBlock(block);
        }
    }
}
