// Active time: seconds in which the page was visible and somebody had moved within a minute.

const IDLE_MS = 60000;
const SIGNS = ['keydown', 'pointermove', 'pointerdown', 'scroll', 'wheel'];

export class Clock {
  constructor() {
    this.ms = 0;
    this.seen = performance.now();
    this.ticked = this.seen;
    this.sign = () => { this.seen = performance.now(); };
    SIGNS.forEach((kind) => document.addEventListener(kind, this.sign, { passive: true, capture: true }));
    this.timer = setInterval(() => this.tick(), 1000);
  }

  get isActive() {
    return !document.hidden && performance.now() - this.seen < IDLE_MS;
  }

  // Milliseconds so far.
  read() {
    this.tick();
    return Math.round(this.ms);
  }

  tick() {
    const now = performance.now();
    if (this.isActive) this.ms += Math.min(now - this.ticked, 2000); // a sleeping laptop skips ticks
    this.ticked = now;
  }

  stop() {
    clearInterval(this.timer);
    SIGNS.forEach((kind) => document.removeEventListener(kind, this.sign, { capture: true }));
  }
}
