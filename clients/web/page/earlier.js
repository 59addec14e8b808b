// The texts that a parameter had before, newest first, to be taken back; kept in this browser.
import { element, remember, remembered } from "./dom.js";

const KEPT = 50;
const HELD_MS = 1000; // what was in force for a shorter time was on the way to something else

export class Earlier {
  constructor(control, page) {
    this.control = control;
    this.page = page;
    this.store = `earlier.${control.spec.name}`;
    this.timer = 0;
    this.value = "";
    this.place = -1; // while going through them by key; -1 is what was there
    this.draft = "";
    const name = control.spec.name.replaceAll("_", " ");
    const id = `p-${control.spec.name}-earlier`;
    const about = { type: "button", class: "quiet ask", "aria-controls": id, "aria-expanded": "false" };
    this.button = element("button", { ...about, title: "Alt ↑, Alt ↓", "aria-label": `Earlier texts of ${name}`, hidden: true }, "earlier");
    this.button.onclick = () => {
      this.root.hidden = !this.root.hidden;
      this.button.setAttribute("aria-expanded", String(!this.root.hidden));
    };
    this.list = element("ol", {});
    const forget = element("button", { type: "button", class: "quiet" }, "forget all");
    forget.onclick = () => this.keep([]);
    this.root = element("div", { class: "earlier", id, hidden: true }, this.list, forget);
    control.look.root.addEventListener("keydown", (event) => {
      if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
      event.preventDefault();
      this.walk(event.key === "ArrowUp" ? 1 : -1);
    });
    this.show();
  }

  /** All of them. What is damaged counts as not there. */
  get texts() {
    let kept;
    try {
      kept = JSON.parse(remembered(this.store, "[]"));
    } catch {
      kept = [];
    }
    return Array.isArray(kept) ? kept.filter((text) => typeof text === "string") : [];
  }

  get others() {
    return this.texts.filter((text) => text !== this.value);
  }

  keep(texts) {
    remember(this.store, JSON.stringify(texts));
    this.show();
  }

  /** Another value is in force. */
  follow(value) {
    if (value === this.value) return;
    this.value = value;
    this.place = -1;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.add(value), HELD_MS);
    this.show();
  }

  add(text) {
    // Read anew: another tab may have added its own.
    if (text.trim() !== "") this.keep([text, ...this.texts.filter((other) => other !== text)].slice(0, KEPT));
  }

  // Into the box alone: Enter applies it.
  walk(by) {
    const { others } = this;
    const place = this.place + by;
    if (place < -1 || place >= others.length) return;
    if (this.place === -1) this.draft = this.control.look.read();
    this.place = place;
    this.control.look.write(place === -1 ? this.draft : others[place]);
    this.control.later();
  }

  show() {
    const items = this.others.map((text) => {
      const button = element("button", { type: "button", title: text }, text);
      button.onclick = () => this.control.put(text);
      return element("li", {}, button);
    });
    this.list.replaceChildren(...items);
    this.button.hidden = items.length === 0;
    if (items.length === 0) {
      this.root.hidden = true;
      this.button.setAttribute("aria-expanded", "false");
    }
  }
}
