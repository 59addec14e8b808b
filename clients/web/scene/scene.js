// A room with a screen per channel, each a live texture. Visitors look around, set a screen's prompt, and send what they
// draw or film into a channel that nobody feeds. Made of frameloom-three.js; read that first.
import {
  BoxGeometry,
  CanvasTexture,
  Color,
  Fog,
  GridHelper,
  Mesh,
  MeshBasicMaterial,
  PerspectiveCamera,
  PlaneGeometry,
  Scene,
  SRGBColorSpace,
  WebGLRenderer,
} from "three";
import { address } from "../frameloom-feed.js";
import { FrameloomTexture } from "../frameloom-three.js";
import { shortened } from "../prompts.js";
import { runningFor } from "../recordings.js";

const GROUND = "#14171c";
const SCREEN_M = 2; // height of a picture
const RADIUS_M = 5; // from the visitor to the screens
const SPACING_RAD = 0.46; // between two screens
const FRAME_MS = 1000 / 30; // a room without a GPU leaves the cores to the hosts
const RETRY_MS = 2000;
const GUEST = "-guest"; // the end of a channel's name that visitors feed
const WAX = { white: "#f0f0f0", red: "#d9534f", green: "#5cb85c", blue: "#4a90d9", yellow: "#e6b450", black: "#1c1c1c" };

const byId = (id) => document.getElementById(id);
const view = byId("view");
const renderer = new WebGLRenderer({ canvas: view, antialias: true });
const camera = new PerspectiveCamera(50, 1, 0.1, 40);
const room = new Scene();
const screens = [];
let chosen = 0;
let look = { yaw: 0, pitch: 0, wantedYaw: 0 };
let stale = true; // the view must be drawn again

// ---- the room

function build() {
  room.background = new Color(GROUND);
  room.fog = new Fog(GROUND, 7, 16);
  const grid = new GridHelper(30, 30, "#39414b", "#23282f");
  grid.position.y = -1.6;
  room.add(grid);
}

// Words under a screen, or on it.
class Sign {
  constructor(width_m, height_m, px) {
    this.canvas = document.createElement("canvas");
    this.canvas.width = px;
    this.canvas.height = Math.round((px * height_m) / width_m);
    this.texture = new CanvasTexture(this.canvas);
    this.texture.colorSpace = SRGBColorSpace;
    const material = new MeshBasicMaterial({ map: this.texture, transparent: true, fog: false });
    this.mesh = new Mesh(new PlaneGeometry(width_m, height_m), material);
    this.text = null;
  }

