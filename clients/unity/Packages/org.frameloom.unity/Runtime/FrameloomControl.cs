using System.Collections.Generic;
using System.Net;
using System.Net.Sockets;
using UnityEngine;

namespace Frameloom
{
    /// <summary>
    /// Sets the host's live parameters over OSC: change `parameters` in the inspector, by script or by an animation, and what changed
    /// is sent in the next Update, all of it between the same two frames. A host that starts later gets everything.
    /// </summary>
    [AddComponentMenu("frameloom/Frameloom Control")]
    public sealed class FrameloomControl : MonoBehaviour
    {
        private const double PingS = 1;
        private const double SilenceS = 3;

        [SerializeField, Tooltip("Address of the computer that runs the host.")]
        private string _host = "127.0.0.1";

        [SerializeField, Tooltip("UDP port on which the host listens for OSC.")]
        private int _port = 9000;

        [SerializeField, Tooltip("Every live parameter of the host.")]
        private FrameloomParams _parameters = new FrameloomParams();

        private readonly FrameloomParams sent = new FrameloomParams();
        private readonly OscBundle bundle = new OscBundle();
        private readonly List<object> arguments = new List<object>();
        private WarnOnce warnings;
        private UdpClient socket;
        private string openHost;
        private int openPort;
        private double pingAt;
        private double answeredAt;

        public string host
        {
            get => _host;
            set => _host = value;
        }

        public int port
        {
            get => _port;
            set => _port = value;
        }

        public FrameloomParams parameters => _parameters;

        /// <summary>Whether a host has answered within the last seconds.</summary>
        public bool hostAnswers { get; private set; }

        /// <summary>What is wrong, with the mend; empty when all is well. The inspector shows it.</summary>
        public string warning => Warnings.Text;

        private WarnOnce Warnings => warnings ?? (warnings = new WarnOnce(this));

        private void OnEnable()
        {
            Open();
        }

        private void OnDisable()
        {
            Close();
        }

        private void Open()
        {
            Close();
            Warnings.Reset();
            hostAnswers = false;
            openHost = _host;
            openPort = _port;
            pingAt = 0;
            answeredAt = Time.realtimeSinceStartupAsDouble;
            try
            {
                socket = new UdpClient(_host, _port);
            }
            catch (SocketException error)
            {
                Warnings.Problem($"no way to the host {_host}, port {_port} ({error.Message}); correct Host and Port");
            }
            catch (System.ArgumentOutOfRangeException)
            {
                Warnings.Problem($"port {_port} is none; set Port to 1 to 65535, the host's is 9000");
            }
        }

        private void Close()
        {
            if (socket != null)
                socket.Close();
            socket = null;
        }

        /// <summary>
        /// Save what the host shows, as a preset of this name; an older one of that name is kept aside. The host's answer, where it
        /// refuses, is in `warning`.
        /// </summary>
        public void SavePreset(string name)
        {
            AddChanges();
            bundle.Add("/preset/save", name);
            Send();
        }

        /// <summary>
        /// Set the host to a preset, at once or over some seconds. `parameters` stay as they are: what changes there afterwards is sent.
        /// </summary>
        public void RecallPreset(string name, float seconds = 0)
        {
            AddChanges();
            if (seconds > 0)
                bundle.Add("/preset/morph", name, seconds);
            else
                bundle.Add("/preset/recall", name);
            Send();
        }

        /// <summary>Give a preset another name.</summary>
        public void RenamePreset(string name, string newName)
        {
            Ask("/preset/rename", name, newName);
        }

        /// <summary>Take a preset out of the list; `RestorePreset` brings it back.</summary>
        public void DeletePreset(string name)
        {
            Ask("/preset/delete", name);
        }

        /// <summary>Bring back the preset of this name that was deleted last.</summary>
        public void RestorePreset(string name)
        {
            Ask("/preset/restore", name);
        }

        /// <summary>Bring presets into this order; those not named follow as they were.</summary>
        public void ReorderPresets(params string[] names)
        {
            Ask("/preset/reorder", names);
        }

        private void Ask(string address, params string[] texts)
        {
            AddChanges();
            bundle.Add(address, texts);
            Send();
        }

        /// <summary>An empty bundle, then what was changed before: it goes first.</summary>
        private void AddChanges()
        {
            bundle.Clear();
            if (!hostAnswers)
                return;
            _parameters.AddChanges(sent, bundle);
            sent.CopyFrom(_parameters);
        }

        private void Update()
        {
            if (openHost != _host || openPort != _port)
                Open();
            if (socket == null)
                return;
            double now = Time.realtimeSinceStartupAsDouble;
            Receive(now);
            bundle.Clear();
            if (hostAnswers && now - answeredAt > SilenceS)
                hostAnswers = false;
            if (!hostAnswers && now - answeredAt > SilenceS)
                Warnings.Problem($"no host answers at {_host}, port {_port}; start it (python3 run.py host --channel unity) or correct Host and Port");
            if (now >= pingAt)
            {
                pingAt = now + PingS;
                bundle.Add("/ping");
            }
            if (hostAnswers)
            {
                _parameters.AddChanges(sent, bundle);
                sent.CopyFrom(_parameters);
            }
            if (bundle.Count > 0)
                Send();
        }

        private void Send()
        {
            if (socket == null)
                return;
            byte[] datagram = bundle.ToArray();
            try
            {
                socket.Send(datagram, datagram.Length);
            }
            catch (SocketException)
            {
                // The system reports here that nobody listened to an earlier datagram; the missing answers say so too.
            }
        }

        private void Receive(double now)
        {
            while (socket.Available > 0)
            {
                byte[] datagram;
                try
                {
                    IPEndPoint sender = null;
                    datagram = socket.Receive(ref sender);
                }
                catch (SocketException)
                {
                    return;
                }
                if (!OscBundle.TryRead(datagram, out string address, arguments))
                    continue;
                if (address == "/pong")
                    Answered(now);
                else if (address == "/error" && arguments.Count >= 2)
                    Warnings.Advice($"the host refused {arguments[0]}: {arguments[1]}");
            }
        }

        private void Answered(double now)
        {
            answeredAt = now;
            Warnings.Solved();
            if (hostAnswers)
                return;
            // A host that we did not know: it gets everything, whatever was sent to another one before.
            hostAnswers = true;
            bundle.Clear();
            _parameters.AddAll(bundle);
            sent.CopyFrom(_parameters);
            Send();
        }
    }
}
