using UnityEngine;

namespace Frameloom
{
    public sealed partial class FrameloomReceiver
    {
        [SerializeField, Tooltip("Name of the ring to read; a host started with --channel unity writes unity.out.")]
        private string _channel = "unity.out";

        [SerializeField, Tooltip("A render texture that gets every new frame, scaled to its size.")]
        private RenderTexture _targetTexture;

        [SerializeField, Tooltip("A renderer whose material shows the frames.")]
        private Renderer _targetRenderer;

        [SerializeField, Tooltip("Texture property of that renderer's material, such as _MainTex or _BaseMap.")]
        private string _targetMaterialProperty = "_MainTex";

        [SerializeField, Tooltip("An existing folder for file-backed rings, the same on both sides; empty for the system's usual place.")]
        private string _directory = "";

        public string channel
        {
            get => _channel;
            set => _channel = value;
        }

        public RenderTexture targetTexture
        {
            get => _targetTexture;
            set => _targetTexture = value;
        }

        public Renderer targetRenderer
        {
            get => _targetRenderer;
            set => _targetRenderer = value;
        }

        public string targetMaterialProperty
        {
            get => _targetMaterialProperty;
            set => _targetMaterialProperty = value;
        }

        public string directory
        {
            get => _directory;
            set => _directory = value;
        }

        /// <summary>The newest frame as a texture; null before the first. A new object when size or format change.</summary>
        public Texture2D texture => frameTexture.Texture;

        /// <summary>What is wrong, with the mend; empty when all is well. The inspector shows it.</summary>
        public string warning => Warnings.Text;

        /// <summary>Number of the sender's frame that the shown one was made from; 0 before the first.</summary>
        public ulong sourceFrameId { get; private set; }

        /// <summary>Milliseconds from the capture of the source frame to the moment its result was shown here.</summary>
        public float latencyMs { get; private set; }

        /// <summary>Frames shown since the component was enabled.</summary>
        public ulong framesReceived { get; private set; }

        /// <summary>What is known of the writer, looked at once a second.</summary>
        public WriterState writerState { get; private set; }
    }
}
