// A stand-in for UnityEngine, compiled to a library of that name for the tests of clients/unity. It holds only members that the
// scripting reference of Unity 2022.3 documents, as far as the package uses them, and does what is written there. What a test needs
// beyond (stepping frames, choosing a graphics API) is in the namespace StubUnity, which no script of the package names.
//
// Objects: game objects, components, their life, coroutines, time, console.

using System;
using System.Collections;
using System.Collections.Generic;
using System.Reflection;

namespace UnityEngine
{
    public class Object
    {
        internal bool destroyed;

        public string name { get; set; } = "";

        public static void Destroy(Object obj)
        {
            StubUnity.Player.Doomed.Add(obj);
        }

        public static bool operator ==(Object x, Object y)
        {
            bool noX = (object)x == null || x.destroyed, noY = (object)y == null || y.destroyed;
            return noX || noY ? noX && noY : ReferenceEquals(x, y);
        }

        public static bool operator !=(Object x, Object y) => !(x == y);

        public override bool Equals(object other) => this == other as Object;

        public override int GetHashCode() => base.GetHashCode();

        public static implicit operator bool(Object exists) => exists != null;
    }

    public class Component : Object
    {
        public GameObject gameObject { get; internal set; }

        public Transform transform => gameObject.transform;

        public T GetComponent<T>() => gameObject.GetComponent<T>();
    }

    public class Behaviour : Component
    {
        private bool on = true;

        public bool enabled
        {
            get => on;
            set
            {
                if (on == value)
                    return;
                on = value;
                StubUnity.Player.Toggled(this);
            }
        }

        public bool isActiveAndEnabled => on && gameObject != null && !destroyed;
    }

    public class Coroutine
    {
        internal IEnumerator steps;
    }

    public class MonoBehaviour : Behaviour
    {
        internal readonly List<Coroutine> coroutines = new List<Coroutine>();
        internal bool started;

        public Coroutine StartCoroutine(IEnumerator routine)
        {
            var coroutine = new Coroutine { steps = routine };
            coroutines.Add(coroutine);
            routine.MoveNext();
            return coroutine;
        }

        public void StopCoroutine(Coroutine routine)
        {
            coroutines.Remove(routine);
        }
    }

    public class YieldInstruction { }

    public sealed class WaitForEndOfFrame : YieldInstruction { }

    public class Transform : Component
    {
        public Vector3 position { get; set; }
        public Vector3 localScale { get; set; } = new Vector3(1, 1, 1);

        public void SetParent(Transform p) { }
    }

    public enum PrimitiveType
    {
        Sphere,
        Capsule,
        Cylinder,
        Cube,
        Plane,
        Quad,
    }

    public class GameObject : Object
    {
        internal readonly List<Component> components = new List<Component>();
        private readonly Transform place = new Transform();

        public GameObject(string name)
        {
            this.name = name;
            place.gameObject = this;
            components.Add(place);
        }

        public Transform transform => place;

        public T AddComponent<T>() where T : Component
        {
            var component = (T)Activator.CreateInstance(typeof(T));
            component.name = name;
            component.gameObject = this;
            components.Add(component);
            StubUnity.Player.Added(component);
            return component;
        }

        public T GetComponent<T>()
        {
            foreach (Component component in components)
                if (component is T found)
                    return found;
            return default(T);
        }

        public static GameObject CreatePrimitive(PrimitiveType type)
        {
            var made = new GameObject(type.ToString());
            made.AddComponent<Renderer>();
            return made;
        }
    }

    public static class Debug
    {
        public static void LogWarning(object message, Object context)
        {
            StubUnity.Player.Warnings.Add(message.ToString());
        }
    }

    public static class Application
    {
        public static bool isPlaying => true;
    }

    public static class Time
    {
        public static float time => (float)StubUnity.Player.Seconds;
        public static double realtimeSinceStartupAsDouble => StubUnity.Player.Seconds;
    }

    public enum RuntimeInitializeLoadType
    {
        AfterSceneLoad = 0,
        BeforeSceneLoad = 1,
        SubsystemRegistration = 4,
    }

    [AttributeUsage(AttributeTargets.Method)]
    public class RuntimeInitializeOnLoadMethodAttribute : Attribute
    {
        public RuntimeInitializeOnLoadMethodAttribute(RuntimeInitializeLoadType loadType) { }
    }

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class SerializeField : Attribute { }

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class TooltipAttribute : Attribute
    {
        public readonly string tooltip;

        public TooltipAttribute(string tooltip)
        {
            this.tooltip = tooltip;
        }
    }

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class RangeAttribute : Attribute
    {
        public readonly float min;
        public readonly float max;

        public RangeAttribute(float min, float max)
        {
            this.min = min;
            this.max = max;
        }
    }

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class MinAttribute : Attribute
    {
        public readonly float min;

        public MinAttribute(float min)
        {
            this.min = min;
        }
    }

