// Your own pictures as the channel's input: a picture or film from a file, the camera, a window, a drawing. One sender
// per channel: who comes second may ask the first, who gives way, or keeps it, or is not there to answer.
import { Sender } from "../frameloom-feed.js";
import { byId, element } from "./dom.js";

const LONGEST_PX = 768; // what is sent has at most this on its longer side
const MAX_PICTURE_BYTES = 50e6;
const MAX_SIDE_PX = 8192;
const GIVES_WAY_MS = 15000;
const SHORTEST_MS = 20; // of an animation's pictures; many say 0
const RETRY_MS = 3000; // a sender that was refused comes again sooner than this
const COLOURS = { white: "#ffffff", red: "#e8442e", yellow: "#f2b134", green: "#4bb543", blue: "#3fa7f0", purple: "#8c5cf0", black: "#000000" };
const GROUND = "#202020";

const WHY_NOT = {
  NotAllowedError: "was refused: allow it at the left of the browser's address bar, then try again",
  NotFoundError: "is not there: connect one, then try again",
  NotReadableError: "is used by another program: close that, then try again",
  OverconstrainedError: "gives no picture that can be used",
};

/** Why a device gives no picture, in words; `what` is "the camera" and the like. */
export function refusal(what, error) {
  return `${what} ${WHY_NOT[error.name] ?? `gives no picture: ${error.message}`}`;
}

/** The size to send something of `width` x `height` at: its own shape, even sides, no longer than can be shown. */
export function sendingSize(width, height, longest = LONGEST_PX) {
  const by = Math.min(1, longest / Math.max(width, height));
  const even = (px) => Math.max(2, Math.round((px * by) / 2) * 2);
  return { width: even(width), height: even(height) };
}

/** Why a picture of a file cannot be sent, or "". */
export function tooLarge({ bytes = 0, width = 0, height = 0 }) {
  if (bytes > MAX_PICTURE_BYTES) return `a picture of ${Math.round(bytes / 1e6)} MB; send one of at most ${MAX_PICTURE_BYTES / 1e6} MB`;
  if (Math.max(width, height) > MAX_SIDE_PX) return `a picture of ${width} × ${height} pixels; send one of at most ${MAX_SIDE_PX} a side`;
  return "";
}

// What can be sent: {source, end()}; end() gives back what it holds.

async function videoOf(media) {
  const video = element("video", { muted: true, playsinline: true });
  video.muted = true;
  const file = !(media instanceof MediaStream);
  if (file) Object.assign(video, { src: URL.createObjectURL(media), loop: true });
  else video.srcObject = media;
  const end = () => {
    for (const track of file ? [] : media.getTracks()) track.stop();
    video.pause();
    if (file) URL.revokeObjectURL(video.src);
  };
  try {
    await video.play();
  } catch (error) {
    end();
    throw error;
  }
  return { source: video, end };
}

// A picture that moves, played into `canvas` in its own time; null where it stands still or the browser cannot take it
// apart: then its first moment is the picture.
async function animationOf(file, canvas) {
  if (!(await globalThis.ImageDecoder?.isTypeSupported(file.type))) return null;
  const decoder = new ImageDecoder({ data: await file.arrayBuffer(), type: file.type });
  await decoder.tracks.ready;
  await decoder.completed; // how many there are is known only then
  const { frameCount } = decoder.tracks.selectedTrack;
  if (frameCount < 2) return null;
  let timer = 0;
  let ended = false;
  const show = async (i) => {
    const { image } = await decoder.decode({ frameIndex: i });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    const ms = Math.max(SHORTEST_MS, (image.duration ?? 0) / 1000);
    image.close();
    // Closed meanwhile, or damaged from there on: the last one stays.
    if (!ended) timer = setTimeout(() => show((i + 1) % frameCount).catch(() => {}), ms);
  };
  await show(0);
  const end = () => {
    ended = true;
    clearTimeout(timer);
    decoder.close();
  };
  return { source: canvas, end };
}

