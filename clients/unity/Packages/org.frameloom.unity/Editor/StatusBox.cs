using UnityEditor;

namespace Frameloom.Editor
{
    /// <summary>The last rows of every inspector: what is wrong, or what is going on.</summary>
    internal static class StatusBox
    {
        public static void Draw(string warning, string status)
        {
            if (warning.Length > 0)
                EditorGUILayout.HelpBox(warning, MessageType.Warning);
            if (status.Length > 0)
                EditorGUILayout.HelpBox(status, MessageType.Info);
        }
    }
}
