using System.Collections.Generic;
using UnityEngine;

namespace Frameloom
{
    /// <summary>What is wrong with a component now: shown in its inspector, and each message once in the console.</summary>
    internal sealed class WarnOnce
    {
        private readonly Object owner;
        private readonly HashSet<string> said = new HashSet<string>();
        private string problem = "";
        private string advice = "";

        public WarnOnce(Object owner)
        {
            this.owner = owner;
        }

        /// <summary>The problem if there is one, else the advice; empty when all is well.</summary>
        public string Text => problem.Length > 0 ? problem : advice;

        /// <summary>Something that stops the frames; it holds until `Solved`.</summary>
        public void Problem(string message)
        {
            problem = message;
            Say(message);
        }

        public void Solved()
        {
            problem = "";
        }

        /// <summary>Frames flow, but not as somebody may want; it holds until `Reset` or until it is withdrawn.</summary>
        public void Advice(string message)
        {
            advice = message;
            Say(message);
        }

        public void Withdraw(string message)
        {
            if (advice == message)
                advice = "";
        }

        public void Reset()
        {
            problem = advice = "";
            said.Clear();
        }

        private void Say(string message)
        {
            if (said.Add(message))
                Debug.LogWarning("frameloom: " + message, owner);
        }
    }
}