async function pictureOf(file) {
  const large = tooLarge({ bytes: file.size });
  if (large) throw new Error(large);
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    // Its size is known before anything is decoded.
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new TypeError("no picture"));
    });
    const { naturalWidth: width, naturalHeight: height } = image;
    const wide = tooLarge({ width, height });
    if (wide) throw new Error(wide);
    if (!width || !height) throw new TypeError("no picture");
    const canvas = element("canvas", sendingSize(width, height));
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return (await animationOf(file, canvas).catch(() => null)) ?? { source: canvas, end() {} };
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** What to send of a file. Throws an Error whose message is for people. */
async function sourceOf(file) {
  const film = file.type.startsWith("video/");
  for (const attempt of film ? [videoOf, pictureOf] : [pictureOf, videoOf]) {
    try {
      return await attempt(file);
    } catch (error) {
      if (error.name === "Error") throw error;
    }
  }
  throw new Error(`${file.name} is no picture and no film that this browser can read`);
}

export class OwnPictures {
  constructor(page) {
    this.page = page;
    this.sender = null;
    this.held = null; // what is sent, or would be
    this.what = "";
    this.turn = 0; // counts what was begun or stopped: a file or a permission that comes late is not wanted any more
    this.givesWayMs = GIVES_WAY_MS;
    this.askTimer = 0; // until this page gives way
    this.waitTimer = 0; // until the page that was asked has plainly kept it
    this.said = byId("own-said");
    this.pad = byId("own-pad");
    byId("own-file").addEventListener("change", (event) => this.sendFile(event.target.files[0], event.target));
    byId("own-camera").onclick = () => this.film("camera", "the camera", "getUserMedia", { video: { width: 640, height: 480 } });
    byId("own-window").onclick = () => this.film("window", "the window", "getDisplayMedia", { video: true });
    byId("own-draw").onclick = () => this.draw();
    byId("own-stop").onclick = () => this.stop("");
    byId("own-clear").onclick = () => this.clear();
    this.makePad();
  }

  async sendFile(file, box) {
    if (!file) return;
    this.stop("");
    const { turn } = this;
    this.say("reading the file");
    const held = await sourceOf(file).catch((error) => error);
    box.value = ""; // so that the same file can be chosen again
    if (held instanceof Error) {
      if (turn === this.turn) this.say(held.message, "bad");
    } else if (turn !== this.turn) held.end();
    else this.send("file", held);
  }

  async film(what, called, get, wanted) {
    this.stop("");
    if (!navigator.mediaDevices?.[get]) {
      const why = isSecureContext ? `this browser does not give ${called}` : "browsers give cameras and windows to https pages and to this machine only";
      this.say(why, "bad");
      return;
    }
    const { turn } = this;
    this.say(`waiting for ${called}`);
    try {
      const stream = await navigator.mediaDevices[get](wanted);
      const held = await videoOf(stream);
      stream.getVideoTracks()[0].onended = () => turn === this.turn && this.stop(`${called} has ended`);
      if (turn !== this.turn) held.end();
      else this.send(what, held);
    } catch (error) {
      if (turn === this.turn) this.say(refusal(called, error), "bad");
    }
  }

  draw() {
    this.stop("");
    byId("own-drawing").hidden = false;
    this.send("draw", { source: this.pad, end() {} });
  }

  send(what, held, ask = false) {
    this.what = what;
    this.held = held;
    const { source } = held;
    const size = sendingSize(source.videoWidth || source.width, source.videoHeight || source.height);
    this.sender = new Sender(location.href, this.page.channel, source, {
      ...size,
      fps: 30,
      ask,
      onstate: (state, message) => this.heard(state, message),
      onasked: () => this.asked(),
    });
    this.show();
  }

  heard(state, message) {
    if (state === "sending") {
      clearTimeout(this.waitTimer);
      this.say("this is the input now");
    }
    else if (state === "refused" && message.startsWith("taken")) this.taken(message);
    else if (state !== "closed") this.say(message, "bad");
  }

