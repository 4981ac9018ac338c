// The admin screen: a row of pages, each in a module of its own.
//
// A page exports `async function draw(place, context)`; the context has
//   app          the shell
//   desk(fresh)  the figures of the store; measured once and kept for a minute unless `fresh`

import { button, make } from './dom.js';
import { when } from './format.js';
import { get } from './net.js';
import { focusHead, head, prepare } from './team.js';

const PAGES = {
  overview: { title: 'Overview', module: './admin_overview.js', figures: true },
  quality: { title: 'Quality', module: './admin_quality.js', figures: true },
  people: { title: 'People', module: './admin_people.js', figures: true },
  tasks: { title: 'Tasks', module: './admin_tasks.js' },
  export: { title: 'Export', module: './admin_export.js' },
  audit: { title: 'Audit log', module: './admin_audit.js' },
};

const KEPT_MS = 60_000;
let kept = null; // figures are slow to measure on a large store: the pages share them

export async function show(place, app) {
  await prepare(place);
  const name = PAGES[app.path[0]] ? app.path[0] : 'overview';
  const page = PAGES[name];
  const body = make('div', { class: 'tm-page', 'aria-busy': 'true' }, make('p', { class: 'rk-hint' }, 'Loading \u2026'));
  const asOf = make('p', { class: 'rk-hint tm-as-of' });
  const { draw } = await import(page.module);

  async function redraw(fresh) {
    if (page.figures) asOf.textContent = `As of ${when((await desk(fresh)).taken_ms)}`;
    body.replaceChildren();
    await draw(body, { app, desk });
    body.setAttribute('aria-busy', 'false');
  }

  const refresh = button('Refresh', async () => {
    refresh.disabled = true;
    try { await redraw(true); } finally { refresh.disabled = false; refresh.focus(); }
    app.say('Figures are up to date.');
  });
  place.append(head('Admin', tabs(name), make('div', { class: 'rk-row tm-head-end' }, asOf, ...(page.figures ? [refresh] : []))), body);
  document.title = `${page.title} \u00b7 Admin`;
  await redraw(false);
  focusHead(place);
}

function tabs(current) {
  return make('nav', { class: 'tm-tabs', 'aria-label': 'Admin pages' },
    ...Object.entries(PAGES).map(([name, page]) => make('a', {
      href: `#/admin/${name}`, 'aria-current': name === current && 'page',
    }, page.title)));
}

async function desk(fresh = false) {
  if (fresh || !kept || Date.now() - kept.taken_ms > KEPT_MS) {
    kept = { ...await get('/api/admin/figures'), taken_ms: Date.now() };
  }
  return kept;
}
