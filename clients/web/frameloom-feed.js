// One channel of a frameloom gateway in a page: its newest pictures, its parameters, and pictures sent back to it.
// Shared by frameloom-three.js and frameloom-babylon.js; knows no 3D engine. The messages are described in README.md.
import { PACKET } from "./ring_layout.js";

const CREDITS = 2; // one frame travels while the other is decoded
const RETRY_MS = [250, 500, 1000, 2000, 4000];
const REFUSED_RETRY_MS = 5000;
const CLOCK_EVERY_MS = 5000;
const ANSWER_MS = 10000;
const SENDING_RETRY_MS = 2000;

/**
 * The address of one of the gateway's doors ("ws", "send", "snapshot.jpg"), with the token that `url` carries. `url` is
 * the gateway's, which may lie below a path of a proxy, or that of one of its pages.
 */
export function address(url, door, query = {}) {
  const base = new URL(url, globalThis.location?.href);
  const folder = base.pathname.replace(/[^/]*$/, "").replace(/\/(examples|out|scene)\/$/, "/");
  const made = new URL(folder + door, base.origin);
  if (door === "ws" || door === "send") made.protocol = /^(https|wss):$/.test(base.protocol) ? "wss:" : "ws:";
  else made.protocol = /^(https|wss):$/.test(base.protocol) ? "https:" : "http:";
  const token = base.searchParams.get("token");
  for (const [name, value] of Object.entries({ ...query, token })) {
    if (value !== null && value !== undefined) made.searchParams.set(name, value);
  }
  return made.href;
}

/** Header and payload of one binary message. Throws an Error that says what is wrong. */
export function unpack(buffer) {
  if (buffer.byteLength < PACKET.headerSize) throw new Error("packet shorter than its header");
  const view = new DataView(buffer);
  const at = PACKET.offset;
  const u32 = (name) => view.getUint32(at[name], true);
  const u64 = (name) => view.getBigUint64(at[name], true);
  const magic = String.fromCharCode(...new Uint8Array(buffer, at.magic, PACKET.magic.length));
  if (magic !== PACKET.magic || u32("version") !== PACKET.version) {
    throw new Error("this page and the gateway are of different versions; take both from the same checkout");
  }
  const headerSize = u32("header_size");
  const payloadSize = u32("payload_size");
  if (headerSize < PACKET.headerSize || headerSize + payloadSize !== buffer.byteLength) {
    throw new Error("packet size does not match its header");
  }
  return {
    sequence: u64("sequence"),
    sourceFrameId: u64("source_frame_id"),
    captureNs: u64("capture_ns"),
    publishNs: u64("publish_ns"),
    sentNs: u64("sent_ns"),
    paramRevision: u64("param_revision"),
    generation: u64("generation"),
    width: u32("width"),
    height: u32("height"),
    codec: u32("codec"),
    payload: new Uint8Array(buffer, headerSize, payloadSize),
  };
}

/** One packet for the gateway. `codec` is of PACKET.codec; rows from the top, sRGB. */
export function pack({ width, height, codec, payload, sourceFrameId = 0 }) {
  const message = new Uint8Array(PACKET.headerSize + payload.byteLength);
  const view = new DataView(message.buffer);
  const at = PACKET.offset;
  for (let i = 0; i < PACKET.magic.length; i += 1) message[at.magic + i] = PACKET.magic.charCodeAt(i);
  const words = { version: PACKET.version, header_size: PACKET.headerSize, payload_size: payload.byteLength, width, height, codec };
  for (const [name, value] of Object.entries(words)) view.setUint32(at[name], value, true);
  view.setBigUint64(at.source_frame_id, BigInt(sourceFrameId), true);
  message.set(payload, PACKET.headerSize);
  return message;
}

// Row 0 at the bottom, as WebGL wants it: its own flipping does not touch an ImageBitmap. Values stay as they are.
const BITMAP = { imageOrientation: "flipY", premultiplyAlpha: "none", colorSpaceConversion: "none" };

function decode({ codec, payload, width, height }, options) {
  if (codec === PACKET.codec.JPEG) return createImageBitmap(new Blob([payload], { type: "image/jpeg" }), options);
  if (codec !== PACKET.codec.RGBA8) return Promise.reject(new Error("a codec that this page cannot show"));
  if (payload.byteLength !== width * height * 4) return Promise.reject(new Error("pixels do not match the size"));
  const pixels = new Uint8ClampedArray(payload.buffer, payload.byteOffset, payload.byteLength);
  return createImageBitmap(new ImageData(pixels, width, height), options);
}

