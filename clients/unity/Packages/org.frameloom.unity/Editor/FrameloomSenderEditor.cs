using UnityEditor;
using UnityEngine;

namespace Frameloom.Editor
{
    [CanEditMultipleObjects]
    [CustomEditor(typeof(FrameloomSender))]
    internal sealed class FrameloomSenderEditor : UnityEditor.Editor
    {
        private SerializedProperty channel;
        private SerializedProperty captureMethod;
        private SerializedProperty sourceCamera;
        private SerializedProperty sourceTexture;
        private SerializedProperty size;
        private SerializedProperty highDynamicRange;
        private SerializedProperty sendDepth;
        private SerializedProperty sendMotion;
        private SerializedProperty flipVertically;
        private SerializedProperty directReadback;
        private SerializedProperty directory;

        private void OnEnable()
        {
            channel = serializedObject.FindProperty("_channel");
            captureMethod = serializedObject.FindProperty("_captureMethod");
            sourceCamera = serializedObject.FindProperty("_sourceCamera");
            sourceTexture = serializedObject.FindProperty("_sourceTexture");
            size = serializedObject.FindProperty("_size");
            highDynamicRange = serializedObject.FindProperty("_highDynamicRange");
            sendDepth = serializedObject.FindProperty("_sendDepth");
            sendMotion = serializedObject.FindProperty("_sendMotion");
            flipVertically = serializedObject.FindProperty("_flipVertically");
            directReadback = serializedObject.FindProperty("_directReadback");
            directory = serializedObject.FindProperty("_directory");
        }

        public override bool RequiresConstantRepaint()
        {
            return Application.isPlaying;
        }

        public override void OnInspectorGUI()
        {
            serializedObject.Update();
            EditorGUILayout.DelayedTextField(channel);
            EditorGUILayout.PropertyField(captureMethod);
            EditorGUI.indentLevel++;
            var method = (CaptureMethod)captureMethod.enumValueIndex;
            bool many = captureMethod.hasMultipleDifferentValues;
            if (many || method == CaptureMethod.Texture)
                EditorGUILayout.PropertyField(sourceTexture);
            if (many || method == CaptureMethod.Camera || sendDepth.boolValue || sendMotion.boolValue)
                EditorGUILayout.PropertyField(sourceCamera);
            EditorGUI.indentLevel--;
            EditorGUILayout.PropertyField(size);
            EditorGUILayout.PropertyField(highDynamicRange);
            EditorGUILayout.PropertyField(sendDepth);
            EditorGUILayout.PropertyField(sendMotion);
            EditorGUILayout.PropertyField(flipVertically);
            EditorGUILayout.PropertyField(directReadback);
            EditorGUILayout.DelayedTextField(directory);
            serializedObject.ApplyModifiedProperties();
            if (targets.Length != 1)
                return;
            var sender = (FrameloomSender)target;
            StatusBox.Draw(sender.warning, sender.frameId == 0 ? "" : $"{sender.frameId} frames sent, {sender.framesDropped} dropped");
        }
    }
}
