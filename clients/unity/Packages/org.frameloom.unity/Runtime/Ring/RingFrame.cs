namespace Frameloom
{
    /// <summary>What a reader knows of the writer.</summary>
    public enum WriterState
    {
        NoWriter,
        Live,
        WriterGone,
    }

    /// <summary>
    /// One frame as a reader gets it. It belongs to its reader, which fills it anew for every frame. Times in nanoseconds of the
    /// ring's clock; sizes in pixels, those of the colour plane, or of the first plane where there is none.
    /// </summary>
    public sealed unsafe class RingFrame
    {
        /// <summary>The planes; only the first PlaneCount are of this frame.</summary>
        public readonly RingPlane[] Planes = new RingPlane[RingLayout.MaxPlanes];

        /// <summary>Camera to world, row-major 4x4, metres; of this frame only with SlotFlag.Pose.</summary>
        public readonly float[] WorldCamera = new float[16];

        /// <summary>fx, fy, cx, cy in pixels; of this frame only with SlotFlag.Intrinsics.</summary>
        public readonly float[] Intrinsics = new float[4];

        public int PlaneCount { get; internal set; }
        public ulong Sequence { get; internal set; }
        public ulong FrameId { get; internal set; }
        public ulong SourceFrameId { get; internal set; }
        public ulong CaptureNs { get; internal set; }
        public ulong PublishNs { get; internal set; }
        public ulong ParamRevision { get; internal set; }
        public SlotFlag Flags { get; internal set; }
        public Origin Origin { get; internal set; }
        public ColourSpace ColourSpace { get; internal set; }
        public int Width { get; internal set; }
        public int Height { get; internal set; }
        public ulong Generation { get; internal set; }

        internal RingFrame() { }

        /// <summary>The plane that shows `kind`; false when the frame has none.</summary>
        public bool TryPlane(PlaneKind kind, out RingPlane plane)
        {
            for (int i = 0; i < PlaneCount; i++)
            {
                plane = Planes[i];
                if (plane.Kind == kind)
                    return true;
            }
            plane = new RingPlane();
            return false;
        }

        /// <summary>Take over the fixed part of a slot header, given as private bytes.</summary>
        internal void Describe(byte* head)
        {
            FrameId = *(ulong*)(head + RingLayout.Slot.FrameId);
            SourceFrameId = *(ulong*)(head + RingLayout.Slot.SourceFrameId);
            CaptureNs = *(ulong*)(head + RingLayout.Slot.CaptureNs);
            PublishNs = *(ulong*)(head + RingLayout.Slot.PublishNs);
            ParamRevision = *(ulong*)(head + RingLayout.Slot.ParamRevision);
            Flags = (SlotFlag)(*(uint*)(head + RingLayout.Slot.Flags));
            Origin = (Origin)(*(uint*)(head + RingLayout.Slot.Origin));
            ColourSpace = (ColourSpace)(*(uint*)(head + RingLayout.Slot.ColourSpace));
            for (int i = 0; i < 16; i++)
                WorldCamera[i] = *(float*)(head + RingLayout.Slot.TWorldCamera + 4 * i);
            for (int i = 0; i < 4; i++)
                Intrinsics[i] = *(float*)(head + RingLayout.Slot.Intrinsics + 4 * i);
            Width = Planes[0].Width;
            Height = Planes[0].Height;
            for (int i = 0; i < PlaneCount; i++)
            {
                if (Planes[i].Kind == PlaneKind.Colour)
                {
                    Width = Planes[i].Width;
                    Height = Planes[i].Height;
                }
            }
        }
    }
}