function isLoopback(url) {
  return ["127.0.0.1", "localhost", "[::1]"].includes(new URL(url, globalThis.location?.href).hostname);
}

/**
 * The newest pictures of one channel.
 *
 * url: of the gateway, http or ws, with `?token=` where it wants one. channel: its name; undefined is the gateway's
 * first. options: side "out" (default) or "in"; codec "jpeg" (default) or "rgba", raw pixels, exact and for loopback
 * only: elsewhere jpeg is taken; upright: row 0 at the top, for a canvas instead of WebGL.
 *
 * onframe(bitmap, header): a new picture, upside down for WebGL unless `upright`. The next credit goes out when it returns; the bitmap is
 * the callee's to close. onstate(state, message): see `state`. onparams(values): the parameters in force. `statistics` is
 * the host's latest report, null before the first.
 */
export class Feed {
  constructor(url, channel, { side = "out", codec = "jpeg", upright = false } = {}) {
    this.url = url;
    this.channel = channel;
    this.side = side;
    this.codec = codec === "rgba" && isLoopback(url) ? "rgba" : "jpeg";
    this._bitmap = upright ? { ...BITMAP, imageOrientation: "from-image" } : BITMAP;
    /** connecting, no-writer, live, writer-gone, error, host-gone, refused, closed. */
    this.state = "connecting";
    /** The state for people; empty when all is well. */
    this.message = "connecting";
    this.values = {};
    this.statistics = null;
    this.frames = 0;
    this.onframe = null;
    this.onstate = null;
    this.onparams = null;
    this._header = null;
    this._clock = null; // { offsetNs, roundTripMs } of the quickest answer
    this._ids = 0;
    this._answers = new Map();
    this._failures = 0;
    this._waiting = null;
    this._decoding = false;
    this._timers = new Set();
    this._connect();
  }

  /** Frame id of the input that the picture was made from; 0 before the first. */
  get sourceFrameId() {
    return this._header === null ? 0 : Number(this._header.sourceFrameId);
  }

  /** Milliseconds since the picture's source was captured; null when that is unknown. */
  get ageMs() {
    if (this._header === null || this._header.captureNs === 0n) return null;
    return this.sinceMs(this._header.captureNs);
  }

  /** Milliseconds since a time of the gateway's clock; null before the clocks were compared. */
  sinceMs(ns) {
    return this._clock === null ? null : performance.now() - (Number(ns) / 1e6 - this._clock.offsetMs);
  }

  /** How far `sinceMs` may be off, in milliseconds. */
  get clockErrorMs() {
    return this._clock === null ? null : this._clock.roundTripMs / 2;
  }

  /** The header of the newest picture, or null. */
  get header() {
    return this._header;
  }

  /** Set one live parameter ("prompt", "strength" ...). Rejects with a sentence that names the mend. */
  set(name, value) {
    return this._ask({ type: "set", name, value });
  }

  setPrompt(text) {
    return this.set("prompt", text);
  }

  /** Begin (true) or end a recording of the channel on the host's machine. Rejects with a sentence. */
  record(on) {
    return this._ask({ type: "record", do: on ? "start" : "stop" });
  }

  close() {
    this._tell("closed", "");
    for (const timer of this._timers) clearTimeout(timer);
    this._socket?.close();
    this._fail("closed");
  }

  _later(ms, call) {
    const timer = setTimeout(() => {
      this._timers.delete(timer);
      if (this.state !== "closed") call();
    }, ms);
    this._timers.add(timer);
  }

  _connect() {
    const query = { channel: this.channel, side: this.side, codec: this.codec };
    let socket;
    try {
      socket = new WebSocket(address(this.url, "ws", query));
    } catch (error) {
      this._tell("refused", `${this.url} is not an address of a gateway: ${error.message}`);
      return;
    }
    socket.binaryType = "arraybuffer";
    this._socket = socket;
    this._waiting = null;
    this._clock = null;
    let told = false;
    socket.onopen = () => this._send({ type: "credit", n: CREDITS });
    socket.onmessage = (event) => {
      if (typeof event.data !== "string") {
        this._take(socket, event.data);
      } else {
        if (!told) this._compareClocks(socket);
        told = true;
        this._failures = 0;
        this._hear(JSON.parse(event.data));
      }
    };
    socket.onclose = (event) => {
      if (socket !== this._socket || this.state === "closed") return;
      this._fail("the connection was lost");
      const refused = event.code >= 4000 || event.code === 1008 || event.code === 1013;
      const wait = refused ? REFUSED_RETRY_MS : RETRY_MS[Math.min(this._failures, RETRY_MS.length - 1)];
      this._failures += 1;
      if (refused) this._tell("refused", event.reason || `refused with code ${event.code}`);
      else if (told) this._goneOrRefused(null);
      else this._ownPageRefused().then((why) => this._goneOrRefused(why));
      this._later(wait, () => this._connect());
    };
  }

