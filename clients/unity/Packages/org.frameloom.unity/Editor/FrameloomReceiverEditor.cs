using UnityEditor;
using UnityEngine;

namespace Frameloom.Editor
{
    [CanEditMultipleObjects]
    [CustomEditor(typeof(FrameloomReceiver))]
    internal sealed class FrameloomReceiverEditor : UnityEditor.Editor
    {
        private SerializedProperty channel;
        private SerializedProperty targetTexture;
        private SerializedProperty targetRenderer;
        private SerializedProperty targetMaterialProperty;
        private SerializedProperty directory;

        private void OnEnable()
        {
            channel = serializedObject.FindProperty("_channel");
            targetTexture = serializedObject.FindProperty("_targetTexture");
            targetRenderer = serializedObject.FindProperty("_targetRenderer");
            targetMaterialProperty = serializedObject.FindProperty("_targetMaterialProperty");
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
            EditorGUILayout.PropertyField(targetTexture);
            EditorGUILayout.PropertyField(targetRenderer);
            EditorGUI.indentLevel++;
            if (targetRenderer.hasMultipleDifferentValues || targetRenderer.objectReferenceValue != null)
                EditorGUILayout.DelayedTextField(targetMaterialProperty);
            EditorGUI.indentLevel--;
            EditorGUILayout.DelayedTextField(directory);
            serializedObject.ApplyModifiedProperties();
            if (targets.Length != 1)
                return;
            var receiver = (FrameloomReceiver)target;
            string status = receiver.framesReceived == 0
                ? ""
                : $"{receiver.framesReceived} frames, source frame {receiver.sourceFrameId}, {receiver.latencyMs:0.0} ms old when shown";
            StatusBox.Draw(receiver.warning, status);
        }
    }
}
