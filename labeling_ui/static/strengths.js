// How much better each tier is than the next one: optional, asked between the tiers of a ranking.
//
//   new Strengths(onchange)   .node   .redraw(ranks)   .values(ranks)   .problem(ranks)   .given
//
// An answer belongs to the two tiers that it was given for ('AC>B'): it survives changes elsewhere
// in the ranking and is forgotten when one of the two changes.

import { button, letter, make } from './dom.js';

const WORDS = ['slightly', 'clearly', 'much'];

export class Strengths {
  constructor(onchange) {
    this.onchange = onchange;
    this.given = {};
    this.list = make('div', { class: 'rk-steps' });
    this.node = make('section', { class: 'rk-strengths', 'aria-label': 'How much better, if you can say', hidden: true },
      make('div', { class: 'rk-side-head' }, make('h3', {}, 'How much better? (optional)'),
        button('Clear', () => this.clear(), { class: 'rk-quiet', 'aria-label': 'Clear how much better' })),
      this.list);
  }

  redraw(ranks) {
    const steps = stepsOf(ranks);
    this.node.hidden = steps.length === 0;
    const shown = steps.map(({ key }) => key).join();
    if (shown !== this.shown) {
      this.shown = shown;
      this.list.replaceChildren(...steps.map((step, index) => this.question(step, index)));
    }
    this.list.querySelectorAll('input').forEach((radio) => {
      radio.checked = this.given[radio.dataset.step] === Number(radio.value);
    });
  }

  question({ key, better, worse }, index) {
    return make('fieldset', { class: 'rk-step' }, make('legend', {}, `${better} over ${worse}`),
      ...WORDS.map((word, place) => make('label', {}, make('input', {
        type: 'radio', name: `rk-step-${index}`, value: place + 1, 'data-step': key,
        onchange: () => { this.given[key] = place + 1; this.onchange(); },
      }), make('span', {}, word))));
  }

  // One number per step, or null when nothing was said.
  values(ranks) {
    const values = stepsOf(ranks).map(({ key }) => this.given[key]);
    return values.length && values.every(Boolean) ? values : null;
  }

  problem(ranks) {
    const steps = stepsOf(ranks);
    const missing = steps.find(({ key }) => !this.given[key]);
    if (!missing || steps.every(({ key }) => !this.given[key])) return null;
    return `Say how much better ${missing.better} is than ${missing.worse} too, or clear the other steps.`;
  }

  clear() {
    this.given = {};
    this.onchange();
  }

  // From a draft by step; from a stored ranking one number per step.
  restore(given, ranks) {
    if (Array.isArray(given)) stepsOf(ranks).forEach(({ key }, index) => { this.given[key] = given[index]; });
    else this.given = { ...given };
  }
}

function stepsOf(ranks) {
  const tiers = ranks.tiers.map((tier) => tier.map(letter));
  return tiers.slice(1).map((tier, index) => ({
    key: `${tiers[index].join('')}>${tier.join('')}`,
    better: tiers[index].join(' = '),
    worse: tier.join(' = '),
  }));
}
