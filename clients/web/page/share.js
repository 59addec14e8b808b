// The page on other machines: its address, and a code with it for a phone's camera.
import { byId } from "./dom.js";
import { CopyLine } from "./lines.js";

export class SharePage {
  /** linkFor(path): the path with what the gateway wants to be asked with. */
  constructor(linkFor) {
    this.linkFor = linkFor;
    this.line = new CopyLine("Address");
    byId("phone-address").replaceChildren(this.line.root);
    byId("to-phone").onclick = () => this.open();
  }

  /** address: of this channel's page for other machines; null where none are let in. */
  show(address) {
    byId("phone-none").hidden = address !== null;
    byId("phone-some").hidden = address === null;
    this.line.show(address ?? "");
    this.shared = address !== null;
  }

  open() {
    if (this.shared) byId("phone-code").src = this.linkFor("code.svg");
    byId("phone").showModal();
  }
}
