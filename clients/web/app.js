// The page of one channel: shows both rings, sets the live parameters, draws the statistics.
// The messages are described in README.md beside this file; every control is made from /api/params.
import { ARROWS, buildControls } from "./page/controls.js";
import { asked, byId, element, remember, remembered } from "./page/dom.js";
import { drawGraphs, HISTORY_S } from "./page/figures.js";
import { Midi } from "./page/midi.js";
import { OwnPictures } from "./page/own.js";
import { PresetList } from "./page/presets.js";
import { Reference } from "./page/reference.js";
import { Seeds } from "./page/seeds.js";
import { SharePage } from "./page/share.js";
import { Undo } from "./page/undo.js";
import { styleOf, unknownWords, withStyle } from "./page/words.js";
import { shortened } from "./prompts.js";
import { runningFor } from "./recordings.js";
import { PACKET } from "./ring_layout.js";

const RETRY_MS = [500, 1000, 2000, 4000];
const STALE_MS = 1500;

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
    this.canvas = this.figure.querySelector("canvas.picture");
    this.about = byId(`about-${name}`);
    this.message = this.figure.querySelector(".message");
    this.socket = null;
    this.failures = 0;
    this.waiting = null;
    this.painting = false;
    this.paintedAt = [];
    this.size = "";
    this.ringState = { state: "connecting", message: "" };
    this.old = false; // what is shown is of a host that is gone
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
      if (this.name === "out") page.revision = -1; // of another host, perhaps: what this connection tells counts
      this.send({ type: "credit", n: 2 });
      connectionChanged();
    };
    socket.onmessage = (event) => {
      if (typeof event.data === "string") this.hear(JSON.parse(event.data));
      else this.take(event.data);
    };
    socket.onclose = (event) => {
      this.socket = null;
      this.old = this.size !== "";
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
    const loading = state === "live" && page.phase === "loading" && this.name === "out";
    this.figure.dataset.state = loading || (this.old && state === "live") ? "waiting" : state;
    const waits = this.size && !this.old ? "" : "waiting for the first picture";
    this.message.textContent = message || (loading ? "loading the model" : waits);
    showHealth();
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
    const first = !this.size || this.old;
    this.old = false;
    this.size = `${packet.width} × ${packet.height}`;
    if (first) this.show(this.ringState);
    if (this.name === "in") comparison.show(this.canvas);
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

const page = {
  channel: "",
  specs: [],
  preparing: "",
  values: {},
  revision: -1,
  session: "",
  questions: 0, // how often the host was asked to describe itself, and the newest of them that was answered
  answered: 0,
  phase: "",
  words: null,
  examples: [],
  controls: new Map(),
  sides: {},
  history: [],
  refused: Infinity,
  undo: new Undo(),
  whileTyping: remembered("whileTyping", "no") === "yes",
  touched: null, // the control that arrow keys move where nothing else takes them
  touch(control) {
    page.touched?.root.removeAttribute("data-touched");
    page.touched = control;
    control.root.setAttribute("data-touched", "");
  },
  send: (message) => page.sides.out.send(message),
  edited: (control) => control.spec.name === "prompt" && describePrompt(),
  // What the page offers for a text; nothing for what is none.
  texts: (name) => [...new Set([...(name === "prompt" ? page.examples : []), ...(page.controls.get(name).earlier?.texts ?? [])])],
};
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
  byId("connection").dataset.state = open === 2 ? "connected" : open === 0 ? "gone" : "connecting";
  showHealth();
}

// What is the matter, in two words in the corner; and what to do next, where nobody sends pictures.
function showHealth() {
  const pill = byId("connection");
  const { state } = pill.dataset;
  const input = page.sides.in?.ringState.state;
  const output = page.sides.out?.ringState.state;
  let words = { gone: page.unknown ? "no such channel" : "host gone", connecting: "connecting" }[state];
  let hint = null;
  if (state === "connected") {
    if (page.phase === "loading") words = "loading";
    else if (!["ready", "elsewhere"].includes(page.phase)) words = "host ended";
    else if (input !== "live") words = "no input";
    else if (output !== "live") words = "no output";
    else words = "connected";
    if (words === "host ended") hint = [page.phase];
    else if (input !== "live" && output !== "no-writer") {
      hint = [
        "The host is here and waits for pictures. Start a program that sends to this channel, or in a terminal: ",
        element("code", {}, `python3 run.py source world --channel ${page.channel}`),
      ];
    } else if (output === "no-writer") {
      hint = ["Start its host in a terminal: ", element("code", {}, `python3 run.py host --channel ${page.channel}`)];
    } else if (page.preparing) hint = [`${page.preparing}; the picture goes on meanwhile`];
  } else if (state === "gone" && page.unknown) hint = ["Choose another channel above."];
  pill.textContent = words;
  pill.dataset.health = words === "connected" ? "well" : "waits";
  const key = (hint ?? []).map((part) => part.textContent ?? part).join("");
  if (byId("hint").textContent !== key) byId("hint").replaceChildren(...(hint ?? []));
  byId("hint").hidden = hint === null;
}

