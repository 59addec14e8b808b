// The controls, one per parameter, each made from its spec of /api/params. What is sent goes by `page.send`.
import { byId, element } from "./dom.js";
import { Earlier } from "./earlier.js";
import { Mapping } from "./mapping.js";

export const TYPING_MS = 600; // pause after the last key before a text applies, where it applies while typing
const EDITING_MS = 5000; // a field with the focus is being edited for so long after the last key
const DRAG_MS = 50; // shortest time between two values of a dragged slider
const SLIDER_STEPS = 10000; // a range with more steps than this gets a number box only
const TOLD_MS = 8000; // a refusal stays to be read for so long after its value is gone
export const ARROWS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 };
const PLAYED_MS = 400; // what a controller moves shows its own values for so long, and not those on their way back

// What artists call it, beside the name that OSC and the documents use.
const PLAIN = {
  prompt_to: "where it goes",
  prompt_mix: "how far it went",
  negative_prompt: "avoid",
  strength: "how much it repaints",
  steps: "fineness",
  guidance: "how the prompt is enforced",
  guidance_scale: "grip of the prompt",
  delta: "how even",
  seed: "the grain",
  seed_to: "another grain",
  seed_mix: "how far to it",
  noise_draws: "luck",
  mode: "smooth or prompt",
  task: "from the picture, or from nothing",
  similarity_filter: "rest on still pictures",
  temporal: "steadiness",
  batch_attention: "frames look at one another",
  motion_share: "how much stays",
  cut_threshold: "what counts as a cut",
  t_index: "stages by hand",
  model: "who paints",
  motion_noise: "grain moves along",
  reuse: "spare what stands still",
  masked: "paint inside the mask only",
  feedback: "trails",
  feedback_zoom: "tunnel",
  feedback_rotate: "spin",
  paused: "freeze",
};

const LOOKS = {
  str: textLook,
  ints: textLook,
  float: numberLook,
  int: numberLook,
  choice: choiceLook,
  bool: boolLook,
};

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/**
 * One parameter: its label, its input, its help, what was wrong with the last value. `look` knows the kind of input:
 * {inputs, read(), write(value), whole(), delayMs}; whole() says whether what is there could be a value.
 */
