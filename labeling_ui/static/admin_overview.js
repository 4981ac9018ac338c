// How far the work is: what is done, who is at it, how fast it goes.

import { barChart, share } from './charts.js';
import { make } from './dom.js';
import { counted, duration, hour, number, percent, seconds, utcDate, when } from './format.js';
import { grid } from './tables.js';
import { person, section } from './team.js';

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

export async function draw(place, { desk }) {
  const figures = await desk();
  place.append(tiles(figures),
    section('Rankings', make('div', { class: 'tm-columns' }, hours(figures), days(figures))),
    make('div', { class: 'tm-columns' },
      section('Coverage', coverage(figures)),
      section('At work now', ...leases(figures))));
}

function tiles(figures) {
  const lastDay = figures.per_hour.reduce((sum, count) => sum + count, 0);
  const entries = [
    ['Tasks done', number(figures.done), `of ${number(figures.tasks)} (${percent(figures.done / figures.tasks, 0)})`],
    ['Tasks open', number(figures.open), figures.paused ? `${number(figures.paused)} paused` : 'none paused'],
    ['Rankings', number(lastDay), 'in the last 24 hours'],
    ['Median active time', seconds(figures.median_active_s), 'seconds a ranking'],
    ['Time left', duration(figures.eta_hours), 'of work at the pace of the last day'],
    ['Surplus rankings', number(figures.surplus), 'beyond those wanted'],
  ];
  return make('dl', { class: 'tm-tiles' }, ...entries.map(([name, value, about]) => make('div', { class: 'rk-panel' },
    make('dt', {}, name), make('dd', { class: 'tm-value' }, value), make('dd', { class: 'rk-hint' }, about))));
}

function hours(figures) {
  const start = Math.floor(figures.now_ms / HOUR) * HOUR;
  const last = figures.per_hour.length - 1;
  const bars = figures.per_hour.map((value, place) => {
    const from = start - (last - place) * HOUR;
    return { value, label: hour(from), long: when(from, figures.now_ms) };
  });
  return barChart({ title: 'Per hour, last 24 hours', headings: ['Hour from', 'Rankings'], bars, unit: 'ranking', span: 'an hour', every: 6 });
}

function days(figures) {
  const last = figures.per_day.length - 1;
  const bars = figures.per_day.map((value, place) => {
    const day = utcDate(figures.now_ms - (last - place) * DAY);
    return { value, label: day, long: day };
  });
  return barChart({ title: 'Per day (UTC), last 14 days', headings: ['Day', 'Rankings'], bars, unit: 'ranking', span: 'a day', every: 3 });
}

function coverage(figures) {
  const total = figures.coverage.reduce((sum, row) => sum + row.tasks, 0);
  return grid({
    caption: 'Tasks by people wanted and people who have ranked them',
    rows: figures.coverage,
    empty: 'There are no tasks yet.',
    columns: [
      { label: 'Wanted', unit: 'people', head: true, number: true, cell: (row) => number(row.wanted) },
      { label: 'Done by', unit: 'people', number: true, cell: (row) => number(row.done) },
      { label: 'Tasks', number: true, cell: (row) => number(row.tasks) },
      { label: 'Share', number: true, cell: (row) => share(row.tasks / total, percent(row.tasks / total)) },
    ],
  });
}

function leases(figures) {
  return [
    make('p', { class: 'rk-hint' }, `${counted(figures.leases.length, 'task is', 'tasks are')} reserved for somebody.`),
    ...(figures.leases.length ? [grid({
      caption: 'Reserved tasks',
      rows: figures.leases,
      columns: [
        { label: 'Person', head: true, cell: (row) => person(named(figures, row.pseudonym)) },
        { label: 'Task', number: true, cell: (row) => String(row.task) },
        { label: 'Since', number: true, cell: (row) => when(row.since_ms, figures.now_ms) },
        { label: 'Until', number: true, cell: (row) => when(row.until_ms, figures.now_ms) },
      ],
    })] : [])];
}

// The entry of a person in the figures: there the server says the name.
export function named(figures, pseudonym) {
  return figures.people.find((one) => one.pseudonym === pseudonym) ?? { pseudonym };
}
