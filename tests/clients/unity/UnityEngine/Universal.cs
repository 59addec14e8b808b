// The Universal Render Pipeline, as far as the package speaks to it. A pipeline renders depth and motion only for passes that ask for
// them. With Render Graph (17) they are there while the graph runs and for passes that said they read them; afterwards the global
// textures of their names are black. Before that (14), and in 17's Compatibility Mode, they stay in the global textures.

#if STUB_SRP
using System;
using System.Collections.Generic;
using System.Linq;
using UnityEngine.Experimental.Rendering;
using UnityEngine.Rendering.RenderGraphModule;
using UnityEngine.Rendering.Universal;

namespace UnityEngine.Scripting
{
    [AttributeUsage(AttributeTargets.Assembly)]
    public class AlwaysLinkAssemblyAttribute : Attribute { }
}

namespace UnityEngine.Rendering
{
    public interface IRenderPipelineGraphicsSettings
    {
        int version { get; }
    }

    public abstract class ContextItem
    {
        public abstract void Reset();
    }

    public class ContextContainer
    {
        private readonly Dictionary<Type, ContextItem> items = new Dictionary<Type, ContextItem>();

        public T Get<T>() where T : ContextItem, new() => (T)items[typeof(T)];

        internal void Put(ContextItem item)
        {
            items[item.GetType()] = item;
        }
    }

    public class UnsafeCommandBuffer
    {
        internal readonly CommandBuffer native = new CommandBuffer();
    }

    public struct CommandBufferHelpers
    {
        public static CommandBuffer GetNativeCommandBuffer(UnsafeCommandBuffer baseBuffer) => baseBuffer.native;
    }
}

namespace UnityEngine.Rendering.RenderGraphModule
{
    [Flags]
    public enum AccessFlags
    {
        None = 0,
        Read = 1,
        Write = 2,
    }

    public struct TextureHandle
    {
        internal Texture texture;

        public bool IsValid() => texture != null;

        public static implicit operator RenderTargetIdentifier(TextureHandle handle)
        {
            if (!RenderGraph.Readable.Contains(handle.texture))
                throw new InvalidOperationException("a texture that the running pass did not say it reads");
            return handle.texture;
        }
    }

    public class UnsafeGraphContext
    {
        public UnsafeCommandBuffer cmd = new UnsafeCommandBuffer();
    }

    public delegate void BaseRenderFunc<PassData, ContextType>(PassData data, ContextType renderGraphContext) where PassData : class, new();

    public interface IUnsafeRenderGraphBuilder : IDisposable
    {
        void UseTexture(in TextureHandle input, AccessFlags flags = AccessFlags.Read);
        void AllowPassCulling(bool value);
        void AllowGlobalStateModification(bool value);
        void SetRenderFunc<PassData>(BaseRenderFunc<PassData, UnsafeGraphContext> renderFunc) where PassData : class, new();
    }

    public class RenderGraph
    {
        /// <summary>What the pass that runs now may read.</summary>
        internal static readonly HashSet<Texture> Readable = new HashSet<Texture>();

        private readonly List<Pass> passes = new List<Pass>();

        private sealed class Pass : IUnsafeRenderGraphBuilder
        {
            public readonly HashSet<Texture> Reads = new HashSet<Texture>();
            public object Data;
            public Action<UnsafeGraphContext> Run;
            public bool Culled = true;
            public bool MaySetGlobals;

            public void UseTexture(in TextureHandle input, AccessFlags flags)
            {
                if (!input.IsValid())
                    throw new ArgumentException("a texture that is not there");
                Reads.Add(input.texture);
            }

            public void AllowPassCulling(bool value)
            {
                Culled = value;
            }

            public void AllowGlobalStateModification(bool value)
            {
                MaySetGlobals = value;
            }

            public void SetRenderFunc<PassData>(BaseRenderFunc<PassData, UnsafeGraphContext> renderFunc) where PassData : class, new()
            {
                Run = context => renderFunc((PassData)Data, context);
            }

            public void Dispose() { }
        }

        public IUnsafeRenderGraphBuilder AddUnsafePass<PassData>(
            string passName, out PassData passData, string file = "", int line = 0) where PassData : class, new()
        {
            passData = new PassData();
            passes.Add(new Pass { Data = passData });
            return (IUnsafeRenderGraphBuilder)passes[passes.Count - 1];
        }

        internal void Execute()
        {
            // A pass that writes nothing the graph knows is left out, unless it said otherwise.
            foreach (Pass pass in passes.Where(pass => !pass.Culled))
            {
                Readable.UnionWith(pass.Reads);
                CommandBuffer.MaySetGlobals = pass.MaySetGlobals;
                pass.Run(new UnsafeGraphContext());
                CommandBuffer.MaySetGlobals = true;
                Readable.Clear();
            }
        }
    }
}

namespace UnityEngine.Rendering.Universal
{
    public class UniversalRenderPipelineAsset : RenderPipelineAsset { }

