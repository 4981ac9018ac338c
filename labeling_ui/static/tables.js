// Tables with a caption and row headings, and lists that grow.
//
//   grid({ caption, columns, rows, empty, showCaption, dense })
//     columns: { label, unit, number, head, wide, cell: (row) => text | node | null }
//     head: this cell names the row. number: to the right, tabular figures. wide: may wrap.
//     null and '' are shown as '-'. A table wider than its place scrolls in a region that takes
//     the keyboard focus only then.
//   growing({ load, draw })          draws pages below each other: { more, step }; more is a button
//   growingGrid(place, { caption, columns, empty, load })   the same for a table
//     load(last) gives { items, more } of the page after the row `last`, null at first

import { button, hidden, make } from './dom.js';
import { UNKNOWN } from './format.js';

export function grid({ caption, columns, rows, empty = 'Nothing yet.', showCaption = false, dense = false }) {
  if (!rows.length) return make('p', { class: 'rk-hint' }, empty);
  const table = make('table', { class: `rk-table tm-table${dense ? ' tm-dense' : ''}` },
    make('caption', { class: showCaption ? 'tm-caption' : 'rk-hidden' }, caption),
    make('thead', {}, make('tr', {}, ...columns.map(heading))),
    make('tbody', {}, ...rows.map((row) => line(columns, row))));
  return scrolling(make('div', { class: 'rk-scroll tm-scroll' }, table), caption);
}

export function line(columns, row) {
  return make('tr', {}, ...columns.map((column) => {
    const content = column.cell(row);
    return make(column.head ? 'th' : 'td', { scope: column.head && 'row', class: kind(column) },
      content === null || content === undefined || content === '' ? UNKNOWN : content);
  }));
}

function heading(column) {
  const label = column.unseen ? hidden(column.label) : column.label;
  return make('th', { scope: 'col', class: kind(column) }, label,
    ...(column.unit ? [' ', make('span', { class: 'tm-unit' }, column.unit)] : []));
}

function kind(column) {
  const names = [column.number && 'rk-number', column.wide && 'tm-wide'].filter(Boolean);
  return names.length ? names.join(' ') : null;
}

// A region that only takes the focus while there is something to scroll to.
export function scrolling(region, label) {
  const check = () => {
    const overflows = region.scrollWidth > region.clientWidth + 1 || region.scrollHeight > region.clientHeight + 1;
    const attributes = { tabindex: 0, role: 'region', 'aria-label': label };
    for (const [name, value] of Object.entries(attributes)) {
      if (overflows) region.setAttribute(name, value); else region.removeAttribute(name);
    }
  };
  new ResizeObserver(check).observe(region);
  return region;
}

// The button stays where the keyboard is, and goes when there is no more.
export function growing({ load, draw }) {
  let last = null;
  const step = async () => {
    const { items, more: further } = await load(last);
    last = items.at(-1) ?? last;
    draw(items);
    more.hidden = !further;
  };
  const more = button('Load more', async () => {
    more.disabled = true;
    try { await step(); } finally { more.disabled = false; }
    more.focus();
  });
  return { more, step };
}

export async function growingGrid(place, { load, ...spec }) {
  let body = null;
  const { more, step } = growing({
    load,
    draw: (rows) => {
      if (body) body.append(...rows.map((row) => line(spec.columns, row)));
      else place.replaceChildren(grid({ ...spec, rows }), more);
      body = place.querySelector('tbody');
    },
  });
  await step();
}
