using Frameloom;
using UnityEngine;

/// <summary>
/// Put this on an empty object of an empty scene and press Play: shapes that move, a camera that sends them to a host started with
/// `python3 run.py host --channel unity`, a screen that shows what comes back, and a text field for the prompt.
/// </summary>
public sealed class FrameloomMirror : MonoBehaviour
{
    private const int Side = 512;

    private readonly Transform[] shapes = new Transform[4];
    private FrameloomSender sender;
    private FrameloomReceiver receiver;
    private FrameloomControl control;
    private RenderTexture seen;
    private string prompt;

    private void Start()
    {
        PrimitiveType[] kinds = { PrimitiveType.Sphere, PrimitiveType.Cube, PrimitiveType.Cylinder, PrimitiveType.Capsule };
        for (int i = 0; i < shapes.Length; i++)
        {
            shapes[i] = GameObject.CreatePrimitive(kinds[i]).transform;
            shapes[i].SetParent(transform);
        }

        seen = new RenderTexture(Side, Side, 24);
        var eye = new GameObject("eye").AddComponent<Camera>();
        eye.transform.position = new Vector3(0, 2, -7);
        eye.targetTexture = seen;
        eye.clearFlags = CameraClearFlags.SolidColor;
        eye.backgroundColor = Color.grey;

        sender = gameObject.AddComponent<FrameloomSender>();
        sender.captureMethod = CaptureMethod.Texture;
        sender.sourceTexture = seen;
        sender.size = new Vector2Int(Side, Side);

        GameObject screen = GameObject.CreatePrimitive(PrimitiveType.Quad);
        screen.transform.position = new Vector3(0, 2, 20);
        screen.transform.localScale = new Vector3(12, 12, 1);
        receiver = gameObject.AddComponent<FrameloomReceiver>();
        receiver.targetRenderer = screen.GetComponent<Renderer>();

        control = gameObject.AddComponent<FrameloomControl>();
        prompt = control.parameters.prompt;
    }

    private void Update()
    {
        for (int i = 0; i < shapes.Length; i++)
        {
            float turn = Time.time * 0.5f + i * Mathf.PI / 2;
            shapes[i].position = new Vector3(Mathf.Cos(turn) * 2.5f, 1, Mathf.Sin(turn) * 2.5f);
        }
    }

    private void OnGUI()
    {
        prompt = GUILayout.TextField(prompt, GUILayout.Width(600));
        control.parameters.prompt = prompt;
        GUILayout.Label($"{receiver.latencyMs:0} ms  {sender.warning} {receiver.warning} {control.warning}");
    }

    private void OnDestroy()
    {
        seen.Release();
        Destroy(seen);
    }
}
