// The ranking as a rail: tiers from best to worst and a place for what is not ranked, with one chip
// per answer that is dragged by mouse or finger and moved by keyboard.
//
//   new Rail(count, { root, on })    on.rank(place, rank)  on.insert(place, rank)  on.step(place, way)
//   rail.node  rail.redraw(ranks)    on.reach(place)
//
// Dropped on a tier, an answer joins it; on the edge of a tier that is taken, it gets a tier of its
// own there. The ghost lives inside `root`, where the styles reach it.

import { letter, make } from './dom.js';

const DRAG_PX = 6;
const EDGE = 0.25; // of a tier's height: a drop there goes between two tiers

export class Rail {
  constructor(count, { root, on }) {
    Object.assign(this, { root, on, drag: null });
    this.chips = Array.from({ length: count }, (_, place) => this.chip(place));
    this.tiers = Array.from({ length: count }, (_, index) => this.tier(String(index + 1), `Rank ${index + 1}`));
    this.pool = this.tier('', 'Not ranked');
    this.node = make('div', { class: 'rk-rail', role: 'group', 'aria-label': 'Your ranking, best first' },
      make('ol', { class: 'rk-tiers' }, ...this.tiers), make('ul', { class: 'rk-pool' }, this.pool),
      make('p', { id: 'rk-chip-keys', class: 'rk-hidden' },
        'Arrow up and down move the answer, Delete takes its rank away, Enter shows the answer.'));
  }

  tier(number, name) {
    const slot = make('div', { class: 'rk-slot', role: 'group', 'aria-label': name });
    const label = number || make('span', {}, 'Not ranked');
    return make('li', { class: 'rk-tier', 'data-rank': number }, make('span', { class: 'rk-tier-name', 'aria-hidden': 'true' }, label), slot);
  }

  chip(place) {
    const chip = make('button', {
      type: 'button', class: 'rk-chip', 'aria-describedby': 'rk-chip-keys',
      onclick: () => { if (!this.dropped) this.on.reach(place); },
      onkeydown: (event) => this.onKey(event, place),
      onpointerdown: (event) => this.onDown(event, place),
      onpointermove: (event) => this.onMove(event),
      onpointerup: (event) => this.onUp(event),
      onpointercancel: () => this.cancel(),
    }, letter(place));
    return chip;
  }

  redraw(ranks) {
    const focused = this.chips.find((chip) => chip === document.activeElement);
    this.chips.forEach((chip, place) => {
      const rank = ranks.ranks[place];
      const slot = (rank === null ? this.pool : this.tiers[rank - 1]).querySelector('.rk-slot');
      const before = [...slot.children].find((other) => this.chips.indexOf(other) > place) || null;
      if (chip.parentNode !== slot) slot.insertBefore(chip, before);
      chip.setAttribute('aria-label', `Answer ${letter(place)}, ${ranks.describe(place)}`);
    });
    if (focused) focused.focus();
  }

  // ---- keyboard ------------------------------------------------------------------------------

  onKey(event, place) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {
      ArrowUp: () => this.on.step(place, -1),
      ArrowDown: () => this.on.step(place, 1),
      Delete: () => this.on.rank(place, null),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }

  // ---- mouse and finger ----------------------------------------------------------------------

  onDown(event, place) {
    this.dropped = false;
    if (event.button !== 0 || !event.isPrimary) return;
    this.drag = { place, chip: this.chips[place], x: event.clientX, y: event.clientY, ghost: null, target: null };
    this.drag.chip.setPointerCapture(event.pointerId);
  }

  onMove(event) {
    const { drag } = this;
    if (!drag) return;
    if (!drag.ghost) {
      if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < DRAG_PX) return;
      drag.ghost = make('div', { class: 'rk-chip rk-ghost', 'aria-hidden': 'true' }, letter(drag.place));
      this.root.append(drag.ghost);
      drag.chip.classList.add('rk-dragged');
      this.escape = (key) => { if (key.key === 'Escape') this.cancel(); };
      document.addEventListener('keydown', this.escape);
    }
    drag.ghost.style.translate = `${event.clientX}px ${event.clientY}px`;
    this.aim(event);
  }

  onUp() {
    const { drag } = this;
    this.stop();
    if (!drag || !drag.ghost) return;
    this.dropped = true; // the click that follows is none
    if (!drag.target) return;
    const { rank, edge } = drag.target;
    if (edge) this.on.insert(drag.place, edge === 'before' ? rank : rank + 1);
    else this.on.rank(drag.place, rank);
  }

  aim(event) {
    const under = document.elementFromPoint(event.clientX, event.clientY);
    const tier = under && under.closest('.rk-tier');
    this.unmark();
    this.drag.target = null;
    if (!tier || !this.node.contains(tier)) return;
    const rank = tier.dataset.rank ? Number(tier.dataset.rank) : null;
    const edge = this.edge(tier, event.clientY);
    this.drag.target = { rank, edge };
    tier.dataset.drop = edge || 'on';
  }

  // '' where the answer would join, 'before' or 'after' where it would stand alone.
  edge(tier, y) {
    const others = [...tier.querySelectorAll('.rk-chip')].some((chip) => chip !== this.drag.chip);
    if (!others || !tier.dataset.rank) return '';
    const box = tier.getBoundingClientRect();
    const share = (y - box.top) / box.height;
    if (share < EDGE) return 'before';
    return share > 1 - EDGE ? 'after' : '';
  }

  unmark() {
    this.node.querySelectorAll('[data-drop]').forEach((tier) => { delete tier.dataset.drop; });
  }

  cancel() {
    this.stop();
    this.dropped = true;
  }

  stop() {
    if (!this.drag) return;
    if (this.drag.ghost) {
      this.drag.ghost.remove();
      document.removeEventListener('keydown', this.escape);
    }
    this.drag.chip.classList.remove('rk-dragged');
    this.unmark();
    this.drag = null;
  }
}
