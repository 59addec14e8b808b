using System;
using UnityEngine;
using UnityEngine.Experimental.Rendering;
using UnityEngine.Rendering;
using Object = UnityEngine.Object;

namespace Frameloom
{
    /// <summary>
    /// Depth and motion of a camera as planes: its depth textures are turned into metres and pixels by the shader FrameloomPlanes,
    /// right after the camera has rendered, or by a pass of the pipeline's own. Built-in pipeline and URP.
    /// </summary>
    internal sealed class ScenePlanes
    {
        /// <summary>
        /// Makes what asks a pipeline for the textures, for as long as it is not disposed; null where that is not needed, or cannot be.
        /// Set by the assembly for URP, which this one does not know.
        /// </summary>
        internal static Func<ScenePlanes, IDisposable> Pipeline;

        private const int DepthPass = 0;
        private const int MotionPass = 1;
        private static readonly int Size = Shader.PropertyToID("_FrameloomSize");
        private static readonly int Depth = Shader.PropertyToID("_FrameloomDepth");
        private static readonly int Motion = Shader.PropertyToID("_FrameloomMotion");

        private readonly Camera camera;
        private readonly WarnOnce warnings;
        private readonly Material material;
        private readonly IDisposable asking;
        private RenderTexture depth;
        private RenderTexture motion;
        private int width;
        private int height;
        private bool rendered;

        public ScenePlanes(Camera camera, bool wantsDepth, bool wantsMotion, WarnOnce warnings)
        {
            this.camera = camera;
            WantsDepth = wantsDepth;
            WantsMotion = wantsMotion;
            this.warnings = warnings;
            var shader = Resources.Load<Shader>("FrameloomPlanes");
            if (camera == null || shader == null)
            {
                warnings.Problem("depth and motion need a camera; set Source Camera or tag a camera MainCamera");
                return;
            }
            material = new Material(shader);
            // Scriptable pipelines do not look at this.
            camera.depthTextureMode |= DepthTextureMode.Depth | (wantsMotion ? DepthTextureMode.MotionVectors : DepthTextureMode.None);
            asking = Pipeline?.Invoke(this);
            Camera.onPostRender += OnBuiltInRendered;
            RenderPipelineManager.endCameraRendering += OnPipelineRendered;
        }

        public bool HasCamera => material != null && camera != null;

        public Camera Camera => camera;

        public bool WantsDepth { get; }

        public bool WantsMotion { get; }

        /// <summary>Whether a pass of the pipeline draws the planes; what is in global textures afterwards means nothing then.</summary>
        public bool DrawnByPipeline { get; set; }

        public void Release()
        {
            Camera.onPostRender -= OnBuiltInRendered;
            RenderPipelineManager.endCameraRendering -= OnPipelineRendered;
            asking?.Dispose();
            ReleaseTextures();
            if (material != null)
                Object.Destroy(material);
        }

        private void ReleaseTextures()
        {
            foreach (RenderTexture texture in new[] { depth, motion })
            {
                if (texture == null)
                    continue;
                texture.Release();
                Object.Destroy(texture);
            }
            depth = motion = null;
        }

        /// <summary>Whether the planes of this frame are there, in the size of the picture. A new size is there one frame later.</summary>
        public bool Ready(int pictureWidth, int pictureHeight)
        {
            bool ready = rendered && width == pictureWidth && height == pictureHeight;
            rendered = false;
            width = pictureWidth;
            height = pictureHeight;
            return ready;
        }

        public RenderTexture TextureOf(PlaneKind kind)
        {
            return kind == PlaneKind.Depth ? depth : motion;
        }

        private void OnBuiltInRendered(Camera which)
        {
            Render(which, "_CameraMotionVectorsTexture");
        }

        private void OnPipelineRendered(ScriptableRenderContext context, Camera which)
        {
            if (!DrawnByPipeline)
                Render(which, "_MotionVectorTexture");
        }

        /// <summary>The same as `there`; a warning when the camera delivered nothing.</summary>
        public bool Has(string what, bool there)
        {
            if (!there)
                warnings.Problem($"camera {camera.name} delivers no {what}; {Help}");
            return there;
        }

        /// <summary>What gives a camera's depth and motion where they are missing.</summary>
        public static string Help =>
            "the package asks the built-in pipeline and URP for it; in URP 17 turn Compatibility Mode off (Project Settings, Graphics), " +
            "or tick Depth Texture in the URP asset and, for motion, give the camera TAA or motion blur; HDRP is not supported for planes";

        private void Render(Camera which, string motionName)
        {
            if (which != camera)
                return;
            Texture sceneDepth = Shader.GetGlobalTexture("_CameraDepthTexture"), sceneMotion = Shader.GetGlobalTexture(motionName);
            bool there = Has("depth", !WantsDepth || sceneDepth != null) && Has("motion vectors", !WantsMotion || sceneMotion != null);
            if (!there || !MakeTextures())
                return;
            if (WantsDepth)
            {
                material.SetTexture(Depth, sceneDepth);
                Graphics.Blit(null, depth, material, DepthPass);
            }
            if (WantsMotion)
            {
                material.SetTexture(Motion, sceneMotion);
                Graphics.Blit(null, motion, material, MotionPass);
            }
            rendered = true;
        }

        /// <summary>Textures for the planes, in the size of the picture; false while that is not known.</summary>
        public bool MakeTextures()
        {
            if (width == 0)
                return false;
            if (depth == null && motion == null || OtherSize(depth) || OtherSize(motion))
            {
                ReleaseTextures();
                if (WantsDepth)
                    depth = new RenderTexture(width, height, 0, GraphicsFormat.R32_SFloat) { name = "frameloom depth" };
                if (WantsMotion)
                    motion = new RenderTexture(width, height, 0, GraphicsFormat.R16G16_SFloat) { name = "frameloom motion" };
            }
            material.SetVector(Size, new Vector4(width, height, 0, 0));
            return true;
        }

        /// <summary>Draw a plane from a camera's texture with commands of the pipeline's own, after `MakeTextures` in the same frame.</summary>
        public void Draw(CommandBuffer commands, PlaneKind kind, RenderTargetIdentifier from)
        {
            bool isDepth = kind == PlaneKind.Depth;
            commands.SetGlobalTexture(isDepth ? Depth : Motion, from);
            commands.Blit(from, TextureOf(kind), material, isDepth ? DepthPass : MotionPass);
            rendered = true;
        }

        private bool OtherSize(RenderTexture texture)
        {
            return texture != null && (texture.width != width || texture.height != height);
        }
    }
}
