// Beside the seed: another one at random, and a walk from one to the next.
import { byId, element, remember, remembered } from "./dom.js";

export class Seeds {
  constructor(page) {
    this.page = page;
    this.control = null;
    this.travelling = false;
    const random = element("button", { id: "seed-random", type: "button", title: "R" }, "Random");
    random.onclick = () => this.random();
    this.button = element("button", { id: "seed-travel", type: "button", "aria-pressed": "false" }, "Travel");
    this.button.title = "Walk from seed to seed until it is stopped";
    this.button.onclick = () => this.travel();
    this.seconds = element("input", { id: "seed-seconds", type: "number", min: 0.2, max: 600, step: 0.5 });
    this.seconds.value = remembered("seedSeconds", "4");
    this.seconds.addEventListener("change", () => {
      remember("seedSeconds", this.seconds.value);
      if (this.travelling) this.go(); // at the new pace
    });
    const pace = element("label", { for: "seed-seconds" }, "every");
    this.way = element("span", { class: "preset-row" }, this.button, pace, this.seconds, "s");
    this.root = element("div", { class: "preset-row" }, random, this.way);
  }

  /** Put it beside the seed's control; nothing for a host without one. */
  attach(control) {
    this.control = control ?? null;
    control?.look.root.after(this.root);
  }

  random() {
    if (this.control === null) return;
    const seed = Math.floor(Math.random() * (this.control.spec.high + 1));
    this.page.send({ type: "update", values: { seed, seed_mix: 0 } });
  }

  travel() {
    if (this.travelling) this.page.presets.ask({ do: "stop" }, () => this.show(false), (text) => this.control.say(text));
    else this.go();
  }

  go() {
    const begun = () => {
      this.show(true);
      this.control.say("");
    };
    this.page.presets.ask({ do: "travel", seconds: this.seconds.valueAsNumber }, begun, (text) => this.control.say(text));
  }

  /** As the host tells it: anybody may begin and end it. */
  show(travelling) {
    this.travelling = travelling;
    this.way.hidden = byId("presets").hidden; // of a host that is elsewhere
    this.button.setAttribute("aria-pressed", String(travelling));
    this.button.textContent = travelling ? "Stop" : "Travel";
  }
}
