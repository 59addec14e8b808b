// The knobs, keys and wheels of MIDI controllers on the parameters: learned by touch and kept in this browser.
import { byId, element, remember, remembered } from "./dom.js";

const SEND_MS = 25; // shortest time between two messages to the gateway, whatever moves: it takes 200 per second
const STORE = "midi";

/**
 * What a message of a controller says: {from, value, share, key}, or null where it is nothing to be learned. from: which
 * knob, key or wheel, for people; value: as it came, 0 to 127 or 16383; share: 0 to 1; key: it was struck.
 */
export function heard([status, first = 0, second = 0]) {
  const channel = (status & 0x0f) + 1;
  const kind = status & 0xf0;
  // Controllers from 120 on are modes of the instrument; a key struck with no force is one let go.
  if (kind === 0xb0 && first < 120) return { from: `knob ${first}, channel ${channel}`, value: second, share: second / 127, key: false };
  if (kind === 0x90 && second > 0) return { from: `key ${first}, channel ${channel}`, value: second, share: second / 127, key: true };
  if (kind === 0xe0) {
    const value = first + 128 * second;
    return { from: `wheel, channel ${channel}`, value, share: value / 16383, key: false };
  }
  return null;
}

const at = (list, share) => list[Math.min(list.length - 1, Math.floor(share * list.length))];
const after = (list, value) => list[(list.indexOf(value) + 1) % list.length];

const VALUES = {
  float: (spec, { share }) => Number((spec.low + share * (spec.high - spec.low)).toFixed(4)),
  int(spec, { share, value, key }) {
    const span = spec.high - spec.low;
    if (span <= 16383) return Math.round(spec.low + share * span);
    // No knob has so many places: it takes the first ones, and a key any.
    return key ? Math.floor(Math.random() * (spec.high + 1)) : value;
  },
  bool: (spec, { share, key }, now) => (key ? !now : share >= 0.5),
  choice: (spec, { share, key }, now) => (key ? after(spec.choices, now) : at(spec.choices, share)),
  ints(spec, { share }) {
    const step = spec.step ?? 1;
    return [spec.low + step * Math.round((share * (spec.high - spec.low)) / step)];
  },
  // Knobs choose among the texts that the page offers for it, keys go through them.
  str: (spec, { share, key }, now, texts) => (texts.length === 0 ? now : key ? after(texts, now) : at(texts, share)),
};

/** The value that a message sets; now: the one in force, texts: what a text may be. */
export function valueOf(spec, message, now, texts) {
  return VALUES[spec.kind](spec, message, now, texts);
}

/** What is wrong, for people. */
function refusal(error) {
  if (["SecurityError", "NotAllowedError"].includes(error.name)) {
    return "MIDI was not allowed; allow it for this page in the browser's address bar and connect again";
  }
  return `this computer gives no MIDI: ${error.message}`;
}

export class Midi {
  constructor(page) {
    this.page = page;
    this.access = null;
    this.learning = null; // the control that takes the next knob
    this.pending = {}; // values by name that were not sent yet
    this.nextId = 0;
    this.asked = new Map(); // by name what was sent: {value, id, revision}; it is in force from that revision on
    this.timer = 0;
    this.box = byId("midi");
    this.said = byId("midi-said");
    this.list = byId("midi-list");
    byId("midi-connect").onclick = () => this.connect();
    byId("midi-forget").onclick = () => this.keep({});
    addEventListener("storage", (event) => event.key?.endsWith(STORE) && this.read());
    this.read();
    this.reconnect();
  }

  /** The knobs and keys by the name of what they set. What is damaged counts as not there. */
  read() {
    let kept;
    try {
      kept = JSON.parse(remembered(STORE, "{}"));
    } catch {
      kept = {};
    }
    const pairs = Object.entries(kept !== null && typeof kept === "object" ? kept : {});
    this.knobs = Object.fromEntries(pairs.filter(([, from]) => typeof from === "string"));
    this.show();
  }

  keep(knobs) {
    this.knobs = knobs;
    const kept = remember(STORE, JSON.stringify(knobs));
    this.show();
    if (!kept) this.say("this browser keeps nothing: what it learns is gone with the page", "bad");
  }

  forget(name) {
    const { [name]: _, ...others } = this.knobs;
    this.keep(others);
  }

