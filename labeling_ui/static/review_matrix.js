// Who ranked what: a row per person, a column per answer.

import { button, letter, make } from './dom.js';
import { endingLine } from './endings.js';
import { flagLine, orderLine } from './outcome.js';
import { grid } from './tables.js';

export function matrix(item, onAccept) {
  return grid({
    caption: 'Rank that each person gave each answer; 1 is best',
    rows: item.rankings,
    empty: 'Nobody has ranked it yet.',
    columns: [
      { label: 'Person', head: true, cell: (row) => row.who },
      ...item.completions.map((_, place) => ({
        label: letter(place), number: true, cell: (row) => rank(row.decision, place),
      })),
      { label: 'Order', cell: (row) => order(row.decision) },
      { label: 'Flags and comment', wide: true, cell: (row) => remarks(row.decision) },
      { label: 'Accept', unseen: true, cell: (row) => accept(row, onAccept) },
    ],
  });
}

function rank(decision, place) {
  const given = decision.ranks[place] ?? null; // a skip has no ranks at all
  return given === null ? null : make('span', { class: given === 1 && 'tm-best' }, String(given));
}

function order(decision) {
  if (decision.action === 'rank') return make('span', { class: 'tm-order' }, orderLine(decision));
  return make('span', { class: 'rk-tag tm-warn' }, endingLine(decision));
}

function remarks(decision) {
  const lines = [
    ...flagLine(decision) ? [make('p', { class: 'rk-hint' }, flagLine(decision))] : [],
    ...decision.comment ? [make('p', { class: 'rk-text', dir: 'auto' }, decision.comment)] : []];
  return lines.length ? make('div', {}, ...lines) : null;
}

// Only a ranking can decide a task.
function accept(row, onAccept) {
  if (row.decision.action !== 'rank') return null;
  return button('Accept', () => onAccept(row), { class: 'tm-small', 'aria-label': `Accept the ranking of ${row.who}` });
}
