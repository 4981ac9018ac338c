// The answers of a task: one card each, with the whole text, its rank radios and its flags.
//
//   new Cards(task, labels, { raw, on })    labels: the flags that can be raised
//   on.rank(place, rank)  on.flag()         what the person did
//   cards.node  cards.blocks  cards.redraw(ranks)  cards.layOut('columns')  cards.expand(place)
//   cards.current  cards.focus(place)  cards.step(1)    cards.flags  cards.toggleFlags(place)

import { button, hidden, letter, make } from './dom.js';
import { textBlock } from './text.js';

export const LAYOUTS = { columns: 'Columns', stacked: 'Stacked', single: 'One at a time' };
const COLUMNS = [1, 1, 2, 3, 2, 3, 3, 3, 3, 3]; // by the number of answers
const FLAG_NAMES = {
  fails_instruction: 'Doesn\u2019t follow the instruction',
  wrong: 'States something wrong',
  harmful: 'Harmful',
  wrong_language: 'Wrong language',
  private_data: 'Private data',
  cut_off: 'Cut off',
};

export const flagName = (flag) => FLAG_NAMES[flag] || flag.replaceAll('_', ' ');

export class Cards {
  constructor(task, labels, { raw, on }) {
    Object.assign(this, { labels, on });
    this.count = task.completions.length;
    this.current = 0;
    this.blocks = [];
    this.list = make('div', { class: 'rk-cards' });
    this.list.style.setProperty('--rk-columns', COLUMNS[this.count]);
    this.all = task.completions.map((content, place) => this.draw(content, place, raw));
    this.list.append(...this.all);
    this.pager = this.drawPager();
    this.node = make('section', { 'aria-label': 'Answers' }, this.pager, this.list);
  }

  draw(content, place, raw) {
    const id = `rk-answer-${letter(place)}`;
    const block = textBlock(content, raw);
    this.blocks.push(block);
    const card = make('article', { class: 'rk-card', tabindex: -1, 'aria-labelledby': id },
      make('div', { class: 'rk-card-head' },
        make('h2', { id }, hidden('Answer '), make('span', { class: 'rk-letter' }, letter(place)),
          hidden(''), make('span', { class: 'rk-status', 'aria-hidden': 'true' })),
        this.tools(place)),
      block, this.flagBox(place), this.radios(place));
    const reach = () => this.reach(place);
    card.addEventListener('focusin', reach);
    card.addEventListener('click', reach);
    return card;
  }

  tools(place) {
    const named = (what) => ({ class: 'rk-quiet', 'aria-label': `${what} answer ${letter(place)}` });
    return make('div', { class: 'rk-card-tools' },
      button('Clear', () => this.on.rank(place, null), { ...named('Clear the rank of'), 'data-tool': 'clear' }),
      button('Flag', () => this.toggleFlags(place), { ...named('Flag'), 'data-tool': 'flag', 'aria-expanded': false }),
      button('Wide', () => this.expand(place), { ...named('Wide: the whole row for'), 'data-tool': 'wide', 'aria-pressed': false }));
  }

  radios(place) {
    const name = `rk-rank-${letter(place)}`;
    const choices = this.everyRank.map((rank) => make('label', {},
      make('input', { type: 'radio', name, value: rank, onchange: () => this.on.rank(place, rank) }),
      make('span', {}, String(rank))));
    return make('fieldset', { class: 'rk-ranks' }, make('legend', {}, hidden(`Rank of answer ${letter(place)}, 1 is best`)), ...choices);
  }

  get everyRank() {
    return Array.from({ length: this.count }, (_, index) => index + 1);
  }

  flagBox(place) {
    const choices = this.labels.map((flag) => make('label', {},
      make('input', { type: 'checkbox', value: flag, onchange: () => this.onFlag(place) }),
      make('span', {}, flagName(flag))));
    return make('fieldset', { class: 'rk-flags rk-choices', hidden: true },
      make('legend', {}, `What is wrong with answer ${letter(place)}?`), ...choices);
  }

  drawPager() {
    this.position = make('span', { class: 'rk-hint' });
    return make('div', { class: 'rk-pager rk-row', hidden: true },
      button('Previous', () => this.step(-1), { key: 'P' }), button('Next', () => this.step(1), { key: 'N' }),
      this.position);
  }

  // ---- what is shown -------------------------------------------------------------------------

  redraw(ranks) {
    this.all.forEach((card, place) => {
      const rank = ranks.ranks[place];
      card.classList.toggle('rk-ranked', rank !== null);
      card.querySelector('.rk-status').textContent = ranks.brief(place);
      card.querySelector('.rk-letter + .rk-hidden').textContent = `, ${ranks.describe(place)}`;
      card.querySelector('[data-tool=clear]').hidden = rank === null;
      card.querySelectorAll('.rk-ranks input').forEach((radio) => { radio.checked = Number(radio.value) === rank; });
    });
  }

  layOut(layout) {
    this.layout = layout;
    this.list.dataset.layout = layout;
    this.pager.hidden = layout !== 'single';
    this.node.querySelectorAll('[data-tool=wide]').forEach((tool) => { tool.hidden = layout !== 'columns'; });
    this.reach(this.current);
  }

  focus(place) {
    this.reach(place);
    this.all[place].focus();
  }

  step(way) {
    this.focus((this.current + way + this.count) % this.count);
  }

  reach(place) {
    this.current = place;
    this.all.forEach((card, index) => {
      card.classList.toggle('rk-current', index === place);
      card.hidden = this.layout === 'single' && index !== place;
    });
    this.position.textContent = `Answer ${letter(place)}, ${place + 1} of ${this.count}`;
  }

  expand(place) {
    const wide = this.all[place].classList.toggle('rk-wide');
    this.all[place].querySelector('[data-tool=wide]').setAttribute('aria-pressed', String(wide));
  }

  // ---- flags ---------------------------------------------------------------------------------

  toggleFlags(place) {
    const box = this.all[place].querySelector('.rk-flags');
    this.showFlags(place, box.hidden);
    if (!box.hidden) box.querySelector('input').focus();
    else this.focus(place);
  }

  showFlags(place, open) {
    this.all[place].querySelector('.rk-flags').hidden = !open;
    this.all[place].querySelector('[data-tool=flag]').setAttribute('aria-expanded', String(open));
  }

  onFlag(place) {
    this.markFlags(place);
    this.on.flag();
  }

  markFlags(place) {
    const raised = this.flags[place].length;
    const tool = this.all[place].querySelector('[data-tool=flag]');
    tool.firstChild.textContent = raised ? `Flag (${raised})` : 'Flag';
    this.all[place].classList.toggle('rk-flagged', raised > 0);
  }

  get flags() {
    return this.all.map((card) => [...card.querySelectorAll('.rk-flags input:checked')].map((box) => box.value));
  }

  set flags(raised) {
    this.all.forEach((card, place) => {
      const mine = (raised && raised[place]) || [];
      card.querySelectorAll('.rk-flags input').forEach((box) => { box.checked = mine.includes(box.value); });
      this.showFlags(place, mine.length > 0);
      this.markFlags(place);
    });
  }
}
