// Small tools to build a page. Every screen uses them.
//
//   make('p', { class: 'rk-hint', onclick }, 'text', node)  an element; strings become text nodes
//   button('Skip', onclick, { key: 'S', class: 'rk-primary' })  a button that can show its key
//   hidden('Answer ')                   text for screen readers only
//   table(['Day', 'Rankings'], rows)    a table that scrolls sideways when it must
//   openDialog(root, 'Title', nodes)    a modal dialog or, with { side: true }, a drawer
//   useStyle('team.css')                loads a style sheet that lies beside these modules
//   letter(0)                           'A': how answers are named on every screen
//
// Texts of people and models go through text.js when they are more than a plain line.

export const letter = (place) => 'ABCDEFGHI'[place];

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function button(label, onclick, { key, ...attributes } = {}) {
  const node = make('button', { type: 'button', onclick, ...attributes }, make('span', {}, label));
  if (key) node.append(' ', make('kbd', { 'aria-hidden': 'true' }, key));
  return node;
}

export function hidden(text) {
  return make('span', { class: 'rk-hidden' }, text);
}

// Cells are strings, numbers or nodes. A number stands to the right.
export function table(headings, rows, { caption } = {}) {
  const cell = (value) => make('td', typeof value === 'number' ? { class: 'rk-number' } : {}, value);
  const grid = make('table', { class: 'rk-table' },
    make('thead', {}, make('tr', {}, ...headings.map((text) => make('th', { scope: 'col' }, text)))),
    make('tbody', {}, ...rows.map((row) => make('tr', {}, ...row.map(cell)))));
  if (caption) grid.prepend(make('caption', { class: 'rk-hidden' }, caption));
  return make('div', { class: 'rk-scroll', tabindex: 0, role: 'region', 'aria-label': caption || headings[0] }, grid);
}

// Opens above the page, keeps the focus inside and gives it back; Escape closes it.
export function openDialog(root, title, children, { side = false, onclose = () => {} } = {}) {
  const close = () => dialog.close();
  const heading = make('h2', { id: 'rk-dialog-title', tabindex: -1 }, title);
  const dialog = make('dialog', {
    class: side ? 'rk-dialog rk-drawer' : 'rk-dialog',
    'aria-labelledby': 'rk-dialog-title',
    onclose: () => { dialog.remove(); onclose(); },
  },
  make('div', { class: 'rk-dialog-head' }, heading, button('Close', close)),
  make('div', { class: 'rk-dialog-body', tabindex: 0, role: 'region', 'aria-labelledby': 'rk-dialog-title' }, ...children));
  root.append(dialog);
  dialog.showModal();
  heading.focus();
  return close;
}

export function useStyle(name) {
  const href = new URL(name, import.meta.url).href;
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  return new Promise((resolve) => {
    const link = make('link', { rel: 'stylesheet', href, onload: resolve, onerror: resolve });
    document.head.append(link);
  });
}
