// Beside the reference picture: another one from this machine, or what the input shows now.
import { element } from "./dom.js";

export class Reference {
  constructor(page, linkFor) {
    this.page = page;
    this.linkFor = linkFor;
    this.control = null;
    this.file = element("input", { id: "reference-file", type: "file", accept: "image/*" });
    this.file.addEventListener("change", () => {
      const [file] = this.file.files;
      if (file) this.send({ name: file.name }, file);
      this.file.value = ""; // the same one may be chosen again
    });
    const choose = element("label", { class: "button", for: "reference-file" }, "Another picture", this.file);
    const take = element("button", { id: "reference-take", type: "button" }, "Take the input");
    take.title = "The picture that the input shows now";
    take.onclick = () => this.send({ take: "in" });
    this.root = element("div", { class: "preset-row" }, choose, take);
  }

  /** Put it beside the control of the reference picture; nothing for a host without an IP-Adapter. */
  attach(control) {
    this.control = control ?? null;
    control?.look.root.after(this.root);
  }

  async send(about, body) {
    this.control?.say("");
    try {
      const address = `${this.linkFor("reference")}&${new URLSearchParams(about)}`;
      const answer = await fetch(address, { method: "POST", body });
      if (!answer.ok) this.control?.say((await answer.text()).slice(0, 200));
    } catch {
      this.control?.say("the host was not reached; the picture was not sent");
    }
  }
}