export class Control {
  constructor(spec, page) {
    this.spec = spec;
    this.page = page;
    this.nextId = 0;
    this.answered = 0; // answers come in order, and one may be missing where many wait
    this.timer = 0;
    this.toldTimer = 0;
    this.sentAt = 0;
    this.editedAt = -Infinity;
    this.playTimer = 0;
    this.unsent = false; // typed while there was no host: it is kept until it can be sent
    const id = `p-${spec.name}`;
    this.look = LOOKS[spec.kind](spec, id);
    const name = spec.title || spec.name.replaceAll("_", " ");
    const title = name[0].toUpperCase() + name.slice(1) + (spec.unit ? ` (${spec.unit})` : "");
    this.error = element("p", { class: "error", role: "alert", id: `${id}-error` });
    this.idle = element("p", { class: "idle-note", id: `${id}-idle` });
    this.help = element("p", { class: "help", id: `${id}-help` }, spec.help);
    const plain = spec.name in PLAIN ? element("small", { class: "plain" }, PLAIN[spec.name]) : "";
    this.reset = element("button", { class: "quiet reset", type: "button", title: "Back to the default" }, "reset");
    this.reset.setAttribute("aria-label", `Reset ${name} to its default`);
    this.reset.onclick = () => this.put(spec.default);
    const help = element("button", { class: "quiet ask", type: "button", "aria-label": `Help on ${name}` }, "?");
    help.onclick = () => help.setAttribute("aria-expanded", String(this.root.toggleAttribute("data-help")));
    help.setAttribute("aria-expanded", "false");
    this.mapping = new Mapping(this, page);
    this.earlier = spec.kind === "str" ? new Earlier(this, page) : null;
    this.root = element(
      "div",
      { class: spec.kind === "str" ? "control wide" : "control", "data-name": spec.name },
      element("div", { class: "head" }, element("label", { for: id }, title), plain, this.mapping.tag, element("span", { class: "tools" }, this.reset, this.earlier?.button ?? "", this.mapping.button, help)),
      this.look.root,
      this.earlier?.root ?? "",
      this.idle,
      this.help,
      this.mapping.root,
      this.error,
    );
    for (const input of this.look.inputs) {
      input.setAttribute("aria-describedby", `${id}-help ${id}-idle ${id}-error`);
      input.addEventListener("input", () => this.later());
      input.addEventListener("change", () => this.now());
      input.addEventListener("blur", () => this.left());
    }
    this.look.root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target.tagName !== "SELECT") {
        event.preventDefault();
        this.lastSent = undefined; // said once more: somebody may have set another value since
        this.now();
      }
      if (event.key === "Escape") this.restore();
      // By itself a box goes by 1, from 0.5 to 1.5, and a slider knows no ten steps.
      const arrows = { number: ["ArrowUp", "ArrowDown"], range: event.shiftKey ? Object.keys(ARROWS) : [] }[event.target.type];
      if (arrows?.includes(event.key)) {
        event.preventDefault();
        this.nudge(ARROWS[event.key], event.shiftKey);
      }
    });
    for (const kind of ["focusin", "pointerdown"]) this.root.addEventListener(kind, () => page.touch(this));
  }

  /** Show a value that did not come from the inputs, and set it. */
  put(value) {
    this.look.write(value);
    this.send(value);
  }

  /** A step up (1) or down (-1), ten where `far`; false for what has no steps. */
  nudge(by, far = false) {
    const { kind, choices, low, high, step } = this.spec;
    const now = this.look.read() ?? this.page.values[this.spec.name];
    if (kind === "float" || kind === "int") {
      const wanted = Number((now + by * step * (far ? 10 : 1)).toFixed(4));
      this.put(Math.min(high, Math.max(low, wanted)));
    } else if (kind === "bool") this.put(by > 0);
    else if (kind === "choice") this.put(choices[Math.min(choices.length - 1, Math.max(0, choices.indexOf(now) + by))]);
    else return false;
    return true;
  }

  /** Show a value that a MIDI controller sets; it sends it by itself, with those of its other knobs. */
  played(value) {
    this.page.touch(this);
    clearTimeout(this.playTimer);
    this.playTimer = setTimeout(() => {
      this.playTimer = 0;
      this.follow(this.page.values[this.spec.name]);
    }, PLAYED_MS);
    this.lastSent = JSON.stringify(value);
    this.look.write(value);
    this.page.edited(this);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.editedAt = performance.now();
    this.page.edited(this);
    if (!this.look.whole()) return;
    const typed = this.look.delayMs === TYPING_MS;
    if (typed && !this.page.whileTyping) return;
    const wait = typed ? TYPING_MS : Math.max(0, this.sentAt + DRAG_MS - performance.now());
    this.timer = setTimeout(() => this.now(), wait);
  }

  now() {
    clearTimeout(this.timer);
    this.timer = 0;
    const value = this.look.read();
    if (value === null) this.restore();
    else if (JSON.stringify(value) !== this.lastSent || this.root.hasAttribute("data-bad")) this.send(value);
  }

  send(value) {
    const id = ++this.nextId;
    this.lastSent = JSON.stringify(value);
    this.sentAt = performance.now();
    this.unsent = !this.page.send({ type: "set", name: this.spec.name, value, id });
    if (!this.unsent) return;
    this.say("not connected; this was not sent");
    this.answered = id;
  }

  accepted(id) {
    this.answered = id;
    if (id === this.nextId) this.say("");
  }

  refused(message, id) {
    this.answered = id;
    this.lastSent = undefined;
    if (id !== this.nextId) return;
    this.say(message);
    if (!this.look.inputs.includes(document.activeElement)) this.restore(message);
  }

  say(text) {
    clearTimeout(this.toldTimer);
    this.error.textContent = text;
    this.root.toggleAttribute("data-bad", text !== "");
  }

  /** Give up what is in the inputs for the value in force; `message` stays to be read for a while. */
  restore(message = "") {
    clearTimeout(this.timer);
    this.timer = 0;
    this.unsent = false;
    this.say("");
    this.error.textContent = message;
    if (message) this.toldTimer = setTimeout(() => this.say(""), TOLD_MS);
    this.editedAt = -Infinity;
    if (this.spec.name in this.page.values) {
      this.lastSent = JSON.stringify(this.page.values[this.spec.name]);
      this.look.write(this.page.values[this.spec.name]);
    }
    this.page.edited(this);
  }

  // Nobody types here any more: what others set meanwhile may show.
  left() {
    this.editedAt = -Infinity;
    if (this.unsent) return;
    if (this.root.hasAttribute("data-bad")) this.restore(this.error.textContent);
    else if (this.spec.name in this.page.values) this.follow(this.page.values[this.spec.name]);
  }

  // The value that is in force. What a person is typing, or has just sent, is not overwritten.
  follow(value) {
    this.reset.hidden = same(value, this.spec.default);
    this.showEffect();
    this.mapping.follow();
    this.earlier?.follow(value);
    const focused = this.look.inputs.includes(document.activeElement);
    const typing = focused && (performance.now() - this.editedAt < EDITING_MS || (this.spec.kind === "str" && this.editedAt > 0));
    if (this.timer || this.playTimer || this.answered < this.nextId || this.unsent || typing || this.root.hasAttribute("data-bad")) return;
    this.lastSent = JSON.stringify(value);
    this.look.write(value);
    this.page.edited(this);
  }

  // A control without an effect just now says so, and stays usable: it may be set beforehand.
  showEffect() {
    if (!this.spec.acts_with) return;
    const [name, values] = this.spec.acts_with;
    const now = this.page.values[name];
    const acts = now === undefined || values.some((value) => same(value, now));
    const shown = Array.isArray(now) ? "is set" : `is ${now === false ? "off" : now}`;
    this.root.toggleAttribute("data-idle", !acts);
    this.idle.textContent = acts ? "" : `no effect while ${name.replaceAll("_", " ")} ${shown}`;
  }

  /** After a lost connection nothing is on its way any more; what was typed meanwhile stays, to be sent. */
  forget() {
    this.answered = this.nextId;
    if (this.unsent) this.say("this was not sent: Enter applies it, Escape drops it");
    else {
      this.say("");
      this.follow(this.page.values[this.spec.name]);
    }
  }
}

