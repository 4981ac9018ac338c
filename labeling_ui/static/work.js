// My work: a person's own rankings, newest first, each with a way back to correct it.

import { hidden, make } from './dom.js';
import { endingLine } from './endings.js';
import { counted, number, when } from './format.js';
import { get } from './net.js';
import { flagLine, orderLine } from './outcome.js';
import { growing } from './tables.js';
import { focusHead, head, prepare } from './team.js';

const FILTERS = [['all', 'All'], ['rank', 'Ranked'], ['all_bad', 'All bad'], ['cannot_judge', 'Cannot judge'], ['skip', 'Skipped']];
const EXCERPT = 400; // characters; the style sheet cuts what is left to two lines

export async function show(place, app) {
  await prepare(place);
  const rows = [];
  const list = make('ol', { class: 'tm-work', 'aria-label': 'Your rankings, newest first' });
  const none = make('p', { class: 'rk-hint', role: 'status' });
  const filters = FILTERS.map(([action, label]) => filter(action, label, update));

  function update() {
    const chosen = filters.find((one) => one.input.checked).action;
    const matching = (action) => rows.filter((row) => action === 'all' || row.action === action).length;
    filters.forEach((one) => { one.count.textContent = number(matching(one.action)); });
    [...list.children].forEach((item, index) => {
      item.hidden = chosen !== 'all' && rows[index].action !== chosen;
    });
    none.textContent = matching(chosen) ? '' : `None among your last ${counted(rows.length, 'ranking')}.`;
  }

  const { more, step } = growing({
    load: async (last) => {
      const page = await get(last ? `/api/mine?before=${last.ranking}` : '/api/mine');
      return { items: page.rankings, more: page.more };
    },
    draw: (items) => {
      rows.push(...items);
      list.append(...items.map(entry));
      update();
      if (rows.length > items.length) app.say(`${counted(items.length, 'more ranking')}.`);
    },
  });
  await step();
  if (!rows.length) place.append(nothing());
  else {
    place.append(head('My work', make('fieldset', { class: 'tm-filters' }, make('legend', { class: 'rk-hidden' }, 'Show'),
      ...filters.map((one) => one.node))), list, none, more);
  }
  focusHead(place);
}

function filter(action, label, onchange) {
  const input = make('input', { type: 'radio', name: 'tm-filter', value: action, checked: action === 'all', onchange });
  const count = make('span', { class: 'tm-count' });
  return { action, input, count, node: make('label', {}, input, make('span', {}, label), count) };
}

function nothing() {
  return make('div', { class: 'rk-box' }, make('h1', { tabindex: -1 }, 'Nothing here yet'),
    make('p', {}, 'The tasks that you rank or skip are listed here, and can be corrected here.'),
    make('a', { href: '#/rank' }, 'Rank a task'));
}

function entry(row) {
  const at = when(row.submitted_ms);
  return make('li', { class: 'tm-entry' },
    make('div', { class: 'tm-when' }, make('time', { datetime: new Date(row.submitted_ms).toISOString() }, at), ...tags(row)),
    make('div', { class: 'tm-what' }, excerpt(row.prompt), outcome(row),
      ...flags(row.decision), ...comment(row.decision), ...row.notes.map(note)),
    make('a', { class: 'tm-correct', href: `#/rank/${row.assignment}` }, 'Correct',
      hidden(` the ranking of ${at}`)));
}

function tags(row) {
  const given = [
    row.kind === 'training' && 'training', row.late && 'late',
    row.revision > 1 && `corrected ${row.revision === 2 ? 'once' : `${row.revision - 1} times`}`,
    row.prompt.length > 1 && `${row.prompt.length} messages`];
  return given.filter(Boolean).map((text) => make('span', { class: 'rk-tag' }, text));
}

// Of a conversation the last message: it is what the answers answer.
function excerpt(texts) {
  const text = texts.at(-1) ?? '';
  return make('p', { class: 'tm-excerpt rk-text', dir: 'auto' }, text.length > EXCERPT ? `${text.slice(0, EXCERPT)}\u2026` : text);
}

function outcome(row) {
  const order = orderLine(row.decision);
  const line = make('p', { class: 'tm-outcome' });
  if (order) line.append(make('span', { class: 'tm-order' }, order));
  if (row.action !== 'rank') line.append(make('span', { class: 'rk-tag tm-warn' }, endingLine(row.decision)));
  return line;
}

function flags(decision) {
  const line = flagLine(decision);
  return line ? [make('p', { class: 'rk-hint' }, `Flags: ${line}`)] : [];
}

function comment(decision) {
  return decision.comment ? [make('p', { class: 'tm-comment rk-text', dir: 'auto' }, decision.comment)] : [];
}

function note(text) {
  return make('div', { class: 'tm-note' }, make('strong', {}, 'Reviewer'), make('p', { class: 'rk-text', dir: 'auto' }, text));
}