    [AttributeUsage(AttributeTargets.Field)]
    public sealed class TextAreaAttribute : Attribute { }

    public sealed class AddComponentMenu : Attribute
    {
        public AddComponentMenu(string menuName) { }
    }

    public struct Vector2
    {
        public float x, y;

        public Vector2(float x, float y)
        {
            this.x = x;
            this.y = y;
        }
    }

    public struct Vector3
    {
        public float x, y, z;

        public Vector3(float x, float y, float z)
        {
            this.x = x;
            this.y = y;
            this.z = z;
        }
    }

    public struct Vector4
    {
        public float x, y, z, w;

        public Vector4(float x, float y, float z, float w)
        {
            this.x = x;
            this.y = y;
            this.z = z;
            this.w = w;
        }
    }

    public struct Vector2Int
    {
        public int x { get; set; }
        public int y { get; set; }

        public Vector2Int(int x, int y) : this()
        {
            this.x = x;
            this.y = y;
        }
    }

    public struct Color
    {
        public float r, g, b, a;

        public static Color grey => new Color { r = 0.5f, g = 0.5f, b = 0.5f, a = 1 };
    }

    public static class Mathf
    {
        public const float PI = 3.14159274f;

        public static int Max(int a, int b) => Math.Max(a, b);

        public static float Sin(float f) => (float)Math.Sin(f);

        public static float Cos(float f) => (float)Math.Cos(f);
    }

    public class GUILayoutOption { }

    public static class GUILayout
    {
        public static string TextField(string text, params GUILayoutOption[] options) => text;

        public static void Label(string text, params GUILayoutOption[] options) { }

        public static GUILayoutOption Width(float width) => new GUILayoutOption();
    }
}

namespace StubUnity
{
    using UnityEngine;

    /// <summary>The player loop, stepped by a test.</summary>
    public static class Player
    {
        public static readonly List<string> Warnings = new List<string>();

        /// <summary>Renders the scene: called once a frame, before the end of the frame.</summary>
        public static Action Scene = () => { };

        internal static readonly List<Object> Doomed = new List<Object>();
        private static readonly List<MonoBehaviour> scripts = new List<MonoBehaviour>();
        private static readonly System.Diagnostics.Stopwatch clock = System.Diagnostics.Stopwatch.StartNew();

        public static double Seconds => clock.Elapsed.TotalSeconds;

        internal static void Added(Component component)
        {
            if (component is MonoBehaviour script)
            {
                scripts.Add(script);
                Send(script, "OnEnable");
            }
        }

        internal static void Toggled(Behaviour behaviour)
        {
            if (!(behaviour is MonoBehaviour script))
                return;
            if (script.enabled)
            {
                Send(script, "OnEnable");
                return;
            }
            Send(script, "OnDisable");
        }

        /// <summary>What the first frame of a script begins with.</summary>
        public static void Start(MonoBehaviour script)
        {
            if (script.started)
                return;
            script.started = true;
            Send(script, "Start");
        }

        /// <summary>A private message such as Update.</summary>
        private static void Send(MonoBehaviour script, string message)
        {
            MethodInfo method = script.GetType().GetMethod(
                message, BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public, null, Type.EmptyTypes, null);
            if (method == null)
                return;
            try
            {
                method.Invoke(script, null);
            }
            catch (TargetInvocationException error)
            {
                throw new InvalidOperationException(script.GetType().Name + "." + message, error.InnerException);
            }
        }

        /// <summary>One frame: Start, Update, the scene, end of frame, deliveries of the GPU.</summary>
        public static void Frame()
        {
            foreach (MonoBehaviour script in scripts.ToArray())
            {
                if (!script.isActiveAndEnabled)
                    continue;
                Start(script);
                Send(script, "Update");
            }
            Scene();
            foreach (MonoBehaviour script in scripts.ToArray())
                if (script.isActiveAndEnabled)
                    Send(script, "OnGUI");
            foreach (MonoBehaviour script in scripts.ToArray())
                foreach (Coroutine coroutine in script.coroutines.ToArray())
                    if (coroutine.steps.Current is WaitForEndOfFrame && !coroutine.steps.MoveNext())
                        script.coroutines.Remove(coroutine);
            Gpu.Deliver();
            foreach (Object doomed in Doomed.ToArray())
                Remove(doomed);
            Doomed.Clear();
        }

        private static void Remove(Object doomed)
        {
            if (doomed is GameObject thing)
                foreach (Component component in thing.components)
                    Remove(component);
            if (doomed is MonoBehaviour script && !script.destroyed)
            {
                if (script.enabled)
                    Send(script, "OnDisable");
                Send(script, "OnDestroy");
                script.coroutines.Clear();
                scripts.Remove(script);
            }
            doomed.destroyed = true;
            if (doomed is Texture texture)
                texture.Forget();
        }
    }
}