  _goneOrRefused(why) {
    if (this.state === "closed" || this._socket.readyState === WebSocket.OPEN) return;
    if (why) this._tell("refused", why);
    else this._tell("host-gone", `no host at ${new URL(this.url, globalThis.location?.href).host}; trying again`);
  }

  // Browsers do not say why a WebSocket was refused. The gateway's own page may ask it: behind a proxy that calls the
  // gateway by another name than its own, it is taken for the page of somebody else.
  async _ownPageRefused() {
    const { origin, href } = globalThis.location ?? {};
    if (origin === undefined || new URL(this.url, href).origin !== origin) return null;
    try {
      const answer = await fetch(address(this.url, "api/params", { channel: this.channel, page: origin }));
      return answer.status === 403 ? (await answer.text()).slice(0, 500) : null;
    } catch {
      return null; // nobody answers at all
    }
  }

  _tell(state, message) {
    if (this.state === state && this.message === message) return;
    this.state = state;
    this.message = message;
    this.onstate?.(state, message);
  }

  _send(message) {
    if (this._socket?.readyState !== WebSocket.OPEN) return false;
    this._socket.send(JSON.stringify(message));
    return true;
  }

  _ask(message) {
    const id = ++this._ids;
    if (!this._send({ ...message, id })) return Promise.reject(new Error(this.message || "not connected"));
    return new Promise((resolve, reject) => {
      this._answers.set(id, { resolve, reject });
      this._later(ANSWER_MS, () => this._answer(id, "reject", new Error("the gateway did not answer")));
    });
  }

  _answer(id, how, value) {
    this._answers.get(id)?.[how](value);
    this._answers.delete(id);
  }

  _fail(why) {
    for (const id of [...this._answers.keys()]) this._answer(id, "reject", new Error(why));
  }

  _hear(message) {
    if (message.type === "state") this._tell(message.state, message.message);
    else if (message.type === "hello") this.channel = message.channel;
    else if (message.type === "params") {
      this.values = message.values;
      this.onparams?.(message.values);
    } else if (message.type === "stats") this.statistics = message;
    else if (message.type === "ok" || message.type === "clock") this._answer(message.id, "resolve", message);
    else if (message.type === "error") this._answer(message.id, "reject", new Error(message.message));
  }

  // The gateway's clock against ours: the quickest of a few answers is the truest.
  async _compareClocks(socket, questions = 4) {
    for (let i = 0; i < questions; i += 1) {
      const asked = performance.now();
      let answer;
      try {
        answer = await this._ask({ type: "clock" });
      } catch {
        return;
      }
      const now = performance.now();
      if (socket !== this._socket) return;
      const roundTripMs = now - asked;
      if (this._clock === null || roundTripMs <= this._clock.roundTripMs) {
        this._clock = { offsetMs: answer.now_ns / 1e6 - (asked + now) / 2, roundTripMs };
      }
    }
    this._later(CLOCK_EVERY_MS, () => {
      if (socket !== this._socket) return;
      // Clocks drift apart: an old answer counts for less.
      if (this._clock !== null) this._clock.roundTripMs *= 1.2;
      this._compareClocks(socket, 1);
    });
  }

  _take(socket, buffer) {
    // Newest wins: one that waits to be decoded is replaced, and its credit comes back.
    if (this._waiting !== null) this._send({ type: "credit", n: 1 });
    this._waiting = { socket, buffer };
    if (!this._decoding) this._work();
  }