function hear(message) {
  if (message.type === "presets") {
    page.presets.load();
  } else if (message.do !== undefined) {
    page.presets.heard(message);
  } else if (message.type === "params") {
    const before = page.values;
    takeValues(message.values, message.revision);
    // A choice that came since, such as a picture that was sent: the controls are made anew with it.
    const came = ({ kind, name, choices }) => kind === "choice" && page.values[name] !== before[name] && !choices.includes(page.values[name]);
    if (page.specs.some(came)) describeHost().catch(() => {});
  } else if (message.type === "stats") {
    takeStatistics(message);
  } else if (message.type === "error") {
    const control = page.controls.get(message.name);
    if (control) control.refused(message.message, message.id);
    else {
      notice(message.message);
      page.midi.answered(message.id, -1);
    }
  } else if (message.type === "ok") {
    const control = page.controls.get(message.name);
    if (control) control.accepted(message.id);
    else page.midi.answered(message.id, message.revision);
  }
}

function takeValues(values, revision) {
  // The answer to a request may be older than what was told since.
  if (revision < page.revision) [values, revision] = [page.values, page.revision];
  if ("paused" in page.values && JSON.stringify(values) !== JSON.stringify(page.values)) {
    page.undo.changed(page.values, values);
  }
  page.values = values;
  page.revision = revision;
  for (const control of page.controls.values()) control.follow(values[control.spec.name]);
  for (const chip of byId("examples").children) {
    chip.setAttribute("aria-pressed", String(chip.title === values.prompt));
  }
  byId("undo").disabled = page.undo.past.length === 0;
  byId("pause").setAttribute("aria-pressed", String(values.paused === true));
  byId("badge").hidden = values.paused !== true;
}

function undo(forward = false) {
  const values = forward ? page.undo.forward(page.values) : page.undo.back(page.values);
  if (values === undefined) return;
  page.send({ type: "update", values });
  byId("undo").disabled = page.undo.past.length === 0;
}

// ---- prompts

function describePrompt() {
  const control = page.controls.get("prompt");
  if (control === undefined) return;
  const text = control.look.read();
  const unknown = unknownWords(text, page.words);
  byId("unknown").hidden = unknown.length === 0;
  byId("unknown").textContent = unknown.length ? `This model does not know: ${unknown.join(", ")}` : "";
  const styles = page.words?.groups.styles ?? [];
  const style = styleOf(text, styles);
  for (const chip of byId("styles").children) chip.setAttribute("aria-pressed", String(chip.textContent === style));
}

function chips(box, labels, chosen) {
  box.hidden = labels.length === 0;
  box.replaceChildren(
    ...labels.map((label, i) => {
      const chip = element("button", { type: "button", "aria-pressed": "false" }, label);
      chip.onclick = () => page.controls.get("prompt")?.put(chosen(i));
      return chip;
    }),
  );
}

function buildPrompts(examples, words) {
  page.words = words;
  page.examples = examples;
  const styles = words?.groups.styles ?? [];
  chips(byId("styles"), styles, (i) => withStyle(page.controls.get("prompt").look.read(), styles[i], styles));
  // Examples that differ in the style alone say nothing that the styles do not.
  const offered = styles.length ? [] : examples;
  chips(byId("examples"), shortened(offered), (i) => offered[i]);
  [...byId("examples").children].forEach((chip, i) => (chip.title = offered[i]));
  byId("known").hidden = words === null;
  const rows = Object.entries(words?.groups ?? {}).flatMap(([name, list]) => [
    element("dt", {}, name),
    element("dd", {}, list.join(", ")),
  ]);
  byId("known").querySelector("dl").replaceChildren(...rows);
  describePrompt();
}

// ---- statistics

// The button says how long it records; how a recording ended is told once, to those who saw it run.
function showRecording(recording) {
  const button = byId("record");
  const ran = button.getAttribute("aria-pressed") === "true";
  button.hidden = recording === null;
  if (recording === null) return;
  button.textContent = recording.active ? `Stop ${runningFor(recording.seconds)}` : "Record";
  button.title = recording.active ? recording.file : "Input, output, parameters and times, into a file on the host's machine";
  button.setAttribute("aria-pressed", String(recording.active));
  if (ran && !recording.active && recording.message) notice(recording.message);
}