  write(text, colour = "#d8dde3") {
    if (this.text === text) return;
    this.text = text;
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.fillStyle = colour;
    context.font = `${Math.round(width / 20)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const lines = wrap(context, text, width * 0.94);
    const step = width / 15;
    lines.forEach((line, i) => context.fillText(line, width / 2, height / 2 + (i - (lines.length - 1) / 2) * step));
    this.texture.needsUpdate = true;
    stale = true;
  }
}

function wrap(context, text, width) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (context.measureText(longer).width <= width || lines.at(-1) === "") lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

class Screen {
  constructor(about, side, title) {
    this.about = about;
    this.side = side;
    this.title = title;
    this.texture = new FrameloomTexture(location.href, about.name, { side, renderer });
    this.material = new MeshBasicMaterial({ color: "#1c2026", fog: false });
    this.mesh = new Mesh(new PlaneGeometry(SCREEN_M, SCREEN_M), this.material);
    this.frame = new Mesh(new BoxGeometry(SCREEN_M + 0.12, SCREEN_M + 0.12, 0.06), new MeshBasicMaterial({ color: "#2c333c" }));
    this.frame.position.z = -0.04;
    this.caption = new Sign(SCREEN_M * 1.2, 0.42, 512);
    this.caption.mesh.position.y = -SCREEN_M / 2 - 0.3;
    this.notice = new Sign(SCREEN_M * 0.94, SCREEN_M * 0.6, 512);
    this.notice.mesh.position.z = 0.01;
    this.mesh.add(this.frame, this.caption.mesh, this.notice.mesh);
    this.sender = null;
    this.texture.addEventListener("frame", () => this.shown());
    this.texture.addEventListener("params", () => this.describe());
    this.texture.addEventListener("state", () => this.describe());
    this.describe();
  }

  shown() {
    stale = true;
    const { width, height } = this.texture.image;
    // The picture keeps its shape; its height is the screen's.
    const wide = Math.min(width / height, 16 / 9);
    this.mesh.scale.x = wide;
    for (const sign of [this.caption, this.notice]) sign.mesh.scale.x = 1 / wide;
    if (this.material.map === null) {
      this.material.map = this.texture;
      this.material.color.set("#ffffff");
      this.material.needsUpdate = true;
      this.describe();
    }
  }

  describe() {
    const { state, message } = this.texture;
    const { prompt } = this.texture.feed.values;
    this.caption.write(prompt && this.side === "out" ? `${this.title}: ${prompt}` : this.title);
    let words = message;
    if (state === "live" && this.material.map === null) words = this.waiting;
    this.notice.write(words, state === "live" ? "#97a1ad" : "#e0876a");
    // On a picture that stays, the words need a ground.
    this.material.color.set(this.material.map === null ? "#1c2026" : words ? "#707070" : "#ffffff");
    stale = true;
    if (screens[chosen] === this) showPanel();
  }

  get waiting() {
    if (this.about.name.endsWith(GUEST)) return "This screen is yours: send a drawing or your camera.";
    return this.side === "in" ? "waiting for the first picture" : "waiting for the host's first picture";
  }
}

function place() {
  screens.forEach((screen, i) => {
    const angle = (i - (screens.length - 1) / 2) * SPACING_RAD;
    screen.mesh.position.set(Math.sin(angle) * RADIUS_M, 0, -Math.cos(angle) * RADIUS_M);
    screen.mesh.rotation.y = -angle;
    screen.angle = angle;
    room.add(screen.mesh);
  });
}

// ---- looking

function choose(number) {
  chosen = (number + screens.length) % screens.length;
  look.wantedYaw = -screens[chosen].angle;
  stale = true;
  showPanel();
}

function fit() {
  const { clientWidth, clientHeight } = document.documentElement;
  const panel = byId("panel").offsetHeight + 12;
  renderer.setPixelRatio(Math.min(devicePixelRatio, 1.5));
  renderer.setSize(clientWidth, clientHeight, false);
  const aspect = clientWidth / clientHeight;
  camera.aspect = aspect;
  // A narrow window must still hold one screen with its caption, and the panel covers the lower part.
  const free = Math.max(0.3, 1 - panel / clientHeight);
  const tall = (2 * Math.atan((SCREEN_M * 0.9) / free / RADIUS_M) * 180) / Math.PI;
  const wide = (2 * Math.atan((SCREEN_M * 0.62) / aspect / RADIUS_M) * 180) / Math.PI;
  camera.fov = Math.min(100, Math.max(tall, wide));
  camera.setViewOffset(clientWidth, clientHeight, 0, panel / 2, clientWidth, clientHeight);
  camera.updateProjectionMatrix();
  stale = true;
}

function watchTheHand() {
  let from = null;
  view.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY, yaw: look.wantedYaw, pitch: look.pitch };
    view.setPointerCapture(event.pointerId);
  });
  view.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const scale = (camera.fov * Math.PI) / 180 / view.clientHeight;
    look.wantedYaw = from.yaw + (event.clientX - from.x) * scale;
    look.pitch = Math.max(-0.5, Math.min(0.5, from.pitch + (event.clientY - from.y) * scale));
    look.yaw = look.wantedYaw;
    stale = true;
  });
  const let_go = () => {
    if (from === null) return;
    from = null;
    const nearest = screens.map((s, i) => [Math.abs(s.angle + look.yaw), i]).sort((a, b) => a[0] - b[0])[0];
    if (nearest && nearest[1] !== chosen) {
      chosen = nearest[1];
      showPanel();
    }
  };
  view.addEventListener("pointerup", let_go);
  view.addEventListener("pointercancel", let_go);
  view.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") choose(chosen - 1);
    if (event.key === "ArrowRight") choose(chosen + 1);
  });
  byId("previous").onclick = () => choose(chosen - 1);
  byId("next").onclick = () => choose(chosen + 1);
}

let drawn = 0;
function draw(now) {
  if (now - drawn < FRAME_MS - 2) return;
  const turn = look.wantedYaw - look.yaw;
  if (Math.abs(turn) > 1e-3) {
    look.yaw += turn * 0.2;
    stale = true;
  }
  if (!stale) return;
  drawn = now;
  stale = false;
  camera.rotation.set(look.pitch, look.yaw, 0, "YXZ");
  renderer.render(room, camera);
}

// ---- the panel

function tell(text, bad = false) {
  byId("told").textContent = text;
  byId("told").toggleAttribute("data-bad", bad);
  fit();
}

function showPanel() {
  const screen = screens[chosen];
  if (screen === undefined) return;
  const { texture, about } = screen;
  const age = texture.state === "live" && texture.ageMs !== null ? `${Math.max(0, texture.ageMs).toFixed(0)} ms old` : "";
  const line = document.createElement("small");
  line.textContent = texture.message || [`frame ${texture.sourceFrameId}`, age].filter(Boolean).join(", ");
  byId("title").replaceChildren(screen.title, line);
  const prompt = byId("prompt");
  if (document.activeElement !== prompt) prompt.value = texture.feed.values.prompt ?? "";
  byId("prompting").hidden = !about.host;
  byId("snapshot").href = address(location.href, "snapshot.jpg", { channel: about.name, side: screen.side });
  byId("to-page").href = address(location.href, "", { channel: about.name });
  byId("to-out").href = address(location.href, "out/", { channel: about.name });
  showRecording(screen);
  const box = byId("examples");
  if (box.dataset.channel !== about.name) {
    const labels = shortened(about.examples);
    box.dataset.channel = about.name;
    box.replaceChildren(
      ...about.examples.map((text, i) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.textContent = labels[i];
        chip.title = text;
        chip.onclick = () => setPrompt(text);
        return chip;
      }),
    );
    fit();
  }
}

// The button says how long it records; how a recording ended is told once.
function showRecording({ about, texture }) {
  const button = byId("record");
  const recording = texture.feed.statistics?.recording ?? null;
  const ran = button.dataset.runs === about.name;
  button.hidden = recording === null;
  button.dataset.runs = recording?.active ? about.name : "";
  if (recording === null) return;
  button.setAttribute("aria-pressed", String(recording.active));
  button.textContent = recording.active ? `Stop ${runningFor(recording.seconds)}` : "Record";
  button.title = recording.active ? recording.file : "Input, output, parameters and times, into a file on the host's machine";
  if (ran && !recording.active && recording.message) tell(recording.message);
}

async function toggleRecording() {
  try {
    await screens[chosen].texture.feed.record(byId("record").getAttribute("aria-pressed") !== "true");
  } catch (error) {
    tell(error.message, true);
  }
}

async function setPrompt(text) {
  const screen = screens[chosen];
  try {
    await screen.texture.setPrompt(text);
    byId("prompt").value = text;
    tell("");
  } catch (error) {
    tell(error.message, true);
  }
}

// ---- sending

const giving = { what: null, sender: null, stream: null };

function stopGiving(words = "", bad = false) {
  giving.sender?.close();
  giving.stream?.getTracks().forEach((track) => track.stop());
  Object.assign(giving, { what: null, sender: null, stream: null });
  byId("pad").hidden = true;
  byId("camera").hidden = true;
  showGiving(words, bad);
}

function showGiving(words, bad = false) {
  for (const what of ["drawing", "camera"]) {
    byId(`send-${what}`).setAttribute("aria-pressed", giving.what === what);
    byId(`send-${what}`).textContent = giving.what === what ? `Stop the ${what}` : `Send ${what === "drawing" ? "a drawing" : "the camera"}`;
  }
  tell(words, bad);
}

// The camera's stream, or null with a word about why there is none.
async function openCamera() {
  // Only where the page is safe (https, or this machine) do browsers give a camera at all.
  if (!navigator.mediaDevices) {
    tell("this browser gives its camera to https pages and to this machine only; send a drawing instead", true);
    return null;
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 320 } });
  } catch (error) {
    const why = { NotFoundError: "there is none", NotAllowedError: "it was not allowed" }[error.name] ?? error.message;
    tell(`no camera: ${why}`, true);
    return null;
  }
}

async function give(what) {
  if (giving.what === what) {
    stopGiving();
    return;
  }
  // Asked for first: without a camera, a drawing that is being sent goes on.
  const stream = what === "camera" ? await openCamera() : null;
  if (what === "camera" && stream === null) return;
  stopGiving();
  Object.assign(giving, { what, stream });
  const source = byId(what);
  if (stream !== null) {
    source.srcObject = stream;
    await source.play();
  }
  (what === "camera" ? source : byId("pad")).hidden = false;
  let screen = screens.find((s) => s.about.name.endsWith(GUEST) && s.side === "out") ?? screens[chosen];
  choose(screens.indexOf(screen));
  giving.sender = screen.texture.send(source, {
    width: 256,
    height: 256,
    fps: 15,
    onstate: (state, message) => {
      if (state === "refused") stopGiving(`not sent: ${message}`, true);
      else showGiving(state === "sending" ? `sending to ${screen.title}` : message, state !== "sending");
    },
  });
  showGiving("connecting");
}

// To begin with, something like the grey worlds that the embedded model knows.
function drawStart(context) {
  const shade = (from, to, ...line) => {
    const gradient = line.length === 4 ? context.createLinearGradient(...line) : context.createRadialGradient(...line);
    gradient.addColorStop(0, from);
    gradient.addColorStop(1, to);
    context.fillStyle = gradient;
  };
  shade("#9a9a9a", "#d6d6d6", 0, 0, 0, 110);
  context.fillRect(0, 0, 256, 110);
  shade("#7a7a7a", "#5a5a5a", 0, 110, 0, 256);
  context.fillRect(0, 110, 256, 146);
  shade("#f0f0f0", "#4a4a4a", 90, 115, 6, 105, 135, 62);
  context.beginPath();
  context.arc(105, 135, 52, 0, 2 * Math.PI);
  context.fill();
  shade("#b4b4b4", "#6e6e6e", 170, 0, 225, 0);
  context.fillRect(170, 105, 52, 66);
}

function makeDrawable(pad) {
  const context = pad.getContext("2d");
  drawStart(context);
  context.lineWidth = 18;
  context.lineCap = "round";
  context.lineJoin = "round";
  const waxes = Object.entries(WAX).map(([name, colour]) => {
    const wax = document.createElement("button");
    wax.type = "button";
    wax.title = name;
    wax.setAttribute("aria-label", name);
    wax.style.background = colour;
    wax.onclick = () => take(wax);
    return wax;
  });
  const take = (chosen) => {
    for (const wax of waxes) wax.setAttribute("aria-pressed", wax === chosen);
    context.strokeStyle = WAX[chosen.title];
  };
  const clear = document.createElement("button");
  clear.type = "button";
  clear.id = "clear";
  clear.textContent = "Clear";
  clear.onclick = () => {
    context.fillStyle = "#8a8a8a";
    context.fillRect(0, 0, pad.width, pad.height);
  };
  byId("wax").replaceChildren(...waxes, clear);
  take(waxes[0]);
  let last = null;
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * 256) / box.width, ((event.clientY - box.top) * 256) / box.height];
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    last = at(event);
  });
  pad.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const [x, y] = at(event);
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(x, y);
    context.stroke();
    last = [x, y];
  });
  pad.addEventListener("pointerup", () => (last = null));
}

// ---- start

async function start() {
  const notice = byId("notice");
  let about;
  try {
    const answer = await fetch(address(location.href, "api/channels"), { cache: "no-store" });
    if (!answer.ok) throw new Error((await answer.text()).slice(0, 200));
    about = await answer.json();
  } catch (error) {
    notice.textContent = error instanceof TypeError ? "the host is gone; waiting for it to come back" : error.message;
    notice.hidden = false;
    setTimeout(start, RETRY_MS);
    return;
  }
  notice.hidden = true;
  const { channels } = about;
  const name = (channel) => (channels.length > 1 ? channel.name.replace(/^scene-\d+-/, "") : channel.name);
  screens.push(new Screen(channels[0], "in", `${name(channels[0])}, as it is`));
  for (const channel of channels) screens.push(new Screen(channel, "out", name(channel)));
  place();
  choose(Math.min(1, screens.length - 1));
  look.yaw = look.wantedYaw;
  fit();
}

build();
fit();
addEventListener("resize", fit);
watchTheHand();
makeDrawable(byId("drawing"));
byId("prompting").addEventListener("submit", (event) => {
  event.preventDefault();
  setPrompt(byId("prompt").value);
});
byId("record").onclick = toggleRecording;
byId("send-drawing").onclick = () => give("drawing");
byId("send-camera").onclick = () => give("camera");
renderer.setAnimationLoop(draw);
setInterval(showPanel, 500);
start();

// For the console, and for the tests.
globalThis.scene = { screens, choose, giving };
