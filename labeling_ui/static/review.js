// Review: the tasks on which people differ most; '#/review/12' opens one.

import { button, make } from './dom.js';
import { counted, number } from './format.js';
import { get } from './net.js';
import { drawItem } from './review_item.js';
import { grid } from './tables.js';
import { focusHead, head, prepare } from './team.js';

let told = null; // what became of the last item, said above the next one

export async function show(place, app) {
  await prepare(place, 'ranker.css');
  const { tasks } = await get('/api/review/tasks');
  if (told) app.notice(told);
  told = null;
  const leave = app.path[0] ? await openItem(place, app, tasks) : drawList(place, app, tasks);
  focusHead(place);
  return leave;
}

function openItem(place, app, tasks) {
  return drawItem(place, {
    task: Number(app.path[0]),
    tasks,
    next: (task, line) => goOn(app, tasks, task, line),
    root: app.root,
  });
}

function goOn(app, tasks, done, line) {
  told = line;
  const later = following(tasks, done);
  if (!later) told = line ? `${line} There is nothing more to review.` : null;
  app.go(later ? `#/review/${later.task}` : '#/review');
}

// The next one without a decision, from `task` on and around.
export function following(tasks, task) {
  const here = tasks.findIndex((row) => row.task === task);
  return [...tasks.slice(here + 1), ...tasks.slice(0, Math.max(here, 0))].find((row) => !row.reviewed);
}

function drawList(place, app, tasks) {
  const open = tasks.filter((row) => !row.reviewed);
  place.append(head('Review',
    make('p', { class: 'rk-hint' }, open.length
      ? `${counted(open.length, 'task waits', 'tasks wait')} for a decision, those with the lowest agreement first.`
      : 'No task waits for a decision.'),
    ...(open.length ? [button('Start', () => app.go(`#/review/${open[0].task}`), { class: 'rk-primary' })] : [])),
  make('section', { class: 'rk-panel tm-section' }, grid({
    caption: 'Tasks on which people differ',
    rows: tasks,
    empty: 'Tasks appear here when two people have ranked them.',
    columns: [
      { label: 'Prompt', head: true, wide: true, cell: prompt },
      { label: 'People', number: true, cell: (row) => number(row.people) },
      { label: 'Agreement', unit: '(tau-b)', number: true, cell: (row) => number(row.agreement, 2) },
      { label: 'Decision', cell: (row) => make('span', { class: `rk-tag${row.reviewed ? '' : ' tm-warn'}` }, row.reviewed ? 'made' : 'open') },
    ],
  })));
}

function prompt(row) {
  return make('a', { class: 'tm-prompt', href: `#/review/${row.task}`, dir: 'auto' }, row.prompt_excerpt || `Task ${row.task}`);
}