function takeStatistics(stats) {
  showRecording(stats.recording ?? null);
  if ((stats.preparing ?? "") !== page.preparing) {
    page.preparing = stats.preparing ?? "";
    showHealth();
    // What was added to the model has controls of its own.
    if (page.preparing === "") describeHost().catch(() => {});
  }
  page.seeds.show(stats.travelling === true);
  if (stats.phase !== page.phase || stats.model !== page.model) {
    page.phase = stats.phase;
    page.model = stats.model;
    for (const side of Object.values(page.sides)) side.show(side.ringState);
    // A loaded model may say more of itself than one that was still loading.
    describeHost().catch(() => {});
  }
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
  // Those that newer ones overtook are no failure: that is how the picture stays fresh.
  byId("counters").textContent =
    `${stats.frames_in} in · ${stats.frames_out} painted · ${stats.dropped} overtaken by newer · ` +
    `${stats.skipped} skipped as alike${memory} · ${stats.viewers} connections`;
  drawGraphs(page.history);
  for (const side of Object.values(page.sides)) side.describe();
}

// ---- the view

// The input laid over the left part of the output, up to where the slider stands.
const comparison = {
  show(input) {
    const share = Number(byId("compare").value);
    const over = byId("before");
    over.hidden = share >= 100;
    if (over.hidden) return;
    // In the output's shape, as the host fits it.
    const { width, height } = page.sides.out.canvas;
    if (over.width !== width || over.height !== height) Object.assign(over, { width, height });
    const context = over.getContext("2d");
    context.clearRect(0, 0, width, height);
    const cut = ((100 - share) / 100) * width;
    context.save();
    context.beginPath();
    context.rect(0, 0, cut, height);
    context.clip();
    context.drawImage(input, 0, 0, width, height);
    context.restore();
    context.fillStyle = "#e6e8eb";
    context.fillRect(cut - Math.max(1, width / 400) / 2, 0, Math.max(1, width / 400), height);
  },
};

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else byId("stage").requestFullscreen?.().catch(() => notice("this browser refuses full screen here; open Projector instead"));
}

// By what the control shows: pressed twice, the host's answer to the first may still be on its way.
function togglePause() {
  const control = page.controls.get("paused");
  control?.put(!control.look.read());
}

// What has arrow keys of its own: a slider, and what scrolls.
function takesArrows(target) {
  return target.matches?.("input[type=range], .panel, .earlier ol, #own-pad");
}

function pressed(event) {
  const typing = event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select");
  if (event.altKey || event.metaKey || event.isComposing || typing || byId("phone").open) return;
  const key = event.key.toLowerCase(); // with Caps Lock, too
  if (event.ctrlKey) {
    if (key === "z") undo(event.shiftKey);
    else if (key === "y") undo(true);
    else return;
  } else if (event.key in ARROWS) {
    if (takesArrows(event.target) || !page.touched?.nudge(ARROWS[event.key], event.shiftKey)) return;
  } else if (event.key === " ") {
    if (event.target.closest?.("button, input:not([type=range]), summary, a")) return; // it presses that one
    togglePause();
  } else if (/^[1-9]$/.test(event.key)) page.presets.recallAt(Number(event.key) - 1);
  else if (key === "f") toggleFull();
  else if (key === "r") page.seeds.random();
  else if (key === "b") {
    byId("compare").value = Number(byId("compare").value) < 100 ? 100 : 50;
    comparison.show(page.sides.in.canvas);
  } else return;
  event.preventDefault();
}

// ---- start and return

function linkFor(path) {
  return `${path}?${new URLSearchParams({ ...asked("token"), channel: page.channel })}`;
}

async function nameChannels() {
  const answer = await fetch(`api/channels?${new URLSearchParams(asked("token"))}`, { cache: "no-store" });
  if (!answer.ok) return;
  const names = (await answer.json()).channels.map((channel) => channel.name);
  const box = byId("channels");
  box.hidden = names.length < 2 && !page.unknown;
  byId("channel").hidden = !box.hidden;
  const wanted = page.unknown ? [element("option", { value: "" }, "choose a channel")] : [];
  box.replaceChildren(...wanted, ...names.map((name) => element("option", { value: name }, name)));
  box.value = page.channel;
  byId("to-scene").hidden = false;
}

