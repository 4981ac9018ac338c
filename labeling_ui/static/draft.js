// The draft: what is on the screen outlives a reload, a closed tab and a dead server.
//
// Each change goes into this browser at once and to the server a second later; a page that goes
// away sends the last one by beacon. Of the two copies the newer one (`seq`) is restored, and only
// onto the revision that it was made for. Sending also keeps the place reserved, so a person who
// reads for long sends without a change.

import { once } from './net.js';

const DEBOUNCE_MS = 1000;
const KEEP_PLACE_MS = 5 * 60000;
const FORGET_MS = 30 * 24 * 3600000;

export class Draft {
  // collect() gives what is on the screen; tell(line) shows where it is kept.
  constructor(memory, task, { collect, tell, isActive }) {
    Object.assign(this, { memory, task, collect, tell, isActive });
    this.key = `draft:${task.assignment}`;
    this.seq = task.draft ? task.draft.seq : 0;
    this.saved = this.seq; // the newest that the server has acknowledged
    this.asked = this.seq; // the newest that is on its way or acknowledged
    this.sent = this.seq; // the newest that ever left, by beacon too
    this.sentAt = Date.now();
    this.onHide = () => { if (document.visibilityState === 'hidden') this.beacon(); };
    this.onLeave = () => this.beacon();
    document.addEventListener('visibilitychange', this.onHide);
    window.addEventListener('pagehide', this.onLeave);
    this.heart = setInterval(() => this.keepPlace(), 60000);
  }

  // The newest body for this revision, or null.
  restore() {
    this.forgetOld();
    const copies = [this.memory.get(this.key), this.task.draft].filter(
      (copy) => copy && copy.body.revision === this.task.revision
        && copy.body.ranks.length === this.task.completions.length,
    );
    copies.sort((one, other) => other.seq - one.seq);
    if (!copies.length) return null;
    this.seq = Math.max(this.seq, copies[0].seq);
    return copies[0].body;
  }

  get isSaved() {
    return this.seq <= this.saved;
  }

  changed() {
    this.write();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), DEBOUNCE_MS);
  }

  write() {
    this.seq = Math.max(Date.now(), this.seq + 1);
    this.isKept = this.memory.set(this.key, { seq: this.seq, body: this.body() });
  }

  body() {
    return { ...this.collect(), revision: this.task.revision };
  }

  parcel() {
    return { assignment: this.task.assignment, seq: this.seq, body: this.body() };
  }

  // Resolves when nothing is on its way any more.
  send() {
    clearTimeout(this.timer);
    if (this.seq > this.asked) this.sending = this.deliver(this.parcel());
    return this.sending;
  }

  async deliver(parcel) {
    const isFirst = parcel.seq > this.sent;
    this.asked = parcel.seq;
    this.sent = Math.max(this.sent, parcel.seq);
    this.sentAt = Date.now();
    const { status, answer } = await once('/api/draft', parcel);
    if (status === 200) {
      this.saved = Math.max(this.saved, parcel.seq);
      this.tell(answer.kept ? 'Draft saved' : notKept(isFirst));
    } else {
      if (this.asked === parcel.seq) this.asked = this.saved;
      this.tell(this.isKept ? 'Draft kept in this browser' : 'Draft not saved; leave this page open');
    }
  }

  // Nobody tells whether it arrived, so that the draft is as unsaved as before.
  beacon() {
    clearTimeout(this.timer);
    if (this.isSaved) return;
    const parcel = this.parcel();
    const blob = new Blob([JSON.stringify(parcel)], { type: 'application/json' });
    if (navigator.sendBeacon('/api/draft', blob)) this.sent = Math.max(this.sent, parcel.seq);
  }

  keepPlace() {
    const due = Date.now() - this.sentAt > KEEP_PLACE_MS;
    if (this.isActive() && due) this.write();
    this.send();
  }

  // Stored: nothing of it is a draft any more.
  forget() {
    this.saved = this.asked = this.seq;
    this.memory.remove(this.key);
    return this.stop();
  }

  stop() {
    clearInterval(this.heart);
    document.removeEventListener('visibilitychange', this.onHide);
    window.removeEventListener('pagehide', this.onLeave);
    return this.send();
  }

  forgetOld() {
    for (const key of this.memory.keys('draft:')) {
      const copy = this.memory.get(key);
      if (!copy || copy.seq < Date.now() - FORGET_MS) this.memory.remove(key);
    }
  }
}

// The server takes a draft once: one sent before may be what it has.
function notKept(isFirst) {
  return isFirst ? 'Another window has saved a newer draft' : 'Draft saved, unless another window has a newer one';
}

// A stored ranking as the body of a draft: where a correction starts.
export function bodyOf(decision, count) {
  if (!decision) return null;
  const ranks = decision.ranks.length ? decision.ranks : Array(count).fill(null);
  const isPartial = ranks.includes(null) && ranks.some((rank) => rank !== null);
  const unknown = isPartial && decision.action === 'rank' ? 'unknown' : null;
  return {
    ranks,
    rest: decision.others_worse ? 'worse' : unknown,
    flags: decision.flags,
    strengths: decision.strengths,
    comment: decision.comment,
    active_ms: 0,
  };
}
