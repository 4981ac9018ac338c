// The queue of tasks, and pausing one of them.

import { button, make } from './dom.js';
import { number } from './format.js';
import { get, post } from './net.js';
import { growingGrid } from './tables.js';
import { attempt, section } from './team.js';

const STATES = { open: 'Open', done: 'Done', paused: 'Paused' };

export async function draw(place, { app }) {
  const list = make('div', { class: 'tm-block' });
  const choice = ([value, label]) => make('label', {}, make('input', {
    type: 'radio', name: 'tm-state', value, checked: value === 'open', onchange: () => fill(list, value, app),
  }), make('span', {}, label));
  place.append(section('Tasks', make('p', { class: 'rk-hint' }, 'A paused task is given to nobody; what was ranked stays.'),
    make('fieldset', { class: 'tm-filters' }, make('legend', { class: 'rk-hidden' }, 'Show'),
      ...Object.entries(STATES).map(choice)), list));
  await fill(list, 'open', app);
}

// Draws into a new place, so that a late answer to an earlier choice shows nowhere.
async function fill(list, state, app) {
  const place = make('div', { class: 'tm-block' });
  list.replaceChildren(place);
  await growingGrid(place, {
    caption: `${STATES[state]} tasks`,
    empty: `No task is ${state}.`,
    columns: [
      { label: 'Task', head: true, number: true, cell: (row) => String(row.task) },
      { label: 'Prompt', wide: true, cell: (row) => make('span', { class: 'tm-prompt', dir: 'auto' }, row.prompt_excerpt) },
      { label: 'Answers', number: true, cell: (row) => number(row.completions) },
      { label: 'Pool', cell: (row) => make('bdi', {}, row.pool) },
      { label: 'Done', unit: 'of wanted', number: true, cell: (row) => `${number(row.done)} of ${number(row.overlap)}` },
      { label: 'Priority', number: true, cell: (row) => number(row.priority, 3) },
      { label: 'State', cell: (row) => pausing(row, app) },
    ],
    load: async (last) => {
      const page = await get(`/api/admin/tasks?state=${state}${last ? `&before=${last.task}` : ''}`);
      return { items: page.tasks, more: page.more };
    },
  });
}

function pausing(row, app) {
  const state = make('span', { class: 'rk-tag' });
  const change = button('', async () => {
    const paused = !row.paused;
    const work = () => post('/api/admin/pause-task', { task: row.task, paused });
    if (await attempt(app, work, `Task ${row.task} ${paused ? 'is paused.' : 'is given out again.'}`)) {
      row.paused = paused;
      update();
    }
  }, { class: 'tm-small' });
  const update = () => {
    state.hidden = !row.paused;
    state.textContent = 'paused';
    change.firstChild.textContent = row.paused ? 'Resume' : 'Pause';
    change.setAttribute('aria-label', `${row.paused ? 'Resume' : 'Pause'} task ${row.task}`);
  };
  update();
  return make('span', { class: 'tm-state' }, state, change);
}
