using System;
using UnityEngine;
using UnityEngine.Rendering;
#if FRAMELOOM_RENDER_GRAPH
using UnityEngine.Rendering.RenderGraphModule;
#endif
using UnityEngine.Rendering.Universal;

// Nothing refers to this assembly; players are to keep it all the same.
[assembly: UnityEngine.Scripting.AlwaysLinkAssembly]

namespace Frameloom.Universal
{
    /// <summary>
    /// A pass that asks URP for the depth and motion of one camera; URP renders neither unless some pass wants it. With Render Graph
    /// (URP 17) the textures are there only while the graph runs, so the pass draws the planes as well. Older versions leave them in
    /// global textures until the camera is done, where <see cref="ScenePlanes"/> finds them.
    /// </summary>
    internal sealed class UniversalPlanes : ScriptableRenderPass, IDisposable
    {
        private readonly ScenePlanes planes;

        [RuntimeInitializeOnLoadMethod(RuntimeInitializeLoadType.SubsystemRegistration)]
        private static void Register()
        {
            ScenePlanes.Pipeline = For;
        }

        private static IDisposable For(ScenePlanes planes)
        {
            return GraphicsSettings.currentRenderPipeline is UniversalRenderPipelineAsset && !Compatible() ? new UniversalPlanes(planes) : null;
        }

        /// <summary>Whether URP 17 runs without Render Graph: passes like this one are not executed then.</summary>
        private static bool Compatible()
        {
#if FRAMELOOM_RENDER_GRAPH
#pragma warning disable CS0618 // obsolete, and always false, from 6000.3
            var settings = GraphicsSettings.GetRenderPipelineSettings<RenderGraphSettings>();
            return settings != null && settings.enableRenderCompatibilityMode;
#pragma warning restore CS0618
#else
            return false;
#endif
        }

        private UniversalPlanes(ScenePlanes planes)
        {
            this.planes = planes;
            // The last moment at which both are there in every version.
            renderPassEvent = RenderPassEvent.AfterRenderingPostProcessing;
            ConfigureInput(
                (planes.WantsDepth ? ScriptableRenderPassInput.Depth : ScriptableRenderPassInput.None) |
                (planes.WantsMotion ? ScriptableRenderPassInput.Motion : ScriptableRenderPassInput.None));
            RenderPipelineManager.beginCameraRendering += OnBegin;
        }

        public void Dispose()
        {
            RenderPipelineManager.beginCameraRendering -= OnBegin;
        }

        private void OnBegin(ScriptableRenderContext context, Camera which)
        {
            if (which == planes.Camera)
                which.GetUniversalAdditionalCameraData().scriptableRenderer.EnqueuePass(this);
        }

#if FRAMELOOM_RENDER_GRAPH
        private sealed class Drawing
        {
            public ScenePlanes planes;
            public TextureHandle depth;
            public TextureHandle motion;
        }

        public override void RecordRenderGraph(RenderGraph graph, ContextContainer frame)
        {
            var textures = frame.Get<UniversalResourceData>();
            planes.DrawnByPipeline = true;
            bool there = planes.Has("depth", !planes.WantsDepth || textures.cameraDepthTexture.IsValid()) &&
                planes.Has("motion vectors", !planes.WantsMotion || textures.motionVectorColor.IsValid());
            if (!there || !planes.MakeTextures())
                return;
            using (var builder = graph.AddUnsafePass<Drawing>("frameloom planes", out Drawing drawing))
            {
                drawing.planes = planes;
                drawing.depth = textures.cameraDepthTexture;
                drawing.motion = textures.motionVectorColor;
                if (planes.WantsDepth)
                    builder.UseTexture(drawing.depth, AccessFlags.Read);
                if (planes.WantsMotion)
                    builder.UseTexture(drawing.motion, AccessFlags.Read);
                // It writes to textures that the graph does not know, and to globals.
                builder.AllowPassCulling(false);
                builder.AllowGlobalStateModification(true);
                builder.SetRenderFunc((Drawing data, UnsafeGraphContext context) => Draw(data, context));
            }
        }

        private static void Draw(Drawing data, UnsafeGraphContext context)
        {
            CommandBuffer commands = CommandBufferHelpers.GetNativeCommandBuffer(context.cmd);
            if (data.planes.WantsDepth)
                data.planes.Draw(commands, PlaneKind.Depth, data.depth);
            if (data.planes.WantsMotion)
                data.planes.Draw(commands, PlaneKind.Motion, data.motion);
        }
#else
        public override void Execute(ScriptableRenderContext context, ref RenderingData renderingData) { }
#endif
    }
}
