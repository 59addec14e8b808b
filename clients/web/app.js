// The page of one channel: shows both rings, sets the live parameters, draws the statistics.
// The messages are described in README.md beside this file; every control is made from /api/params.
import { shortened } from "./prompts.js";
import { PACKET } from "./ring_layout.js";

const TYPING_MS = 150; // pause after the last key before a text applies
const EDITING_MS = 5000; // a field with the focus is being edited for so long after the last key
const DRAG_MS = 50; // shortest time between two values of a dragged slider
const RETRY_MS = [500, 1000, 2000, 4000];
const HISTORY_S = 60;
const STALE_MS = 1500;
const SLIDER_STEPS = 10000; // a range with more steps than this gets a number box only

const byId = (id) => document.getElementById(id);

// What the page's own address says of `name`, to be said to the gateway as well.
function asked(name) {
  const value = new URLSearchParams(location.search).get(name);
  return value === null ? {} : { [name]: value };
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- frames

function parsePacket(buffer) {
  const view = new DataView(buffer);
  const at = PACKET.offset;
  const u32 = (offset) => view.getUint32(offset, true);
  const u64 = (offset) => view.getBigUint64(offset, true);
  if (buffer.byteLength < PACKET.headerSize) throw new Error("packet shorter than its header");
  const magic = String.fromCharCode(...new Uint8Array(buffer, at.magic, PACKET.magic.length));
  if (magic !== PACKET.magic || u32(at.version) !== PACKET.version) {
    throw new Error("this page and the gateway are of different versions; reload the page");
  }
  const headerSize = u32(at.header_size);
  const payloadSize = u32(at.payload_size);
  if (headerSize < PACKET.headerSize || headerSize + payloadSize !== buffer.byteLength) {
    throw new Error("packet size does not match its header");
  }
  return {
    sequence: u64(at.sequence),
    sourceFrameId: u64(at.source_frame_id),
    captureNs: u64(at.capture_ns),
    publishNs: u64(at.publish_ns),
    generation: u64(at.generation),
    width: u32(at.width),
    height: u32(at.height),
    codec: u32(at.codec),
    payload: new Uint8Array(buffer, headerSize, payloadSize),
  };
}

async function paint(canvas, packet) {
  const { width, height, payload, codec } = packet;
  let bitmap = null;
  if (codec === PACKET.codec.JPEG) {
    bitmap = await createImageBitmap(new Blob([payload], { type: "image/jpeg" }));
  } else if (codec !== PACKET.codec.RGBA8) {
    throw new Error("the gateway sent a codec that this page cannot show");
  }
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  if (bitmap) {
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
  } else {
    context.putImageData(new ImageData(new Uint8ClampedArray(payload), width, height), 0, 0);
  }
  canvas.dataset.sequence = packet.sequence;
  canvas.dataset.sourceFrameId = packet.sourceFrameId;
  canvas.dataset.generation = packet.generation;
}

// One WebSocket and one picture. The gateway sends a frame only against a credit; we give two at the start, so that
// one travels while the other is decoded, and one more for each frame that is on the screen.
class Side {
  constructor(name) {
    this.name = name;
    this.figure = byId(`side-${name}`);
    this.canvas = this.figure.querySelector("canvas");
    this.about = this.figure.querySelector(".about");
    this.message = this.figure.querySelector(".message");
    this.socket = null;
    this.failures = 0;
    this.waiting = null;
    this.painting = false;
    this.paintedAt = [];
    this.size = "";
    this.ringState = { state: "connecting", message: "" };
  }

  connect() {
    const codec = new URLSearchParams(location.search).get("codec") === "rgba" ? "rgba" : "jpeg";
    const query = new URLSearchParams({ channel: page.channel, side: this.name, codec, ...asked("token") });
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${location.pathname.replace(/[^/]*$/, "")}ws?${query}`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.waiting = null;
    socket.onopen = () => {
      this.failures = 0;
      this.send({ type: "credit", n: 2 });
      connectionChanged();
    };
    socket.onmessage = (event) => {
      if (typeof event.data === "string") this.hear(JSON.parse(event.data));
      else this.take(event.data);
    };
    socket.onclose = (event) => {
      this.socket = null;
      const reason = event.reason || "host gone; waiting for it to come back";
      this.show({ state: "gone", message: reason });
      connectionChanged();
      const wait = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
      this.failures += 1;
      setTimeout(() => reconnect(this), wait);
    };
  }

  get open() {
    return this.socket !== null && this.socket.readyState === WebSocket.OPEN;
  }

  send(message) {
    if (!this.open) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  hear(message) {
    if (message.type === "state") this.show(message);
    else if (this.name === "out") hear(message);
  }

  show({ state, message }) {
    this.ringState = { state, message };
    this.figure.dataset.state = state;
    this.message.textContent = message || (this.size ? "" : "waiting for the first picture");
  }

  take(buffer) {
    // Newest wins here too: a frame that was not painted yet gives its place, and its credit, to the next one.
    if (this.waiting !== null) this.send({ type: "credit", n: 1 });
    this.waiting = buffer;
    if (!this.painting) this.paintAll();
  }

  async paintAll() {
    this.painting = true;
    while (this.waiting !== null) {
      const buffer = this.waiting;
      const socket = this.socket;
      this.waiting = null;
      try {
        const packet = parsePacket(buffer);
        await paint(this.canvas, packet);
        this.painted(packet);
      } catch (error) {
        notice(`${this.name === "in" ? "Input" : "Output"}: ${error.message}`);
      }
      if (socket === this.socket) this.send({ type: "credit", n: 1 });
    }
    this.painting = false;
  }

  painted(packet) {
    const now = performance.now();
    this.paintedAt.push(now);
    while (this.paintedAt[0] < now - 3000) this.paintedAt.shift();
    const first = !this.size;
    this.size = `${packet.width} × ${packet.height}`;
    if (first) this.show(this.ringState);
    if (this.paintedAt.length % 8 === 1) this.describe();
  }

  describe() {
    if (!this.size) return;
    const now = performance.now();
    const times = this.paintedAt;
    const last = times.length ? now - times[times.length - 1] : Infinity;
    let rate = "";
    if (last > STALE_MS) rate = "no new frame";
    else if (times.length > 1) rate = `${(((times.length - 1) * 1000) / (now - times[0])).toFixed(1)} shown/s`;
    this.about.textContent = rate ? `${this.size} · ${rate}` : this.size;
  }
}

// ---- the page's state

const page = { channel: "", specs: [], values: {}, revision: -1, controls: new Map(), sides: {}, history: [], refused: Infinity };
globalThis.page = page; // for the browser's console
let noticeTimer = 0;

function notice(text) {
  const box = byId("notice");
  box.textContent = text;
  box.hidden = !text;
  clearTimeout(noticeTimer);
  if (text) noticeTimer = setTimeout(() => notice(""), 10000);
}

function connectionChanged() {
  const open = Object.values(page.sides).filter((side) => side.open).length;
  const pill = byId("connection");
  const state = open === 2 ? "connected" : open === 0 ? "gone" : "connecting";
  pill.dataset.state = state;
  pill.textContent = { connected: "connected", gone: "host gone", connecting: "connecting" }[state];
}

function hear(message) {
  if (message.type === "params") {
    takeValues(message.values, message.revision);
  } else if (message.type === "stats") {
    takeStatistics(message);
  } else if (message.type === "error") {
    const control = page.controls.get(message.name);
    if (control) control.refused(message.message, message.id);
    else notice(message.message);
  } else if (message.type === "ok") {
    const control = page.controls.get(message.name);
    if (control) control.accepted(message.id);
  }
}

function takeValues(values, revision) {
  page.values = values;
  page.revision = revision;
  for (const control of page.controls.values()) control.follow(values[control.spec.name]);
  for (const chip of byId("examples").children) {
    chip.setAttribute("aria-pressed", String(chip.title === values.prompt));
  }
}

// ---- controls

const LOOKS = {
  str: textLook,
  ints: textLook,
  float: numberLook,
  int: numberLook,
  choice: choiceLook,
  bool: boolLook,
};

// One parameter: its label, its input, its help, what was wrong with the last value. `look` knows the kind of input:
// {inputs, read(), write(value), delayMs}.
class Control {
  constructor(spec) {
    this.spec = spec;
    this.nextId = 0;
    this.unanswered = new Set();
    this.timer = 0;
    this.sentAt = 0;
    this.editedAt = -Infinity;
    const id = `p-${spec.name}`;
    this.look = LOOKS[spec.kind](spec, id);
    const name = spec.name.replaceAll("_", " ");
    const title = name[0].toUpperCase() + name.slice(1) + (spec.unit ? ` (${spec.unit})` : "");
    this.error = element("p", { class: "error", role: "alert", id: `${id}-error` });
    this.reset = element("button", { class: "reset", type: "button", title: "Back to the default" }, "reset");
    this.reset.setAttribute("aria-label", `Reset ${name} to its default`);
    this.reset.onclick = () => {
      this.look.write(spec.default);
      this.send(spec.default);
    };
    this.root = element(
      "div",
      { class: spec.kind === "str" ? "control wide" : "control", "data-name": spec.name },
      element("div", { class: "head" }, element("label", { for: id }, title), this.reset),
      this.look.root,
      element("p", { class: "help", id: `${id}-help` }, spec.help),
      this.error,
    );
    for (const input of this.look.inputs) {
      input.setAttribute("aria-describedby", `${id}-help ${id}-error`);
      input.addEventListener("input", () => this.later());
      input.addEventListener("change", () => this.now());
      input.addEventListener("blur", () => this.left());
    }
    this.look.root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target.tagName !== "SELECT") {
        event.preventDefault();
        this.now();
      }
    });
  }

  later() {
    clearTimeout(this.timer);
    this.editedAt = performance.now();
    const wait = this.look.delayMs === TYPING_MS ? TYPING_MS : Math.max(0, this.sentAt + DRAG_MS - performance.now());
    this.timer = setTimeout(() => this.now(), wait);
  }

  now() {
    clearTimeout(this.timer);
    this.timer = 0;
    const value = this.look.read();
    if (JSON.stringify(value) !== this.lastSent || this.root.hasAttribute("data-bad")) this.send(value);
  }

  send(value) {
    const id = ++this.nextId;
    this.lastSent = JSON.stringify(value);
    this.sentAt = performance.now();
    if (page.sides.out.send({ type: "set", name: this.spec.name, value, id })) this.unanswered.add(id);
    else this.say("not connected; this was not sent");
  }

  accepted(id) {
    this.unanswered.delete(id);
    if (id === this.nextId) this.say("");
  }

  refused(message, id) {
    this.unanswered.delete(id);
    this.lastSent = undefined;
    if (id === this.nextId) this.say(message);
  }

  say(text) {
    this.error.textContent = text;
    this.root.toggleAttribute("data-bad", text !== "");
  }

  // Nobody types here any more: what others set meanwhile may show.
  left() {
    this.editedAt = -Infinity;
    if (this.spec.name in page.values) this.follow(page.values[this.spec.name]);
  }

  // The value that is in force. What a person is typing, or has just sent, is not overwritten.
  follow(value) {
    this.reset.hidden = JSON.stringify(value) === JSON.stringify(this.spec.default);
    const typing = performance.now() - this.editedAt < EDITING_MS && this.look.inputs.includes(document.activeElement);
    if (this.timer || this.unanswered.size || typing || this.root.hasAttribute("data-bad")) return;
    this.lastSent = JSON.stringify(value);
    this.look.write(value);
  }

  // After a lost connection nothing is on its way any more.
  forget() {
    this.unanswered.clear();
    this.say("");
  }
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
    read() {
      if (!ints) return input.value;
      const words = input.value.split(/[\s,;]+/).filter((word) => word !== "");
      return words.map((word) => (Number.isNaN(Number(word)) ? word : Number(word)));
    },
    write(value) {
      input.value = ints ? value.join(", ") : value;
    },
  };
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
    read: () => (source.value === "" ? null : Number(source.value)),
    write(value) {
      source = slider;
      slider.value = value;
      if (document.activeElement !== box) box.value = Number(value.toFixed(4));
    },
  };
}

function choiceLook(spec, id) {
  const select = element("select", { id }, ...spec.choices.map((choice) => element("option", { value: choice }, choice)));
  return { root: select, inputs: [select], delayMs: 0, read: () => select.value, write: (value) => (select.value = value) };
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
    read: () => box.checked,
    write(value) {
      box.checked = value;
      tell();
    },
  };
}

function buildControls(specs) {
  page.controls.clear();
  const places = [byId("prompts"), byId("controls-main"), byId("controls-more")];
  for (const place of places) place.replaceChildren();
  for (const spec of specs) {
    const control = new Control(spec);
    page.controls.set(spec.name, control);
    const place = !spec.main ? places[2] : spec.kind === "str" ? places[0] : places[1];
    place.append(control.root);
  }
}

function buildExamples(examples) {
  const labels = shortened(examples);
  const box = byId("examples");
  box.hidden = examples.length === 0;
  box.replaceChildren(
    ...examples.map((text, i) => {
      const chip = element("button", { type: "button", title: text }, labels[i]);
      chip.onclick = () => {
        const control = page.controls.get("prompt");
        control.look.write(text);
        control.send(text);
      };
      return chip;
    }),
  );
}

// ---- statistics

function takeStatistics(stats) {
  if (stats.fps === undefined) return; // the channel's host is another program
  // What was refused to somebody who sends by OSC: few of them listen for an answer.
  if (stats.refused > page.refused) notice(stats.last_refused);
  page.refused = stats.refused;
  const now = performance.now() / 1000;
  page.history.push({ at: now, fps: stats.fps, p50: stats.p50_ms, p95: stats.p95_ms });
  while (page.history[0].at < now - HISTORY_S) page.history.shift();
  byId("figure-fps").textContent = stats.fps.toFixed(1);
  for (const name of ["p50", "p95", "p99"]) {
    const ms = stats[`${name}_ms`];
    const shown = ms === null ? ["–"] : [ms < 10 ? ms.toFixed(1) : ms.toFixed(0), " ", element("small", {}, "ms")];
    byId(`figure-${name}`).replaceChildren(...shown);
  }
  const memory = stats.peak_memory_mb === null ? "" : ` · ${Math.round(stats.peak_memory_mb)} MiB at most`;
  byId("counters").textContent =
    `${stats.frames_in} in · ${stats.frames_out} out · ${stats.dropped} dropped · ${stats.skipped} skipped` +
    `${memory} · ${stats.viewers} connections`;
  drawGraphs();
  for (const side of Object.values(page.sides)) side.describe();
}

function drawGraphs() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  drawGraph(byId("graph-latency"), "capture to publish", " ms", [
    { key: "p95", label: "p95", colour: colour("--second") },
    { key: "p50", label: "p50", colour: colour("--accent") },
  ]);
  drawGraph(byId("graph-fps"), "output", " fps", [{ key: "fps", label: "frames/s", colour: colour("--accent") }]);
}

function niceStep(range) {
  const rough = range / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => power * factor >= rough);
}

function drawGraph(canvas, title, unit, lines) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const style = getComputedStyle(document.documentElement);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "middle";
  const top = 20;
  const bottom = height - 6;
  const known = page.history.flatMap((sample) => lines.map((line) => sample[line.key])).filter((v) => v !== null);
  const step = niceStep(Math.max(1e-3, ...known, 1));
  const high = Math.max(1, Math.ceil(Math.max(0, ...known) / step)) * step;
  const values = Array.from({ length: Math.round(high / step) + 1 }, (_, i) => i * step);
  const written = (value) => `${Number(value.toFixed(3))}${unit}`;
  const left = Math.ceil(Math.max(43, ...values.map((value) => context.measureText(written(value)).width))) + 7;
  const now = performance.now() / 1000;
  const x = (at) => left + (width - left - 4) * (1 - (now - at) / HISTORY_S);
  const y = (value) => bottom - (bottom - top) * (value / high);
  context.lineWidth = 1;
  for (const value of values) {
    const at = Math.round(y(value)) + 0.5;
    context.strokeStyle = style.getPropertyValue("--line");
    context.beginPath();
    context.moveTo(left, at);
    context.lineTo(width, at);
    context.stroke();
    context.fillStyle = style.getPropertyValue("--quiet");
    context.textAlign = "right";
    context.fillText(written(value), left - 7, at);
  }
  let labelAt = width - 4;
  for (const line of lines) {
    context.strokeStyle = line.colour;
    context.lineWidth = 1.6;
    context.lineJoin = "round";
    context.beginPath();
    let pen = false;
    for (const sample of page.history) {
      const value = sample[line.key];
      if (value !== null) {
        if (pen) context.lineTo(x(sample.at), y(value));
        else context.moveTo(x(sample.at), y(value));
      }
      pen = value !== null;
    }
    context.stroke();
    context.fillStyle = line.colour;
    context.fillText(line.label, labelAt, 8);
    labelAt -= context.measureText(line.label).width + 14;
  }
  context.textAlign = "left";
  context.fillStyle = style.getPropertyValue("--quiet");
  context.fillText(`${title}, last minute`, left, 8);
}

// ---- start and return

async function describeHost() {
  const query = new URLSearchParams({ ...asked("token"), ...asked("channel") });
  const answer = await fetch(`api/params?${query}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`the host answered ${answer.status}: ${(await answer.text()).slice(0, 200)}`);
  const about = await answer.json();
  page.channel = about.channel;
  byId("channel").textContent = about.channel;
  byId("channel").title = about.channel;
  document.title = `${about.channel} – frameloom`;
  if (JSON.stringify(about.specs) !== JSON.stringify(page.specs)) {
    page.specs = about.specs;
    buildControls(about.specs);
  }
  buildExamples(about.examples);
  for (const control of page.controls.values()) control.forget();
  takeValues(about.values, about.revision);
}

async function reconnect(side) {
  try {
    await describeHost();
  } catch (error) {
    // Only a request that got no answer at all fails with a TypeError.
    const gone = error instanceof TypeError;
    side.show({ state: "gone", message: gone ? "host gone; waiting for it to come back" : error.message });
    connectionChanged();
    const wait = RETRY_MS[Math.min(side.failures, RETRY_MS.length - 1)];
    side.failures += 1;
    setTimeout(() => reconnect(side), wait);
    return;
  }
  side.connect();
}

function start() {
  for (const name of ["in", "out"]) page.sides[name] = new Side(name);
  byId("crisp").addEventListener("change", (event) => document.body.classList.toggle("crisp", event.target.checked));
  window.addEventListener("resize", drawGraphs);
  setInterval(() => Object.values(page.sides).forEach((side) => side.describe()), 500);
  drawGraphs();
  for (const side of Object.values(page.sides)) reconnect(side);
}

start();
