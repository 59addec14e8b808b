// The presets: tiles that recall a look at once or over some seconds, and what is done to them. What is asked for goes
// by `page.send`; the list comes from /api/presets whenever the gateway says that it is another one.
import { asked, byId, element, remember, remembered } from "./dom.js";

const UNDO_MS = 15000;

export class PresetList {
  constructor(page) {
    this.page = page;
    this.presets = [];
    this.problems = [];
    this.chosen = ""; // the one that was recalled or saved last
    this.nextId = 0;
    this.waiting = new Map(); // what to do with the answer to a message, by its id
    this.questions = 0; // how often the list was asked for
    this.undoTimer = 0;
    this.box = byId("presets");
    this.tiles = byId("preset-tiles");
    this.name = byId("preset-name");
    this.seconds = byId("preset-seconds");
    this.easing = byId("preset-easing");
    this.said = byId("preset-said");
    this.actions = byId("preset-actions");
    byId("preset-save").addEventListener("submit", (event) => {
      event.preventDefault();
      this.save(this.name.value.trim(), "");
    });
    this.seconds.value = remembered("presetSeconds", "0");
    this.seconds.addEventListener("change", () => remember("presetSeconds", this.seconds.value));
    const act = {
      replace: () => this.save(this.chosen, this.find(this.chosen)?.digest ?? ""),
      rename: () => this.askForName(),
      left: () => this.move(-1),
      right: () => this.move(1),
      delete: () => this.remove(this.chosen),
    };
    for (const [word, does] of Object.entries(act)) byId(`preset-${word}`).onclick = does;
  }

  find(name) {
    return this.presets.find((preset) => preset.name === name);
  }

  /** Ask the gateway what there is; the newest answer counts. */
  async load() {
    const query = new URLSearchParams({ ...asked("token"), channel: this.page.channel });
    const question = ++this.questions;
    const answer = await fetch(`api/presets?${query}`, { cache: "no-store" }).catch(() => null);
    const about = answer?.ok ? await answer.json() : null;
    if (question !== this.questions || about === null) return;
    this.box.hidden = about.presets === null;
    if (about.presets === null) return;
    this.presets = about.presets;
    this.problems = about.problems;
    byId("preset-folder").textContent = about.folder;
    if (this.easing.options.length !== about.easings.length) {
      this.easing.replaceChildren(...about.easings.map((name) => element("option", {}, name)));
    }
    this.show();
  }

  show() {
    const focus = document.activeElement?.dataset?.preset;
    this.tiles.replaceChildren(...this.presets.map((preset, i) => this.tile(preset, i)));
    if (focus !== undefined) [...this.tiles.querySelectorAll("button")].find((b) => b.dataset.preset === focus)?.focus();
    byId("preset-none").hidden = this.presets.length > 0;
    this.actions.hidden = this.find(this.chosen) === undefined;
    const troubles = [...this.problems, ...this.presets.flatMap((preset) => preset.notes)];
    byId("preset-problems").replaceChildren(...troubles.map((text) => element("li", {}, text)));
    byId("preset-problems").hidden = troubles.length === 0;
  }

  tile(preset, i) {
    const pressed = String(preset.name === this.chosen);
    const key = i < 9 ? `Key ${i + 1}` : null;
    const button = element("button", { type: "button", "aria-pressed": pressed, title: key, "data-preset": preset.name });
    const picture = element("img", { alt: "", width: 72, height: 54, draggable: "false" });
    if (preset.thumbnail) picture.src = `data:image/jpeg;base64,${preset.thumbnail}`;
    button.append(picture, element("span", {}, preset.name));
    button.onclick = () => this.recall(preset.name);
    return element("li", {}, button);
  }

  /** The preset at a place, counted from 0, as by its key. */
  recallAt(place) {
    if (place < this.presets.length) this.recall(this.presets[place].name);
  }

  recall(name) {
    const seconds = Number(this.seconds.value);
    const choose = () => {
      this.chosen = name;
      this.show();
    };
    if (seconds > 0) this.ask({ do: "morph", start: "", name, seconds, easing: this.easing.value || "smooth" }, choose);
    else this.ask({ do: "recall", name }, choose);
  }

  /** replaces: the digest of what it may replace, "" for nothing. */
  save(name, replaces) {
    const saved = () => {
      this.chosen = name;
      this.name.value = "";
      this.load();
      this.say(`Saved ${name}.`);
    };
    const refused = (message) => {
      const there = this.find(name);
      if (replaces !== "" || there === undefined) this.say(message);
      else this.say(message, "Replace it", () => this.save(name, there.digest));
    };
    this.ask({ do: "save", name, replaces }, saved, refused);
  }

  askForName() {
    const name = this.chosen;
    const box = element("input", { type: "text", value: name, maxlength: 60, "aria-label": `New name of ${name}` });
    const form = element("form", { class: "preset-row" }, box, element("button", {}, "Rename"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const to = box.value.trim();
      this.ask({ do: "rename", name, to }, () => {
        this.chosen = to;
        this.say("");
        this.load();
      });
    });
    this.said.replaceChildren(form);
    box.select();
  }

  move(by) {
    const names = this.presets.map((preset) => preset.name);
    const at = names.indexOf(this.chosen);
    const to = at + by;
    if (at < 0 || to < 0 || to >= names.length) return;
    [names[at], names[to]] = [names[to], names[at]];
    this.ask({ do: "reorder", names });
  }

  remove(name) {
    this.ask({ do: "delete", name }, () => {
      this.chosen = "";
      this.say(`Deleted ${name}.`, "Undo", () => this.ask({ do: "restore", name }, () => this.say("")));
    });
  }

  ask(message, done = () => {}, refused = (text) => this.say(text)) {
    const id = ++this.nextId;
    if (!this.page.send({ type: "preset", id, ...message })) {
      this.say("not connected; nothing was done");
      return;
    }
    this.waiting.set(id, { done, refused });
  }

  /** An answer to one of our messages. */
  heard(message) {
    const { done, refused } = this.waiting.get(message.id) ?? {};
    this.waiting.delete(message.id);
    if (message.type === "error") refused?.(message.message);
    else {
      done?.();
      if (message.note) this.say(message.note);
    }
  }

  /** After a lost connection nothing is on its way any more. */
  forget() {
    this.waiting.clear();
    this.load();
  }

  say(text, word = "", does = null) {
    clearTimeout(this.undoTimer);
    this.said.replaceChildren(text ? element("span", {}, text) : "");
    if (does === null) return;
    const button = element("button", { type: "button" }, word);
    button.onclick = () => {
      this.say("");
      does();
    };
    this.said.append(" ", button);
    this.undoTimer = setTimeout(() => this.say(""), UNDO_MS);
  }
}
