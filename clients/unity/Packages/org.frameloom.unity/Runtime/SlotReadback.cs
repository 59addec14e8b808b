using System;
using Unity.Collections;
using Unity.Collections.LowLevel.Unsafe;
using UnityEngine;
using UnityEngine.Rendering;

namespace Frameloom
{
    /// <summary>
    /// One slot on its way: the GPU delivers the planes into it, then it is published. Direct: the GPU's target is the slot's own
    /// memory. Else it is Unity's, and copied from there.
    /// </summary>
    internal sealed unsafe class SlotReadback
    {
        /// <summary>One of so many frames is looked at, at so many pixels of each plane.</summary>
        private const ulong LookEvery = 60;

        private const int LookSamples = 64;

        private readonly Action published;
        private readonly Action<RingPlane> look;
        private readonly Action<bool> failed;
        private readonly PlaneReadback[] planes = new PlaneReadback[RingLayout.MaxPlanes];
        private SlotInHand slot;
        private bool direct;
        private bool broken;
        private int pending;

        /// <summary>
        /// published: called for every slot; look: before that, now and then, with each of its planes. failed: called with whether it
        /// was a direct one.
        /// </summary>
        public SlotReadback(Action published, Action<RingPlane> look, Action<bool> failed)
        {
            this.published = published;
            this.look = look;
            this.failed = failed;
            for (int i = 0; i < planes.Length; i++)
                planes[i] = new PlaneReadback(this, i);
        }

        public bool Busy => slot != null;

        public void Begin(SlotInHand slot, bool direct)
        {
            this.slot = slot;
            this.direct = direct;
            broken = false;
            pending = slot.PlaneCount;
        }

        public void Request(int plane, Texture texture)
        {
            planes[plane].Request(texture, direct);
        }

        /// <summary>Give the slot up and be done; only when the GPU writes nothing any more. Callbacks may still come.</summary>
        public void Release()
        {
            Abandon();
            foreach (PlaneReadback plane in planes)
                plane.Release();
        }

        private void Abandon()
        {
            if (slot != null)
                slot.Abandon();
            slot = null;
        }

        private void Completed(bool error)
        {
            broken |= error;
            if (slot == null || --pending > 0)
                return;
            if (broken)
            {
                Abandon();
                failed(direct);
                return;
            }
            if (slot.SourceFrameId % LookEvery == 1)
                for (int i = 0; i < slot.PlaneCount; i++)
                    look(slot.Planes[i]);
            slot.Publish();
            slot = null;
            published();
        }

        private static long StepOf(RingPlane plane)
        {
            return Math.Max(1, (long)plane.Width * plane.Height / LookSamples);
        }

        /// <summary>Whether a plane with four channels has no alpha, as far as it is looked at.</summary>
        public static bool Transparent(RingPlane plane)
        {
            int bytes = (int)RingLayout.BytesPerPixel[(uint)plane.Format], alpha = bytes / 4;
            for (long pixel = 0, step = StepOf(plane); pixel < (long)plane.Width * plane.Height; pixel += step)
                for (int i = bytes - alpha; i < bytes; i++)
                    if (plane.Data[pixel * bytes + i] != 0)
                        return false;
            return true;
        }

        /// <summary>Whether all pixels of a plane are the same, as far as it is looked at.</summary>
        public static bool Constant(RingPlane plane)
        {
            int bytes = (int)RingLayout.BytesPerPixel[(uint)plane.Format];
            for (long pixel = 0, step = StepOf(plane); pixel < (long)plane.Width * plane.Height; pixel += step)
                for (int i = 0; i < bytes; i++)
                    if (plane.Data[pixel * bytes + i] != plane.Data[i])
                        return false;
            return true;
        }

        /// <summary>One plane of the slot; its callback is made once, so that a frame makes no garbage.</summary>
        private sealed class PlaneReadback
        {
            private readonly SlotReadback owner;
            private readonly int index;
            private readonly Action<AsyncGPUReadbackRequest> onDirect;
            private readonly Action<AsyncGPUReadbackRequest> onCopy;
            private NativeArray<byte> target;
#if ENABLE_UNITY_COLLECTIONS_CHECKS
            private AtomicSafetyHandle safety;
            private bool hasSafety;
#endif

            public PlaneReadback(SlotReadback owner, int index)
            {
                this.owner = owner;
                this.index = index;
                onDirect = OnDirect;
                onCopy = OnCopy;
            }

            public void Request(Texture texture, bool direct)
            {
                if (!direct)
                {
                    AsyncGPUReadback.Request(texture, 0, onCopy);
                    return;
                }
                RingPlane plane = owner.slot.Planes[index];
                target = NativeArrayUnsafeUtility.ConvertExistingDataToNativeArray<byte>(plane.Data, (int)plane.Size, Allocator.None);
#if ENABLE_UNITY_COLLECTIONS_CHECKS
                if (!hasSafety)
                    safety = AtomicSafetyHandle.Create();
                hasSafety = true;
                NativeArrayUnsafeUtility.SetAtomicSafetyHandle(ref target, safety);
#endif
                AsyncGPUReadback.RequestIntoNativeArray(ref target, texture, 0, onDirect);
            }

            public void Release()
            {
#if ENABLE_UNITY_COLLECTIONS_CHECKS
                if (hasSafety)
                    AtomicSafetyHandle.Release(safety);
                hasSafety = false;
#endif
            }

            private void OnDirect(AsyncGPUReadbackRequest request)
            {
                owner.Completed(request.hasError);
            }

            private void OnCopy(AsyncGPUReadbackRequest request)
            {
                bool error = request.hasError;
                if (!error && owner.slot != null)
                {
                    NativeArray<byte> pixels = request.GetData<byte>();
                    RingPlane plane = owner.slot.Planes[index];
                    error = pixels.Length != plane.Size;
                    if (!error)
                        UnsafeUtility.MemCpy(plane.Data, NativeArrayUnsafeUtility.GetUnsafeReadOnlyPtr(pixels), plane.Size);
                }
                owner.Completed(error);
            }
        }
    }
}
