// The line above a task: what this is, how far one has come, and how the texts are shown.

import { LAYOUTS } from './cards.js';
import { make } from './dom.js';

export function toolbar({ title, tag, counts, tools }) {
  const tags = tag ? [make('span', { class: 'rk-tag' }, tag)] : [];
  const progress = counts ? [make('p', { class: 'rk-hint' }, progressLine(counts))] : [];
  return make('div', { class: 'rk-toolbar' },
    make('div', { class: 'rk-row' }, make('h1', { tabindex: -1 }, title), ...tags, ...progress),
    make('div', { class: 'rk-row' }, ...tools));
}

export function layoutChoice(onchange) {
  const options = Object.entries(LAYOUTS).map(([value, label]) => make('option', { value }, label));
  const select = make('select', { 'aria-label': 'Layout', onchange: () => onchange(select.value) }, ...options);
  return select;
}

// '3 today · 1 in the last hour · 48 in all · usually 0:42 each · up to 230 open for the team'
function progressLine({ today, last_hour: hour, mine, median_active_ms: median, open }) {
  return [
    `${today} today`, `${hour} in the last hour`, `${mine} in all`,
    ...(median ? [`usually ${minutes(median)} each`] : []),
    `up to ${open} open for the team`,
  ].join(' \u00b7 ');
}

function minutes(ms) {
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}
