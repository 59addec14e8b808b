// How other programs set a parameter: its OSC address, a line of C# for Unity, a line of JavaScript.
import { element } from "./dom.js";

const COPIED_MS = 1500;

const raised = (word) => word.slice(0, 1).toUpperCase() + word.slice(1);
// As bridge/commands/generate/unity.py names them.
const pascal = (name) => name.split(/[-_]/).map(raised).join("");
const camel = (name) => {
  const [first, ...rest] = name.split("_");
  return first + rest.map(raised).join("");
};

const CSHARP = {
  str: (spec, value) => JSON.stringify(value),
  float: (spec, value) => `${value}f`,
  int: (spec, value) => `${value}`,
  bool: (spec, value) => `${value}`,
  choice: (spec, value) => `Frameloom${pascal(spec.name)}.${pascal(value)}`,
  ints: (spec, value) => (value.length ? `new[] { ${value.join(", ")} }` : "new int[0]"),
};

/** What is to be copied for a parameter at `value`, by language. */
export function linesFor(spec, value) {
  return {
    OSC: `/${spec.name}`,
    "C#": `control.parameters.${camel(spec.name)} = ${CSHARP[spec.kind](spec, value)};`,
    JavaScript: `feed.set(${JSON.stringify(spec.name)}, ${JSON.stringify(value)});`,
  };
}

/** Put `text` on the clipboard. `from`: the element that shows it, for pages without a clipboard of their own. */
export async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only https pages and those of this machine have one; what is selected can be copied everywhere.
    getSelection().selectAllChildren(from);
    return document.execCommand("copy");
  }
  return true;
}

/** A text with its button. `label` says what it is. */
export class CopyLine {
  constructor(label) {
    this.code = element("code", {});
    this.button = element("button", { type: "button", class: "quiet", "aria-label": `Copy ${label}` }, "copy");
    this.button.onclick = async () => {
      const done = await copy(this.code.textContent, this.code);
      this.button.textContent = done ? "copied" : "select it";
      setTimeout(() => (this.button.textContent = "copy"), COPIED_MS);
    };
    this.root = element("p", { class: "line" }, element("span", {}, label), this.code, this.button);
  }

  show(text) {
    this.code.textContent = text;
  }
}
