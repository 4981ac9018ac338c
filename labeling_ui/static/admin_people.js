// Who ranks, how reliably and how fast; pausing somebody.

import { whisker } from './charts.js';
import { button, make } from './dom.js';
import { hundredths, interval, number, seconds } from './format.js';
import { post } from './net.js';
import { grid } from './tables.js';
import { attempt, person, section } from './team.js';

export async function draw(place, { app, desk }) {
  const figures = await desk();
  place.append(section('People',
    make('p', { class: 'rk-hint' }, 'Agreement is the share of pairs that a person ordered like the others who ranked '
      + 'the same answers, with its 95 % interval. A paused person gets no new tasks.'),
    table(figures, app)));
}

function table(figures, app) {
  return grid({
    caption: 'People',
    rows: figures.people,
    empty: 'Nobody has ranked anything yet.',
    dense: true,
    columns: [
      { label: 'Person', head: true, cell: person },
      { label: 'Rankings', number: true, cell: (row) => number(row.rankings) },
      { label: 'Agreement', unit: '(%)', number: true, cell: (row) => hundredths(row.agreement_with_others?.value) },
      { label: '95 % interval', unit: '(%)', number: true, cell: (row) => reliability(row.agreement_with_others) },
      { label: 'Gold passed', number: true, cell: (row) => gold(row.gold) },
      { label: 'Median time', unit: '(s)', number: true, cell: (row) => seconds(row.median_active_s) },
      { label: 'Too fast', number: true, cell: (row) => number(row.too_fast) },
      { label: 'Ties', unit: '(%)', number: true, cell: (row) => hundredths(row.ties_share) },
      { label: 'Skips', number: true, cell: (row) => number(row.skips) },
      { label: 'Can\u2019t judge', number: true, cell: (row) => number(row.cannot_judge) },
      { label: 'All bad', number: true, cell: (row) => number(row.all_bad) },
      { label: 'Flags', number: true, cell: (row) => number(row.flags) },
      { label: 'State', cell: (row) => pausing(row, app) },
    ],
  });
}

function reliability(figure) {
  if (!Number.isFinite(figure?.value)) return null;
  return make('span', { class: 'tm-interval' }, whisker(figure, { from: 0, to: 1 }),
    interval(figure.low, figure.high, hundredths, 0));
}

function gold({ passed, seen }) {
  return seen ? `${number(passed)} of ${number(seen)}` : null;
}

// The button says what it will do; the row says how things stand.
function pausing(row, app) {
  if (row.simulated) return 'program';
  if (row.state !== 'active' && row.state !== 'paused') return row.state; // disabled, or without an account
  const state = make('span', { class: 'rk-tag' });
  const label = row.name || row.pseudonym;
  const change = button('', async () => {
    const paused = row.state !== 'paused';
    const work = () => post('/api/admin/pause-person', { pseudonym: row.pseudonym, paused });
    if (await attempt(app, work, `${label} ${paused ? 'is paused.' : 'gets tasks again.'}`)) {
      row.state = paused ? 'paused' : 'active';
      update();
    }
  }, { class: 'tm-small' });
  const update = () => {
    const paused = row.state === 'paused';
    state.textContent = paused ? 'paused' : 'active';
    state.classList.toggle('tm-warn', paused);
    change.firstChild.textContent = paused ? 'Resume' : 'Pause';
    change.setAttribute('aria-label', `${paused ? 'Resume' : 'Pause'} ${label}`);
  };
  update();
  return make('span', { class: 'tm-state' }, state, change);
}
