// What stands beside the cards: the rail, the questions about the ranking, and how to end the task.
//
//   new Side(task, { root, withStrengths, on })    on: rank, insert, step, reach, undo, clear, rest,
//                                                      strength, comment, submit, end(action, reason)
//   side.node  side.redraw(ranks)  side.ask(true)  side.complain(line)  side.tell(line)  side.setBusy(true)

import { button, make } from './dom.js';
import { endingLine, Endings } from './endings.js';
import { orderLine } from './outcome.js';
import { Rail } from './rail.js';
import { names } from './ranks.js';
import { Strengths } from './strengths.js';

export class Side {
  constructor(task, { root, withStrengths, on }) {
    this.asked = false;
    this.rail = new Rail(task.completions.length, { root, on });
    this.strengths = new Strengths(on.strength);
    this.endings = new Endings(on.end);
    this.tally = make('p', { class: 'rk-hint' });
    this.error = make('p', { class: 'rk-error', role: 'alert' });
    this.undo = button('Undo', on.undo, { key: 'U' });
    this.submit = button('Submit', on.submit, { key: 'Ctrl+Enter', class: 'rk-primary rk-submit' });
    this.kept = make('p', { class: 'rk-hint rk-kept' });
    this.node = make('section', { class: 'rk-side rk-panel', 'aria-labelledby': 'rk-side-title' },
      make('div', { class: 'rk-side-head' }, make('h2', { id: 'rk-side-title' }, 'Your ranking'), this.tally),
      storedLine(task.current), this.rail.node, ...(withStrengths ? [this.strengths.node] : []),
      this.drawRest(on.rest), this.error, this.submit,
      make('div', { class: 'rk-row' }, this.undo, button('Clear all', on.clear)),
      this.drawComment(on.comment), this.endings.node, this.kept);
  }

  // A partial ranking says what it means: the rest is worse, or its place is unknown.
  drawRest(onRest) {
    const choice = (value, label, key) => make('label', {},
      make('input', { type: 'radio', name: 'rk-rest', value, onchange: () => onRest(value) }),
      make('span', {}, label, ' ', make('kbd', { 'aria-hidden': 'true' }, key)));
    this.rest = make('fieldset', { class: 'rk-rest rk-choices' }, make('legend'),
      choice('worse', 'worse than the ranked ones', 'W'), choice('unknown', 'I can\u2019t tell', 'T'));
    return this.rest;
  }

  drawComment(oninput) {
    this.comment = make('textarea', { id: 'rk-comment', rows: 3, maxlength: 4000, dir: 'auto', oninput });
    this.commentBox = make('details', { class: 'rk-comment' }, make('summary', {}, 'Comment'),
      make('label', { for: 'rk-comment', class: 'rk-hidden' }, 'Comment'), this.comment);
    return this.commentBox;
  }

  redraw(ranks) {
    this.rail.redraw(ranks);
    this.strengths.redraw(ranks);
    const { unranked } = ranks;
    this.tally.textContent = `${ranks.ranks.length - unranked.length} of ${ranks.ranks.length} ranked`;
    this.undo.disabled = !ranks.past.length;
    this.error.textContent = '';
    this.asked = ranks.isPartial && (this.asked || ranks.rest !== null);
    this.rest.hidden = !this.asked;
    this.rest.querySelector('legend').textContent = `If you leave ${names(unranked)} unranked:`;
    this.rest.querySelectorAll('input').forEach((radio) => {
      radio.checked = radio.value === ranks.rest;
      radio.disabled = radio.value === 'unknown' && !ranks.mayBeUnknown;
    });
  }

  restore({ comment }) {
    this.comment.value = comment;
    this.commentBox.open = comment !== '';
  }

  complain(line) {
    this.error.textContent = line;
    this.submit.scrollIntoView({ block: 'nearest' });
  }

  tell(line) {
    this.kept.textContent = line;
  }

  setBusy(busy) {
    this.submit.firstChild.textContent = busy ? 'Storing \u2026' : 'Submit';
  }
}

function storedLine(current) {
  if (!current) return '';
  const line = current.action === 'rank' ? orderLine(current) : endingLine(current);
  return make('p', { class: 'rk-hint' }, `Stored now: ${line}`);
}