  async _work() {
    this._decoding = true;
    while (this._waiting !== null) {
      const { socket, buffer } = this._waiting;
      this._waiting = null;
      try {
        const header = unpack(buffer);
        const bitmap = await decode(header, this._bitmap);
        if (socket !== this._socket || this.state === "closed") {
          bitmap.close();
          continue;
        }
        this._header = { ...header, payload: null };
        this.frames += 1;
        if (this.state === "error") this._tell("live", "");
        if (this.onframe) this.onframe(bitmap, this._header);
        else bitmap.close();
      } catch (error) {
        this._tell("error", `a picture cannot be shown: ${error.message}`);
      }
      if (socket === this._socket) this._send({ type: "credit", n: 1 });
    }
    this._decoding = false;
  }
}

/**
 * Sends a canvas or a video as the input of a channel, as often as the gateway takes it and at most `fps` times a second.
 *
 * source: a canvas, OffscreenCanvas, video or ImageBitmap, drawn at `width` x `height` pixels (default: its own size).
 * codec "jpeg" (default) or "rgba". onstate(state, message): connecting, sending, error, refused, host-gone, closed; a
 * channel that somebody else feeds already is "refused", and is tried again. ask: where that is another page, it is asked
 * to give way, once; `onasked()` tells this to the other page, whose user may close the sender.
 */
export class Sender {
  constructor(url, channel, source, { fps = 30, width, height, codec = "jpeg", quality = 0.9, ask = false, onstate = null, onasked = null } = {}) {
    Object.assign(this, { url, channel, source, fps, width, height, codec, quality, asks: ask, onstate, onasked });
    this.state = "connecting";
    this.message = "connecting";
    this.sent = 0;
    this._canvas = new OffscreenCanvas(1, 1);
    this._connect();
  }

  close() {
    this._tell("closed", "");
    clearTimeout(this._timer);
    this._socket?.close();
  }

  _tell(state, message) {
    if (this.state === state && this.message === message) return;
    this.state = state;
    this.message = message;
    this.onstate?.(state, message);
  }

  _connect() {
    const asking = this.asks && !this._asked ? { ask: "1" } : {};
    const socket = new WebSocket(address(this.url, "send", { channel: this.channel, ...asking }));
    this._asked = this.asks;
    const line = { socket, credits: 0, pumping: false };
    this._socket = socket;
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.type === "credit") {
        line.credits += message.n;
        this._pump(line);
      } else if (message.type === "error") this._tell("error", message.message);
      else if (message.type === "asked") this.onasked?.();
    };
    socket.onclose = (event) => {
      if (this.state === "closed") return;
      if (event.reason && event.code !== 1001) this._tell("refused", event.reason);
      else this._tell("host-gone", "not connected; trying again");
      this._timer = setTimeout(() => this._connect(), SENDING_RETRY_MS);
    };
  }

  async _pump(line) {
    if (line.pumping) return;
    line.pumping = true;
    while (line.credits > 0 && line.socket.readyState === WebSocket.OPEN) {
      const began = performance.now();
      try {
        const message = await this._picture();
        if (message !== null && line.socket.readyState === WebSocket.OPEN) {
          line.credits -= 1;
          this.sent += 1;
          line.socket.send(message);
          this._tell("sending", "");
        }
      } catch (error) {
        this._tell("error", `the picture cannot be read: ${error.message}`);
      }
      const rest = Math.max(0, 1000 / this.fps - (performance.now() - began));
      await new Promise((resolve) => setTimeout(resolve, rest));
    }
    line.pumping = false;
  }

  // The source as it is now; null while it has no picture.
  async _picture() {
    const source = this.source;
    const width = this.width ?? source.videoWidth ?? source.width;
    const height = this.height ?? source.videoHeight ?? source.height;
    if (!width || !height || (source.readyState !== undefined && source.readyState < 2)) return null;
    if (this._canvas.width !== width || this._canvas.height !== height) this._canvas = new OffscreenCanvas(width, height);
    const context = this._canvas.getContext("2d", { willReadFrequently: this.codec === "rgba" });
    context.drawImage(source, 0, 0, width, height);
    if (this.codec === "rgba") {
      const { data } = context.getImageData(0, 0, width, height);
      return pack({ width, height, codec: PACKET.codec.RGBA8, payload: data, sourceFrameId: this.sent + 1 });
    }
    const blob = await this._canvas.convertToBlob({ type: "image/jpeg", quality: this.quality });
    const payload = new Uint8Array(await blob.arrayBuffer());
    return pack({ width, height, codec: PACKET.codec.JPEG, payload, sourceFrameId: this.sent + 1 });
  }
}
