// What stands beside every control on demand: how other programs set it, and the MIDI knob that does.
import { element } from "./dom.js";
import { CopyLine, linesFor } from "./lines.js";

export class Mapping {
  constructor(control, page) {
    this.control = control;
    this.page = page;
    this.lines = null; // made when it is opened first: the page has a hundred of them
    const name = control.spec.name.replaceAll("_", " ");
    const id = `p-${control.spec.name}-mapping`;
    this.tag = element("small", { class: "knob", hidden: true });
    this.button = element("button", {
      class: "quiet ask",
      type: "button",
      title: "MIDI, and lines to copy for OSC, C# and JavaScript",
      "aria-label": `MIDI and lines to copy for ${name}`,
      "aria-controls": id,
      "aria-expanded": "false",
    }, "map");
    this.button.onclick = () => this.open(this.root.hidden);
    this.root = element("div", { class: "mapping", id, hidden: true });
    this.show();
  }

  open(open) {
    if (this.lines === null) this.build();
    this.root.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    this.follow();
  }

  build() {
    const { spec } = this.control;
    this.lines = new Map(Object.keys(linesFor(spec, spec.default)).map((label) => [label, new CopyLine(label)]));
    this.learn = element("button", { type: "button", "aria-pressed": "false" }, "Learn");
    this.learn.onclick = () => this.page.midi.learn(this.control);
    this.forget = element("button", { type: "button", class: "quiet" }, "forget");
    this.forget.onclick = () => this.page.midi.forget(spec.name);
    this.said = element("code", {}, "");
    const midi = element("p", { class: "line", role: "status" }, element("span", {}, "MIDI"), this.said, this.forget, this.learn);
    this.root.replaceChildren(...[...this.lines.values()].map((line) => line.root), midi);
    this.show();
  }

  /** Another value is in force. */
  follow() {
    const { spec } = this.control;
    if (this.root.hidden || !(spec.name in this.page.values)) return;
    const texts = linesFor(spec, this.page.values[spec.name]);
    for (const [label, line] of this.lines) line.show(texts[label]);
  }

  /** Which knob it is on. */
  show() {
    const from = this.page.midi?.knobs[this.control.spec.name] ?? "";
    this.tag.textContent = from;
    this.tag.hidden = from === "";
    if (this.lines === null) return;
    this.say(from || "no knob yet");
    this.forget.hidden = from === "";
  }

  learns(learning) {
    this.learn.setAttribute("aria-pressed", String(learning));
    this.learn.textContent = learning ? "Stop" : "Learn";
    if (learning) this.say("turn a knob or press a key of the controller");
    else this.show();
  }

  say(text) {
    this.said.textContent = text;
  }
}
