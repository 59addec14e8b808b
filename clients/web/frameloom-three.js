// A frameloom channel as a three.js texture:
//   import { FrameloomTexture } from "./frameloom-three.js";
//   material.map = new FrameloomTexture("http://127.0.0.1:8790/", "stage");
// "three" is found by your bundler or your import map.
import { LinearFilter, SRGBColorSpace, Texture } from "three";
import { Feed, Sender } from "./frameloom-feed.js";

export class FrameloomTexture extends Texture {
  /**
   * url, channel, options: see Feed. options.renderer: a WebGLRenderer; with it a picture is on the GPU the moment it
   * has arrived, without it when the texture is drawn next.
   */
  constructor(url, channel, { renderer = null, ...options } = {}) {
    super();
    this.colorSpace = SRGBColorSpace;
    this.minFilter = LinearFilter;
    this.magFilter = LinearFilter;
    this.generateMipmaps = false;
    this.flipY = false; // the bitmap comes flipped: WebGL does not flip one
    this.renderer = renderer;
    this.feed = new Feed(url, channel, options);
    this.feed.onframe = (bitmap) => this._show(bitmap);
    this.feed.onstate = (state, message) => this.dispatchEvent({ type: "state", state, message });
    this.feed.onparams = (values) => this.dispatchEvent({ type: "params", values });
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
    const old = this.image;
    // The storage of a texture on the GPU cannot change its size: it is given back and made anew.
    if (old?.width !== bitmap.width || old?.height !== bitmap.height) super.dispose();
    this.image = bitmap;
    this.needsUpdate = true;
    this.renderer?.initTexture(this);
    old?.close?.();
    this.dispatchEvent({ type: "frame", header: this.feed.header });
  }

  /** End the connection and give everything back. */
  dispose() {
    this._sender?.close();
    this.feed.close();
    super.dispose();
    this.image?.close?.();
  }
}
