// Planes of a frameloom slot from the depth textures of the camera that has just rendered, first row on top.
// Pass 0: metres along the optical axis. Pass 1: pixels from this frame back to the previous one, x to the right, y towards
// higher rows, that is downwards.
Shader "Hidden/frameloom/Planes"
{
    CGINCLUDE
    #include "UnityCG.cginc"

    sampler2D_float _FrameloomDepth;
    sampler2D_half _FrameloomMotion;
    float4 _FrameloomSize;

    // A blit draws v = 0 in the first row; the slot wants the top there.
    float2 FromTop(float2 uv)
    {
        return float2(uv.x, 1 - uv.y);
    }

    float4 Depth(v2f_img i) : SV_Target
    {
        float raw = SAMPLE_DEPTH_TEXTURE(_FrameloomDepth, FromTop(i.uv));
        float perspective = LinearEyeDepth(raw);
    #if defined(UNITY_REVERSED_Z)
        raw = 1 - raw;
    #endif
        float orthographic = lerp(_ProjectionParams.y, _ProjectionParams.z, raw);
        return lerp(perspective, orthographic, unity_OrthoParams.w);
    }

    float4 Motion(v2f_img i) : SV_Target
    {
        // Unity's vectors lead from the previous frame to this one, in parts of the screen, y upwards.
        float2 forward = tex2D(_FrameloomMotion, FromTop(i.uv)).xy;
        return float4(-forward.x * _FrameloomSize.x, forward.y * _FrameloomSize.y, 0, 0);
    }
    ENDCG

    SubShader
    {
        Cull Off ZWrite Off ZTest Always

        Pass
        {
            CGPROGRAM
            #pragma vertex vert_img
            #pragma fragment Depth
            ENDCG
        }

        Pass
        {
            CGPROGRAM
            #pragma vertex vert_img
            #pragma fragment Motion
            ENDCG
        }
    }
}
