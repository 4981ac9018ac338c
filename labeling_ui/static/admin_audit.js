// Who did what, newest first. Entries hold pseudonyms and ids, never names.

import { make } from './dom.js';
import { when, words } from './format.js';
import { get } from './net.js';
import { growingGrid } from './tables.js';
import { section } from './team.js';

const COLUMNS = [
  { label: 'When', cell: (row) => make('time', { datetime: new Date(row.at_ms).toISOString() }, when(row.at_ms)) },
  { label: 'Event', head: true, cell: (row) => words(row.kind) },
  { label: 'Person', cell: (row) => row.actor },
  { label: 'About', wide: true, cell: (row) => make('span', { class: 'tm-data' }, about(row.data)) },
];

export async function draw(place) {
  const list = make('div', { class: 'tm-block' });
  place.append(section('Audit log', list));
  await growingGrid(list, {
    caption: 'Audit log, newest first',
    columns: COLUMNS,
    empty: 'Nothing has been noted yet.',
    load: async (last) => {
      const page = await get(last ? `/api/admin/audit?before=${last.id}` : '/api/admin/audit');
      return { items: page.entries, more: page.more };
    },
  });
}

// 'format: rankings, rows: 2660'
function about(data) {
  const entries = Object.entries(data ?? {}).map(([key, value]) => `${words(key)}: ${typeof value === 'object' ? JSON.stringify(value) : value}`);
  return entries.join(', ') || '-';
}
