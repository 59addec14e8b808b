using UnityEngine;
using UnityEngine.Experimental.Rendering;
using UnityEngine.Rendering;

namespace Frameloom
{
    /// <summary>
    /// Depth and motion of a camera as planes: its depth textures are turned into metres and pixels by the shader
    /// FrameloomPlanes, right after the camera has rendered. Built-in pipeline and URP.
    /// </summary>
    internal sealed class ScenePlanes
    {
        private const int DepthPass = 0;
        private const int MotionPass = 1;
        private static readonly int Size = Shader.PropertyToID("_FrameloomSize");
        private static readonly int Depth = Shader.PropertyToID("_FrameloomDepth");
        private static readonly int Motion = Shader.PropertyToID("_FrameloomMotion");

        private readonly Camera camera;
        private readonly WarnOnce warnings;
        private readonly bool wantsDepth;
        private readonly bool wantsMotion;
        private readonly Material material;
        private RenderTexture depth;
        private RenderTexture motion;
        private int width;
        private int height;
        private bool rendered;

        public ScenePlanes(Camera camera, bool wantsDepth, bool wantsMotion, WarnOnce warnings)
        {
            this.camera = camera;
            this.wantsDepth = wantsDepth;
            this.wantsMotion = wantsMotion;
            this.warnings = warnings;
            var shader = Resources.Load<Shader>("FrameloomPlanes");
            if (camera == null || shader == null)
            {
                warnings.Problem("depth and motion need a camera; set Source Camera or tag a camera MainCamera");
                return;
            }
            material = new Material(shader);
            camera.depthTextureMode |= DepthTextureMode.Depth | (wantsMotion ? DepthTextureMode.MotionVectors : DepthTextureMode.None);
            Camera.onPostRender += OnBuiltInRendered;
            RenderPipelineManager.endCameraRendering += OnPipelineRendered;
        }

        public bool HasCamera => material != null && camera != null;

        public void Release()
        {
            Camera.onPostRender -= OnBuiltInRendered;
            RenderPipelineManager.endCameraRendering -= OnPipelineRendered;
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
            Render(which, "_MotionVectorTexture");
        }

        /// <summary>What the camera left in a global texture; a warning when it left nothing.</summary>
        private Texture Left(string name, string what)
        {
            Texture texture = Shader.GetGlobalTexture(name);
            if (texture == null)
                warnings.Problem(
                    $"camera {camera.name} delivers no {what}; in URP tick Depth Texture in the pipeline asset (motion: also the camera's " +
                    "post-processing), HDRP is not supported for planes");
            return texture;
        }

        private void Render(Camera which, string motionName)
        {
            if (which != camera || width == 0)
                return;
            Texture sceneDepth = wantsDepth ? Left("_CameraDepthTexture", "depth") : null;
            Texture sceneMotion = wantsMotion ? Left(motionName, "motion vectors") : null;
            if (wantsDepth && sceneDepth == null || wantsMotion && sceneMotion == null)
                return;
            if (depth == null && motion == null || OtherSize(depth) || OtherSize(motion))
            {
                ReleaseTextures();
                if (wantsDepth)
                    depth = new RenderTexture(width, height, 0, GraphicsFormat.R32_SFloat) { name = "frameloom depth" };
                if (wantsMotion)
                    motion = new RenderTexture(width, height, 0, GraphicsFormat.R16G16_SFloat) { name = "frameloom motion" };
            }
            material.SetVector(Size, new Vector4(width, height, 0, 0));
            if (wantsDepth)
            {
                material.SetTexture(Depth, sceneDepth);
                Graphics.Blit(null, depth, material, DepthPass);
            }
            if (wantsMotion)
            {
                material.SetTexture(Motion, sceneMotion);
                Graphics.Blit(null, motion, material, MotionPass);
            }
            rendered = true;
        }

        private bool OtherSize(RenderTexture texture)
        {
            return texture != null && (texture.width != width || texture.height != height);
        }
    }
}
