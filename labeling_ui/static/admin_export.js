// Writing the rankings to a file: choose, look at what would be written, download.

import { button, make } from './dom.js';
import { counted, number } from './format.js';
import { post, Refused } from './net.js';
import { scrolling } from './tables.js';
import { section } from './team.js';

const CHOICES = {
  format: {
    label: 'Format',
    options: { rankings: 'Rankings, with everything known of each', trl: 'Preference pairs for TRL' },
  },
  aggregate: {
    label: 'People',
    options: { none: 'Everybody\u2019s rankings', majority: 'What the majority prefers' },
  },
  split: {
    label: 'Prompts',
    options: { all: 'All', train: 'For training', held_out: 'Held out' },
  },
  pool: {
    label: 'Pool',
    options: { '': 'All that count', random: 'Random', normal: 'Normal', gold: 'Gold', training: 'Training' },
  },
};

export async function draw(place) {
  const result = make('div', { class: 'tm-block', 'aria-live': 'polite' });
  const fields = Object.entries(CHOICES).map(([name, choice]) => field(name, choice, () => result.replaceChildren()));
  const chosen = () => Object.fromEntries(fields.map(({ select }) => [select.name, select.value]).filter(([, value]) => value));
  const preview = button('Preview', async () => {
    preview.disabled = true;
    result.replaceChildren(make('p', { class: 'rk-hint' }, 'Counting \u2026'));
    try {
      const spec = chosen();
      result.replaceChildren(...contents(await post('/api/admin/export-preview', spec), spec));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      result.replaceChildren(make('p', { class: 'rk-error' }, `${error.message}.`));
    } finally {
      preview.disabled = false;
      preview.focus();
    }
  }, { class: 'rk-primary' });
  place.append(section('Export', make('p', { class: 'rk-hint' }, 'People appear by pseudonym. Equal rankings give equal bytes.'),
    make('div', { class: 'tm-form' }, ...fields.map(({ node }) => node), preview), result));
}

function field(name, { label, options }, onchange) {
  const id = `tm-export-${name}`;
  const select = make('select', { id, name, onchange }, ...Object.entries(options).map(([value, text]) => make('option', { value }, text)));
  return { select, node: make('div', { class: 'tm-field' }, make('label', { for: id }, label), select) };
}

function contents(found, spec) {
  const facts = [
    ['Rows', number(found.rows)], ['Ordered pairs', number(found.pairs)], ['Tied pairs', number(found.ties)],
    ['SHA-256', make('code', {}, found.sha256)]];
  return [
    make('dl', { class: 'tm-facts' }, ...facts.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value)))),
    make('p', {}, make('a', { class: 'tm-download', href: `/api/admin/export?${new URLSearchParams(spec)}`, download: '' },
      `Download ${counted(found.rows, 'row')}`)),
    make('h3', {}, found.sample.length === 1 ? 'The first row' : `The first ${number(found.sample.length)} rows`),
    scrolling(make('pre', { class: 'tm-sample', dir: 'auto' }, found.sample.map(spelled).join('\n')), 'The first rows of the file')];
}

// A row over several lines, its lists of ranks on one.
function spelled(row) {
  return JSON.stringify(row, null, 2).replace(/\[\n[\s\d,nul]*\]/g, (list) => list.replace(/\s+/g, ' '));
}