  // Somebody else feeds the channel. Another page can be asked; what it is not, cannot.
  taken(message) {
    if (this.sender.asks) {
      this.say("the other page was asked; waiting for it to give way");
      clearTimeout(this.waitTimer);
      this.waitTimer = setTimeout(() => this.refused("the other page keeps it", "Ask again"), this.givesWayMs + RETRY_MS);
    } else this.refused(message, message.includes("another page") ? "Ask for it" : "");
  }

  // What was chosen stays at hand; `word` is on a button that asks for the channel, where there is one to ask.
  refused(message, word) {
    const { what, held } = this;
    this.sender.close();
    this.sender = null;
    this.say(message, "bad");
    if (word) {
      const ask = element("button", { type: "button" }, word);
      ask.onclick = () => this.send(what, held, true);
      this.said.append(" ", ask);
    }
    this.show();
  }

  // Another page would like to send.
  asked() {
    clearTimeout(this.askTimer);
    const give = element("button", { type: "button" }, "Give it");
    const keep = element("button", { type: "button", class: "quiet" }, "Keep it");
    give.onclick = () => this.stop("given to the other page");
    keep.onclick = () => {
      clearTimeout(this.askTimer);
      this.say("this is the input now");
    };
    this.say(`Another page would like to send. Unless you keep it, it is theirs in ${this.givesWayMs / 1000} seconds.`);
    this.said.append(" ", give, " ", keep);
    this.askTimer = setTimeout(() => this.stop("given to the other page"), this.givesWayMs);
  }

  stop(why) {
    this.turn += 1;
    clearTimeout(this.askTimer);
    clearTimeout(this.waitTimer);
    this.sender?.close();
    this.held?.end();
    Object.assign(this, { sender: null, held: null, what: "" });
    byId("own-drawing").hidden = true;
    this.say(why);
    this.show();
  }

  show() {
    byId("own-stop").hidden = this.held === null;
    for (const what of ["camera", "window", "draw"]) {
      byId(`own-${what}`).setAttribute("aria-pressed", String(this.what === what && this.sender !== null));
    }
  }

  say(text, how = "") {
    this.said.replaceChildren(text);
    this.said.dataset.how = how;
  }

  // ---- the drawing

  makePad() {
    this.colour = COLOURS.white;
    const swatches = Object.entries(COLOURS).map(([name, colour]) => {
      const swatch = element("button", { type: "button", class: "swatch", title: name, "aria-label": `Draw in ${name}`, "aria-pressed": "false" });
      swatch.style.background = colour;
      swatch.onclick = () => {
        this.colour = colour;
        for (const other of swatches) other.setAttribute("aria-pressed", String(other === swatch));
      };
      return swatch;
    });
    byId("own-colours").replaceChildren(...swatches);
    swatches[0].click();
    this.clear();
    let last = null;
    const at = (event) => {
      const box = this.pad.getBoundingClientRect();
      return [((event.clientX - box.left) * this.pad.width) / box.width, ((event.clientY - box.top) * this.pad.height) / box.height];
    };
    const stroke = (event) => {
      const to = at(event);
      const context = this.pad.getContext("2d");
      Object.assign(context, { strokeStyle: this.colour, lineWidth: Number(byId("own-width").value), lineCap: "round" });
      context.beginPath();
      context.moveTo(...(last ?? to));
      context.lineTo(to[0] + 0.01, to[1]); // a tap is a dot
      context.stroke();
      last = to;
    };
    this.pad.addEventListener("pointerdown", (event) => {
      this.pad.setPointerCapture(event.pointerId);
      last = null;
      stroke(event);
    });
    this.pad.addEventListener("pointermove", (event) => {
      if (!(event.buttons & 1)) return;
      const all = event.getCoalescedEvents?.() ?? [];
      for (const one of all.length ? all : [event]) stroke(one);
    });
    for (const end of ["pointerup", "pointercancel"]) this.pad.addEventListener(end, () => (last = null));
  }

  clear() {
    const context = this.pad.getContext("2d");
    context.fillStyle = GROUND;
    context.fillRect(0, 0, this.pad.width, this.pad.height);
  }
}