// After a restart the host has its own settings: those that were in force before are offered, and never forced on it.
function offerBack(before) {
  const box = byId("offer");
  const back = element("button", { type: "button" }, "Take the previous settings back");
  const keep = element("button", { type: "button", class: "quiet" }, "Keep these");
  back.onclick = () => {
    page.send({ type: "update", values: before });
    box.hidden = true;
  };
  keep.onclick = () => (box.hidden = true);
  box.replaceChildren(element("p", {}, "The host was started anew, with its own settings."), back, keep);
  box.hidden = false;
}

async function describeHost() {
  const question = ++page.questions;
  const query = new URLSearchParams({ ...asked("token"), ...asked("channel"), page: location.origin });
  const answer = await fetch(`api/params?${query}`, { cache: "no-store" });
  page.unknown = answer.status === 404;
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 200));
  const about = await answer.json();
  if (question < page.answered) return; // a newer question was answered before
  page.answered = question;
  const anew = page.session !== about.session;
  const before = page.session && anew ? page.values : null;
  if (anew) page.revision = -1;
  page.channel = about.channel;
  page.session = about.session;
  page.phase = about.phase;
  byId("channel").textContent = about.channel;
  byId("channel").title = about.channel;
  page.share.show(about.far_url);
  byId("to-out").href = linkFor("out/");
  byId("to-scene").href = `scene/?${new URLSearchParams(asked("token"))}`;
  byId("snapshot").href = linkFor("snapshot.jpg");
  document.title = `${about.channel} – frameloom`;
  if (JSON.stringify(about.specs) !== JSON.stringify(page.specs)) {
    page.specs = about.specs;
    page.controls = buildControls(about.specs, page);
    page.touched = null;
    page.seeds.attach(page.controls.get("seed"));
    page.reference.attach(page.controls.get("reference"));
  }
  buildPrompts(about.examples, about.words);
  byId("typing").hidden = about.specs.length === 0;
  takeValues(about.values, about.revision);
  if (before !== null && about.specs.length && JSON.stringify(before) !== JSON.stringify(about.values)) offerBack(before);
  showHealth();
}

// After a lost connection nothing is on its way any more.
function forgetQuestions() {
  for (const control of page.controls.values()) control.forget();
  page.presets.forget();
  page.midi.forgetQuestions();
  page.undo.wanted = [];
}

async function reconnect(side) {
  try {
    await describeHost();
    if (side.name === "out") forgetQuestions();
    nameChannels().catch(() => {});
  } catch (error) {
    // Only a request that got no answer at all fails with a TypeError.
    const gone = error instanceof TypeError;
    side.show({ state: "gone", message: gone ? "host gone; waiting for it to come back" : error.message });
    if (page.unknown) nameChannels().catch(() => {});
    connectionChanged();
    const wait = RETRY_MS[Math.min(side.failures, RETRY_MS.length - 1)];
    side.failures += 1;
    setTimeout(() => reconnect(side), wait);
    return;
  }
  side.connect();
}

function start() {
  page.presets = new PresetList(page);
  page.seeds = new Seeds(page);
  page.reference = new Reference(page, linkFor);
  page.share = new SharePage(linkFor);
  page.own = new OwnPictures(page);
  page.midi = new Midi(page);
  for (const name of ["in", "out"]) page.sides[name] = new Side(name);
  byId("crisp").addEventListener("change", (event) => document.body.classList.toggle("crisp", event.target.checked));
  byId("while-typing").checked = page.whileTyping;
  byId("while-typing").addEventListener("change", (event) => {
    page.whileTyping = event.target.checked;
    remember("whileTyping", page.whileTyping ? "yes" : "no");
  });
  byId("compare").addEventListener("input", () => comparison.show(page.sides.in.canvas));
  byId("pause").onclick = togglePause;
  byId("undo").onclick = () => undo();
  byId("full").onclick = toggleFull;
  byId("snapshot").onclick = (event) => {
    if (page.sides.out.size !== "") return;
    event.preventDefault(); // the browser would keep the refusal as a file, or say nothing
    notice("there is no picture yet");
  };
  byId("record").onclick = () => {
    const running = byId("record").getAttribute("aria-pressed") === "true";
    page.send({ type: "record", do: running ? "stop" : "start" });
  };
  byId("stage").ondblclick = toggleFull;
  byId("channels").addEventListener("change", (event) => {
    location.search = new URLSearchParams({ ...asked("token"), ...asked("codec"), channel: event.target.value });
  });
  addEventListener("keydown", pressed);
  addEventListener("resize", () => drawGraphs(page.history));
  setInterval(() => Object.values(page.sides).forEach((side) => side.describe()), 500);
  drawGraphs(page.history);
  for (const side of Object.values(page.sides)) reconnect(side);
}

start();
