using UnityEngine;

namespace Frameloom
{
    /// <summary>Where the sender's pictures come from.</summary>
    public enum CaptureMethod
    {
        /// <summary>What the game view shows, user interface included.</summary>
        GameView,

        /// <summary>What one camera renders; needs URP or HDRP.</summary>
        Camera,

        /// <summary>Any texture, such as the target of a camera.</summary>
        Texture,
    }

    public sealed partial class FrameloomSender
    {
        [SerializeField, Tooltip("Name of the ring to write; a host started with --channel unity reads unity.in.")]
        private string _channel = "unity.in";

        [SerializeField, Tooltip("Where the pictures come from.")]
        private CaptureMethod _captureMethod = CaptureMethod.GameView;

        [SerializeField, Tooltip("The camera to capture, or whose depth and motion to send; empty means the main camera.")]
        private Camera _sourceCamera;

        [SerializeField, Tooltip("The texture to send with the Texture method.")]
        private Texture _sourceTexture;

        [SerializeField, Tooltip("Size to send in pixels; 0 x 0 sends the source's own size.")]
        private Vector2Int _size = new Vector2Int(512, 512);

        [SerializeField, Tooltip("Send 16-bit linear floats instead of bytes, so that bright light is not cut.")]
        private bool _highDynamicRange;

        [SerializeField, Tooltip("Add a plane with the distance of every pixel in metres (built-in pipeline and URP).")]
        private bool _sendDepth;

        [SerializeField, Tooltip("Add a plane with the motion of every pixel since the previous frame (built-in pipeline and URP).")]
        private bool _sendMotion;

        [SerializeField, Tooltip("Turn the picture upside down, where a graphics API delivers it the other way round.")]
        private bool _flipVertically;

        [SerializeField, Tooltip("Let the GPU write into shared memory itself; without it every frame is copied once more.")]
        private bool _directReadback = true;

        [SerializeField, Tooltip("An existing folder for file-backed rings, the same on both sides; empty for the system's usual place.")]
        private string _directory = "";

        public string channel
        {
            get => _channel;
            set => _channel = value;
        }

        public CaptureMethod captureMethod
        {
            get => _captureMethod;
            set => _captureMethod = value;
        }

        public Camera sourceCamera
        {
            get => _sourceCamera;
            set => _sourceCamera = value;
        }

        public Texture sourceTexture
        {
            get => _sourceTexture;
            set => _sourceTexture = value;
        }

        public Vector2Int size
        {
            get => _size;
            set => _size = value;
        }

        public bool highDynamicRange
        {
            get => _highDynamicRange;
            set => _highDynamicRange = value;
        }

        public bool sendDepth
        {
            get => _sendDepth;
            set => _sendDepth = value;
        }

        public bool sendMotion
        {
            get => _sendMotion;
            set => _sendMotion = value;
        }

        public bool flipVertically
        {
            get => _flipVertically;
            set => _flipVertically = value;
        }

        public bool directReadback
        {
            get => _directReadback;
            set => _directReadback = value;
        }

        public string directory
        {
            get => _directory;
            set => _directory = value;
        }

        /// <summary>What is wrong, with the mend; empty when all is well. The inspector shows it.</summary>
        public string warning => Warnings.Text;

        /// <summary>Number of the newest frame sent, from 1; a result carries it as its source frame id.</summary>
        public ulong frameId { get; private set; }

        /// <summary>Frames that were not sent because the GPU or the readers were behind.</summary>
        public ulong framesDropped { get; private set; }
    }
}
