// The steps that undo and redo go through. One step: all parameters as they were before somebody moved some of them.

const STEPS = 100;
const ONE_MOVE_MS = 700; // changes that follow one another so soon are one

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export class Undo {
  constructor() {
    this.past = [];
    this.future = [];
    this.changedAt = -Infinity;
    this.wanted = []; // what going back and forward has asked for and is not in force yet, in order
  }

  /** The values in force have changed, by anybody. */
  changed(before, now) {
    const at = this.wanted.findIndex((values) => same(values, now));
    this.wanted = at < 0 ? [] : this.wanted.slice(at + 1);
    if (at < 0 && performance.now() - this.changedAt > ONE_MOVE_MS) {
      this.past.push(before);
      if (this.past.length > STEPS) this.past.shift();
      this.future = [];
    }
    this.changedAt = performance.now();
  }

  /** The values to go back to, or undefined; now: those in force. */
  back(now) {
    return this.go(this.past, this.future, now);
  }

  /** The values that were undone last, or undefined. */
  forward(now) {
    return this.go(this.future, this.past, now);
  }

  go(from, to, now) {
    const values = from.pop();
    if (values === undefined) return undefined;
    to.push(this.wanted.at(-1) ?? now);
    this.wanted.push(values);
    return values;
  }
}