  // Who allowed it before is not asked again, and nobody is asked without a click.
  async reconnect() {
    if (Object.keys(this.knobs).length === 0) return;
    const permission = await navigator.permissions?.query({ name: "midi" }).catch(() => null);
    if (permission?.state === "granted") this.connect();
    else this.say("learned before; connect to use it again");
  }

  /** Ask for the controllers; whether there is MIDI now. */
  async connect() {
    if (this.access !== null) return true;
    if (!navigator.requestMIDIAccess) {
      const why = isSecureContext
        ? "this browser has no MIDI; Chrome, Edge and Firefox have"
        : "browsers give MIDI to https pages and to this machine only";
      this.say(`${why}. OSC works from everywhere.`, "bad");
      return false;
    }
    try {
      this.access = await navigator.requestMIDIAccess();
    } catch (error) {
      this.say(refusal(error), "bad");
      return false;
    }
    this.access.onstatechange = () => this.listen();
    this.listen();
    return true;
  }

  listen() {
    const inputs = [...this.access.inputs.values()].filter((input) => input.state !== "disconnected");
    for (const input of inputs) input.onmidimessage = (event) => this.hear(event.data);
    const names = inputs.map((input) => input.name || "a controller without a name");
    this.say(names.length ? `connected: ${names.join(", ")}` : "MIDI is on; no controller is plugged in yet");
    byId("midi-connect").hidden = true;
  }

  /** Give the next knob or key that is touched to `control`; a second call gives up. */
  async learn(control) {
    const same = this.learning === control;
    this.learning?.mapping.learns(false);
    this.learning = null;
    if (same) return;
    if (!(await this.connect())) {
      control.mapping.say(this.said.textContent);
      return;
    }
    this.learning = control;
    control.mapping.learns(true);
  }

  hear(data) {
    if ((data[0] & 0xf0) === 0xc0) this.page.presets.recallAt(data[1]); // a controller's own presets
    const message = heard(data);
    if (message === null) return;
    if (this.learning !== null) {
      const control = this.learning;
      this.learning = null;
      control.mapping.learns(false);
      this.keep({ ...this.knobs, [control.spec.name]: message.from });
      return;
    }
    for (const [name, from] of Object.entries(this.knobs)) {
      const control = this.page.controls.get(name);
      if (from === message.from && control !== undefined) this.play(control, message);
    }
  }

  play(control, message) {
    const { name } = control.spec;
    const now = this.pending[name] ?? this.inForce(name);
    const value = valueOf(control.spec, message, now, this.page.texts(name));
    if (JSON.stringify(value) === JSON.stringify(now)) return;
    control.played(value);
    this.pending[name] = value;
    this.timer ||= setTimeout(() => this.send(), SEND_MS);
  }

  // What was sent counts, although the host has not told it yet: a key struck twice goes two steps.
  inForce(name) {
    const asked = this.asked.get(name);
    return asked !== undefined && asked.revision > this.page.revision ? asked.value : this.page.values[name];
  }

  // All that was moved meanwhile, in one message; the newest value of each.
  send() {
    this.timer = 0;
    const id = ++this.nextId;
    if (this.page.send({ type: "update", values: this.pending, id })) {
      for (const [name, value] of Object.entries(this.pending)) this.asked.set(name, { value, id, revision: Infinity });
    } else this.say("not connected; this was not sent", "bad");
    this.pending = {};
  }

  /** The host has taken what was sent, with this revision of the parameters; -1 where it refused it. */
  answered(id, revision) {
    // Answers come in order, and one may be missing where many wait.
    for (const asked of this.asked.values()) if (asked.id <= id) asked.revision = Math.min(asked.revision, revision);
  }

  forgetQuestions() {
    this.asked.clear();
  }

  show() {
    const rows = Object.entries(this.knobs).map(([name, from]) => {
      const forget = element("button", { type: "button", class: "quiet", "aria-label": `Forget ${from} for ${name}` }, "forget");
      forget.onclick = () => this.forget(name);
      return element("li", {}, element("span", {}, `${name.replaceAll("_", " ")}: ${from}`), forget);
    });
    this.list.replaceChildren(...rows);
    byId("midi-forget").hidden = rows.length < 2;
    for (const control of this.page.controls.values()) control.mapping.show();
  }

  say(text, how = "") {
    this.said.textContent = text;
    this.said.dataset.how = how;
  }
}
