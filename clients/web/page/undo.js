// The steps that undo and redo go through. One step: all parameters as they were before somebody moved some of them.

const STEPS = 100;
const ONE_MOVE_MS = 700; // changes that follow one another so soon are one

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export class Undo {
  constructor() {
    this.past = [];
    this.future = [];
    this.changedAt = -Infinity;
    this.wanted = null; // what going back or forward has asked for, until it is in force
  }

  /** The values in force have changed, by anybody. */
  changed(before, now) {
    const asked = same(now, this.wanted);
    this.wanted = asked ? null : this.wanted;
    if (!asked && performance.now() - this.changedAt > ONE_MOVE_MS) {
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
    to.push(now);
    this.wanted = values;
    return values;
  }
}
