// A ranking in the making, without a page: who stands where, what the rest means, undo.
//
// ranks[i] is the rank of shown answer i: 1 is best, equal is a tie, null is not ranked yet.

import { letter } from './dom.js';

export class Ranks {
  constructor(count) {
    this.ranks = Array(count).fill(null);
    this.rest = null; // of a partial ranking: 'worse' than all ranked ones, or 'unknown'
    this.past = [];
  }

  at(rank) {
    return this.ranks.flatMap((given, place) => (given === rank ? [place] : []));
  }

  get unranked() {
    return this.at(null);
  }

  get isPartial() {
    return this.unranked.length > 0 && this.unranked.length < this.ranks.length;
  }

  // Best first: [[0, 2], [1]] when A and C are tied before B.
  get tiers() {
    const used = [...new Set(this.ranks)].filter((rank) => rank !== null).sort((a, b) => a - b);
    return used.map((rank) => this.at(rank));
  }

  set(place, rank) {
    if (this.ranks[place] === rank) return false;
    this.keep();
    this.ranks[place] = rank;
    return this.settle();
  }

  // Gives `place` a tier of its own before the one that has `rank` now.
  insert(place, rank) {
    const rest = this.tiers.map((tier) => tier.filter((other) => other !== place)).filter((tier) => tier.length);
    const index = rest.filter((tier) => this.ranks[tier[0]] < rank).length;
    rest.splice(index, 0, [place]);
    return this.arrange(rest);
  }

  // One step up (-1) or down (+1): out of a tie, or into the next tier.
  step(place, way) {
    const tiers = this.tiers;
    const index = tiers.findIndex((tier) => tier.includes(place));
    if (index < 0) return way < 0 ? this.arrange([...tiers, [place]]) : false;
    if (tiers[index].length > 1) {
      tiers[index] = tiers[index].filter((other) => other !== place);
      tiers.splice(way < 0 ? index : index + 1, 0, [place]);
    } else {
      const next = tiers[index + way];
      if (!next) return false;
      next.push(place);
      tiers.splice(index, 1);
    }
    return this.arrange(tiers);
  }

  clear() {
    if (this.unranked.length === this.ranks.length) return false;
    this.keep();
    this.ranks.fill(null);
    return this.settle();
  }

  setRest(meaning) {
    if (!this.isPartial || (meaning === 'unknown' && !this.mayBeUnknown)) return false;
    this.keep();
    this.rest = meaning;
    return true;
  }

  // One ranked answer alone says nothing unless the rest is worse.
  get mayBeUnknown() {
    return this.ranks.length - this.unranked.length > 1;
  }

  undo() {
    const before = this.past.pop();
    if (!before) return false;
    Object.assign(this, before);
    return true;
  }

  restore({ ranks, rest }) {
    this.ranks = [...ranks];
    this.rest = rest ?? null;
    this.past = [];
  }

  // 'rank 2, tied with C'
  describe(place) {
    return this.words(place, ', tied with ', ', ');
  }

  // 'rank 2 = C', where there is little room
  brief(place) {
    return this.words(place, ' = ', ' = ');
  }

  words(place, before, between) {
    const rank = this.ranks[place];
    if (rank === null) return 'not ranked yet';
    const tied = this.at(rank).filter((other) => other !== place).map(letter);
    return `rank ${rank}${tied.length ? before + tied.join(between) : ''}`;
  }

  // What stands against storing it, or null: { line, place }.
  get problem() {
    const missing = this.unranked;
    if (missing.length === this.ranks.length) {
      return { line: 'Nothing is ranked yet. Give at least one answer a rank.', place: missing[0] };
    }
    if (!missing.length || this.rest) return null;
    return { line: `Not ranked yet: ${names(missing)}. Rank the rest or say what leaving it means.`, place: missing[0] };
  }

  keep() {
    this.past.push({ ranks: [...this.ranks], rest: this.rest });
  }

  arrange(tiers) {
    const ranks = Array(this.ranks.length).fill(null);
    tiers.forEach((tier, index) => tier.forEach((place) => { ranks[place] = index + 1; }));
    if (ranks.every((rank, place) => rank === this.ranks[place])) return false;
    this.keep();
    this.ranks = ranks;
    return this.settle();
  }

  settle() {
    if (!this.isPartial || (this.rest === 'unknown' && !this.mayBeUnknown)) this.rest = null;
    return true;
  }
}

// 'A, C'
export function names(places) {
  return places.map(letter).join(', ');
}
