// A frameloom channel as a Babylon.js texture:
//   import { FrameloomTexture } from "./frameloom-babylon.js";
//   material.emissiveTexture = new FrameloomTexture("http://127.0.0.1:8790/", "stage", scene);
// "@babylonjs/core" is found by your bundler or your import map.
import { Texture } from "@babylonjs/core";
import { Feed, Sender } from "./frameloom-feed.js";

export class FrameloomTexture extends Texture {
  /** url, channel, options: see Feed. scene: the Babylon scene whose engine holds the texture. */
  constructor(url, channel, scene, options = {}) {
    super(null, scene, true, true);
    this.name = `frameloom ${channel ?? ""}`;
    this.wrapU = Texture.CLAMP_ADDRESSMODE;
    this.wrapV = Texture.CLAMP_ADDRESSMODE;
    this.onframe = null;
    this.onstate = null;
    this.feed = new Feed(url, channel, options);
    this.feed.onframe = (bitmap) => this._show(bitmap);
    this.feed.onstate = (state, message) => this.onstate?.(state, message);
    this._sender = null;
  }

  /** connecting, no-writer, live, writer-gone, error, host-gone, refused, closed; `message` says it for people. */
  get state() {
    return this.feed.state;
  }

  get message() {
    return this.feed.message;
  }

  /** Frame id of the input that the picture was made from. */
  get sourceFrameId() {
    return this.feed.sourceFrameId;
  }

  /** Milliseconds since the picture's source was captured, or null. */
  get ageMs() {
    return this.feed.ageMs;
  }

  setPrompt(text) {
    return this.feed.setPrompt(text);
  }

  /** Send a canvas or video as this channel's input from now on; see Sender. Returns the Sender: `close()` ends it. */
  send(source, options = {}) {
    this._sender?.close();
    this._sender = new Sender(this.feed.url, this.feed.channel, source, options);
    return this._sender;
  }

  _show(bitmap) {
    const engine = this.getScene().getEngine();
    const { width, height } = bitmap;
    if (this._texture?.width !== width || this._texture?.height !== height) {
      this._texture?.dispose();
      this._texture = engine.createDynamicTexture(width, height, false, Texture.BILINEAR_SAMPLINGMODE);
    }
    // The bitmap comes flipped: WebGL does not flip one.
    engine.updateDynamicTexture(this._texture, bitmap, false);
    bitmap.close();
    this.onframe?.(this.feed.header);
  }

  /** End the connection and give everything back. */
  dispose() {
    this._sender?.close();
    this.feed.close();
    super.dispose();
  }
}