    public class RenderGraphSettings : IRenderPipelineGraphicsSettings
    {
        public int version => 0;
        public bool enableRenderCompatibilityMode => StubUnity.Urp.Compatible;
    }

    [Flags]
    public enum ScriptableRenderPassInput
    {
        None = 0,
        Depth = 1,
        Normal = 2,
        Color = 4,
        Motion = 8,
    }

    public enum RenderPassEvent
    {
        AfterRenderingOpaques = 300,
        AfterRenderingPostProcessing = 600,
    }

    public struct RenderingData { }

    public abstract class ScriptableRenderPass
    {
        public RenderPassEvent renderPassEvent { get; set; } = RenderPassEvent.AfterRenderingOpaques;
        public ScriptableRenderPassInput input { get; private set; }

        public void ConfigureInput(ScriptableRenderPassInput passInput)
        {
            input = passInput;
        }

        // Abstract before 17.
        public virtual void Execute(ScriptableRenderContext context, ref RenderingData renderingData)
        {
            Debug.LogWarning($"Execute is not implemented, the pass {GetType().Name} won't be executed in the current render loop.", null);
        }

        // From 17.
        public virtual void RecordRenderGraph(RenderGraph renderGraph, ContextContainer frameData) { }
    }

    public abstract class ScriptableRenderer
    {
        internal readonly List<ScriptableRenderPass> queue = new List<ScriptableRenderPass>();

        public void EnqueuePass(ScriptableRenderPass pass)
        {
            queue.Add(pass);
        }
    }

    public class UniversalAdditionalCameraData : MonoBehaviour
    {
        internal sealed class Renderer : ScriptableRenderer { }

        public ScriptableRenderer scriptableRenderer { get; } = new Renderer();
    }

    public static class CameraExtensions
    {
        private static readonly Dictionary<Camera, UniversalAdditionalCameraData> known =
            new Dictionary<Camera, UniversalAdditionalCameraData>();

        public static UniversalAdditionalCameraData GetUniversalAdditionalCameraData(this Camera camera)
        {
            if (!known.TryGetValue(camera, out UniversalAdditionalCameraData data))
                data = known[camera] = new UniversalAdditionalCameraData();
            return data;
        }
    }

    public abstract class UniversalResourceDataBase : ContextItem { }

    public class UniversalResourceData : UniversalResourceDataBase
    {
        public TextureHandle cameraDepthTexture { get; internal set; }
        public TextureHandle motionVectorColor { get; internal set; }

        public override void Reset() { }
    }
}

namespace StubUnity
{
    using UnityEngine;
    using UnityEngine.Rendering;

    /// <summary>How the pipeline is set.</summary>
    public static class Urp
    {
        /// <summary>14 or 17.</summary>
        public static int Version = 17;

        /// <summary>17's Compatibility Mode.</summary>
        public static bool Compatible;

        /// <summary>Whether some other pass, such as TAA's, asks for depth and motion.</summary>
        public static bool OthersAsk;

        /// <summary>Render a camera: what is in the global textures is what the pipeline could deliver.</summary>
        internal static void Render(Camera camera)
        {
            List<ScriptableRenderPass> queue = camera.GetUniversalAdditionalCameraData().scriptableRenderer.queue;
            ScriptableRenderPass[] passes = queue.ToArray();
            queue.Clear();
            var asked = OthersAsk ? ScriptableRenderPassInput.Depth | ScriptableRenderPassInput.Motion : ScriptableRenderPassInput.None;
            foreach (ScriptableRenderPass pass in passes)
                asked |= pass.input;
            Texture depth = asked.HasFlag(ScriptableRenderPassInput.Depth) ? Shader.GetGlobalTexture("_CameraDepthTexture") : null;
            Texture motion = asked.HasFlag(ScriptableRenderPassInput.Motion) ? Shader.GetGlobalTexture("_MotionVectorTexture") : null;
            if (Version == 17 && !Compatible)
            {
                var graph = new RenderGraph();
                var frame = new ContextContainer();
                frame.Put(new UniversalResourceData
                {
                    cameraDepthTexture = new TextureHandle { texture = depth },
                    motionVectorColor = new TextureHandle { texture = motion },
                });
                foreach (ScriptableRenderPass pass in passes)
                    pass.RecordRenderGraph(graph, frame);
                Gpu.SetGlobal("_CameraDepthTexture", null);
                Gpu.SetGlobal("_MotionVectorTexture", null);
                graph.Execute();
                depth = motion = Black();
            }
            else
            {
                var rendering = new RenderingData();
                foreach (ScriptableRenderPass pass in passes)
                    pass.Execute(new ScriptableRenderContext(), ref rendering);
            }
            Gpu.SetGlobal("_CameraDepthTexture", depth);
            Gpu.SetGlobal("_MotionVectorTexture", motion);
        }

        private static Texture Black()
        {
            return new RenderTexture(64, 64, 0, GraphicsFormat.R32_SFloat);
        }
    }
}
#endif