/** Controls for all specs, by name, in their places. */
export function buildControls(specs, page) {
  const places = [byId("prompts"), byId("controls-main"), byId("controls-more")];
  for (const place of places) place.replaceChildren();
  const controls = new Map();
  for (const spec of specs) {
    const control = new Control(spec, page);
    controls.set(spec.name, control);
    const place = !spec.main ? places[2] : spec.kind === "str" ? places[0] : places[1];
    place.append(control.root);
  }
  return controls;
}

function textLook(spec, id) {
  const ints = spec.kind === "ints";
  const input = ints
    ? element("input", { type: "text", id, inputmode: "numeric", autocomplete: "off", placeholder: "automatic" })
    : element("textarea", { id, rows: spec.main ? 2 : 1, autocomplete: "off", spellcheck: "false" });
  return {
    root: input,
    inputs: [input],
    delayMs: TYPING_MS,
    whole: () => true,
    read() {
      if (!ints) return input.value;
      const words = input.value.split(/[\s,;x×]+/).filter((word) => word !== "");
      return words.map((word) => (Number.isNaN(Number(word)) ? word : Number(word)));
    },
    write(value) {
      input.value = ints ? value.join(", ") : value;
    },
  };
}

// A number that is still being typed ("0.", "-", 40 on the way to 400) is nobody's mistake yet.
function inRange(spec, input) {
  const value = Number(input.value);
  return input.value !== "" && value >= spec.low && value <= spec.high && (spec.kind === "float" || Number.isInteger(value));
}

function numberLook(spec, id) {
  const limits = { min: spec.low, max: spec.high, step: spec.step };
  const wide = (spec.high - spec.low) / spec.step > SLIDER_STEPS;
  const box = element("input", { type: "number", id: wide ? id : `${id}-box`, ...limits, step: "any" });
  if (wide) {
    return {
      root: box,
      inputs: [box],
      delayMs: TYPING_MS,
      whole: () => inRange(spec, box),
      read: () => (box.value === "" ? null : Number(box.value)),
      write: (value) => (box.value = value),
    };
  }
  const slider = element("input", { type: "range", id, ...limits });
  box.setAttribute("aria-label", spec.name.replaceAll("_", " "));
  let source = slider;
  // These run before the control's own listeners, so that it reads the input that was moved: the slider holds steps
  // only, the box any number.
  for (const kind of ["input", "change"]) {
    slider.addEventListener(kind, () => {
      source = slider;
      box.value = slider.value;
    });
    box.addEventListener(kind, () => {
      source = box;
      slider.value = box.value;
    });
  }
  return {
    root: element("div", { class: "pair" }, slider, box),
    inputs: [slider, box],
    delayMs: DRAG_MS,
    whole: () => inRange(spec, source),
    read: () => (source.value === "" ? null : Number(source.value)),
    write(value) {
      source = slider;
      slider.value = value;
      box.value = Number(value.toFixed(4));
    },
  };
}

function choiceLook(spec, id) {
  const select = element("select", { id }, ...spec.choices.map((choice) => element("option", { value: choice }, choice)));
  return { root: select, inputs: [select], delayMs: 0, whole: () => true, read: () => select.value, write: (value) => (select.value = value) };
}

function boolLook(spec, id) {
  const box = element("input", { type: "checkbox", id });
  const word = element("span", {});
  const tell = () => (word.textContent = box.checked ? "on" : "off");
  box.addEventListener("input", tell);
  return {
    root: element("label", { class: "switch" }, box, word),
    inputs: [box],
    delayMs: 0,
    whole: () => true,
    read: () => box.checked,
    write(value) {
      box.checked = value;
      tell();
    },
  };
}
