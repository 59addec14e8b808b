// A stand-in for UnityEditor with the documented members that the package's inspectors use; it lets them compile and run.
// Serialized properties are the fields themselves, by reflection, as in the editor.

using System;
using System.Collections.Generic;
using System.Reflection;
using UnityEngine;

namespace UnityEditor
{
    [AttributeUsage(AttributeTargets.Class)]
    public sealed class CustomEditor : Attribute
    {
        internal readonly Type type;

        public CustomEditor(Type inspectedType)
        {
            type = inspectedType;
        }
    }

    [AttributeUsage(AttributeTargets.Class)]
    public sealed class CanEditMultipleObjects : Attribute { }

    public enum MessageType
    {
        None,
        Info,
        Warning,
        Error,
    }

    public sealed class SerializedProperty
    {
        internal object holder;
        internal FieldInfo[] siblings;
        internal int index;

        internal FieldInfo Field => index < siblings.Length ? siblings[index] : null;

        public int enumValueIndex => Convert.ToInt32(Field.GetValue(holder));
        public bool boolValue => (bool)Field.GetValue(holder);
        public UnityEngine.Object objectReferenceValue => (UnityEngine.Object)Field.GetValue(holder);
        public bool hasMultipleDifferentValues => false;

        public SerializedProperty GetEndProperty() => new SerializedProperty { holder = holder, siblings = siblings, index = index + 1 };

        public bool NextVisible(bool enterChildren)
        {
            if (enterChildren)
            {
                holder = Field.GetValue(holder);
                siblings = holder.GetType().GetFields(BindingFlags.Instance | BindingFlags.Public);
                index = 0;
            }
            else
                index++;
            return Field != null;
        }

        public static bool EqualContents(SerializedProperty x, SerializedProperty y) => x.Field == y.Field && x.holder == y.holder;
    }

    public class SerializedObject
    {
        internal UnityEngine.Object target;

        public SerializedProperty FindProperty(string propertyPath)
        {
            FieldInfo[] fields = target.GetType().GetFields(BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public);
            for (int i = 0; i < fields.Length; i++)
                if (fields[i].Name == propertyPath && (fields[i].IsPublic || fields[i].IsDefined(typeof(SerializeField), false)))
                    return new SerializedProperty { holder = target, siblings = fields, index = i };
            return null;
        }

        public void Update() { }

        public bool ApplyModifiedProperties() => false;
    }

    public class Editor : UnityEngine.Object
    {
        private readonly SerializedObject serialized = new SerializedObject();

        public UnityEngine.Object target
        {
            get => serialized.target;
            set => serialized.target = value;
        }

        public UnityEngine.Object[] targets => new[] { target };

        public SerializedObject serializedObject => serialized;

        public virtual void OnInspectorGUI() { }

        public virtual bool RequiresConstantRepaint() => false;
    }

    public sealed class EditorGUI
    {
        public static int indentLevel { get; set; }
    }

    public sealed class EditorGUILayout
    {
        private static void Draw(SerializedProperty property)
        {
            StubUnity.Inspector.Rows.Add(property.Field.Name);
        }

        public static bool PropertyField(SerializedProperty property, params GUILayoutOption[] options)
        {
            Draw(property);
            return false;
        }

        public static bool PropertyField(SerializedProperty property, bool includeChildren, params GUILayoutOption[] options)
        {
            Draw(property);
            return false;
        }

        public static void DelayedTextField(SerializedProperty property, params GUILayoutOption[] options)
        {
            Draw(property);
        }

        public static void DelayedIntField(SerializedProperty property, params GUILayoutOption[] options)
        {
            Draw(property);
        }

        public static void HelpBox(string message, MessageType type)
        {
            StubUnity.Inspector.Rows.Add(type + ": " + message);
        }
    }
}

namespace StubUnity
{
    /// <summary>What the last inspector drew: names of fields, then its help boxes.</summary>
    public static class Inspector
    {
        public static readonly List<string> Rows = new List<string>();

        /// <summary>Draw the inspector that the library `editors` has for this component.</summary>
        public static void Draw(string editors, UnityEngine.Object target)
        {
            Rows.Clear();
            Type found = null;
            foreach (Type candidate in Assembly.Load(editors).GetTypes())
            {
                var custom = (UnityEditor.CustomEditor)Attribute.GetCustomAttribute(candidate, typeof(UnityEditor.CustomEditor));
                if (custom != null && custom.type == target.GetType())
                    found = candidate;
            }
            var editor = (UnityEditor.Editor)Activator.CreateInstance(found);
            editor.target = target;
            MethodInfo enable = editor.GetType().GetMethod("OnEnable", BindingFlags.Instance | BindingFlags.NonPublic);
            if (enable != null)
                enable.Invoke(editor, null);
            editor.OnInspectorGUI();
        }
    }
}
