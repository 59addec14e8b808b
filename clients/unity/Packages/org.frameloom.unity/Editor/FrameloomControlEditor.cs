using UnityEditor;
using UnityEngine;

namespace Frameloom.Editor
{
    [CustomEditor(typeof(FrameloomControl))]
    internal sealed class FrameloomControlEditor : UnityEditor.Editor
    {
        public override bool RequiresConstantRepaint()
        {
            return Application.isPlaying;
        }

        public override void OnInspectorGUI()
        {
            serializedObject.Update();
            EditorGUILayout.DelayedTextField(serializedObject.FindProperty("_host"));
            EditorGUILayout.DelayedIntField(serializedObject.FindProperty("_port"));
            SerializedProperty parameter = serializedObject.FindProperty("_parameters");
            SerializedProperty end = parameter.GetEndProperty();
            bool into = true;
            while (parameter.NextVisible(into) && !SerializedProperty.EqualContents(parameter, end))
            {
                EditorGUILayout.PropertyField(parameter, true);
                into = false;
            }
            serializedObject.ApplyModifiedProperties();
            var control = (FrameloomControl)target;
            StatusBox.Draw(control.warning, control.hostAnswers ? "the host answers" : "");
        }
    }
}
