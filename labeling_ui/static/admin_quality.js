// Whether the rankings can be trusted: agreement, position bias, skips, flags, haste.

import { flagName } from './cards.js';
import { whisker } from './charts.js';
import { make } from './dom.js';
import { counted, interval, number, percent, probability, seconds, words } from './format.js';
import { named } from './admin_overview.js';
import { grid } from './tables.js';
import { person, section, twoLines } from './team.js';

const DOUBTFUL = 0.05;
const UNLIKELY = 0.01;
const LISTED = 50;
const PLACES = ['1st', '2nd', '3rd', '4th', '5th', '6th', '7th', '8th', '9th'];

export async function draw(place, { desk }) {
  const figures = await desk();
  place.append(make('div', { class: 'tm-columns' },
    make('div', { class: 'tm-page' },
      section('Agreement', ...agreement(figures.agreement)),
      section('Too fast', ...haste(figures))),
    make('div', { class: 'tm-page' },
      section('Position', ...positions(figures.position_bias)),
      section('Skips and flags', ...rates(figures.rates)))));
}

// ---- agreement

const MEASURES = [
  { key: 'strict', name: 'Strict pairs', about: 'ordered alike', from: 0, to: 1 },
  { key: 'alpha', name: 'Alpha', about: 'Krippendorff, over pairs', from: -1, to: 1 },
  { key: 'tau', name: 'Tau-b', about: 'Kendall, mean over tasks', from: -1, to: 1 },
];

function agreement({ random, all }) {
  return [
    make('p', { class: 'rk-hint' }, 'Report the random pool: its tasks are chosen by chance. Among all tasks are some that '
      + 'were chosen because they are hard. People asked because the first ones disagreed are left out.'),
    measures('Random pool', random), measures('All tasks', all),
  ];
}

function measures(title, figures) {
  if (!figures?.prompts) {
    return make('div', { class: 'tm-block' }, make('h3', {}, title),
      make('p', { class: 'rk-hint' }, 'No two people have ranked the same answers yet.'));
  }
  return make('div', { class: 'tm-block' }, grid({
    caption: `${title}, ${counted(figures.prompts, 'prompt')}`,
    showCaption: true,
    rows: MEASURES.map((measure) => ({ ...measure, figure: figures[measure.key] })),
    columns: [
      { label: 'Measure', head: true, cell: (row) => twoLines(row.name, row.about) },
      { label: 'Value', number: true, cell: (row) => number(row.figure.value, 3) },
      { label: '95 % interval', number: true, cell: (row) => make('span', { class: 'tm-interval' },
        whisker(row.figure, row), interval(row.figure.low, row.figure.high, number, 3)) },
    ],
  }));
}

// ---- position

function positions(rows) {
  if (!rows.length) return [make('p', { class: 'rk-hint' }, 'No rankings yet.')];
  return [
    make('p', { class: 'rk-hint' }, 'Answers are shown in random order, so each place should be ranked best equally often.'),
    make('div', { class: 'tm-side-by-side' }, ...rows.map(position))];
}

function position(row) {
  const total = row.counts.reduce((sum, count) => sum + count, 0);
  return make('div', { class: 'tm-block' },
    grid({
      caption: `Of ${counted(row.k, 'answer')} (${percent(1 / row.k)} expected)`,
      showCaption: true,
      rows: row.counts.map((count, place) => ({ count, place })),
      columns: [
        { label: 'Shown', head: true, cell: ({ place }) => PLACES[place] },
        { label: 'Ranked best', number: true, cell: ({ count }) => number(count) },
        { label: 'Share', number: true, cell: ({ count }) => percent(count / total) },
      ],
    }),
    make('p', {}, verdict(row)),
    make('p', { class: 'rk-hint' }, `Chi-square ${number(row.chi_square, 2)}, `
      + `${counted(row.df, 'degree')} of freedom, ${probability(row.p)}.`));
}

export function verdict({ counts, p }) {
  if (!Number.isFinite(p)) return 'Too few rankings to tell.';
  const chance = `chance alone makes differences as large in ${number(100 * p)} of 100 cases`;
  if (p >= DOUBTFUL) return `No sign of position bias: ${chance}.`;
  if (p >= UNLIKELY) return `Perhaps a position bias: ${chance}. Look again when there are more rankings.`;
  const place = counts.indexOf(Math.max(...counts));
  return `The place matters: answers shown ${PLACES[place]} are ranked best more often than chance would explain.`;
}

// ---- skips and flags

function rates(given) {
  const actions = [['skip', 'Skipped'], ['cannot_judge', 'Can\u2019t judge'], ['all_bad', 'All bad']];
  return [make('div', { class: 'tm-side-by-side' },
    make('div', { class: 'tm-block' }, grid({
      caption: 'Share of all',
      showCaption: true,
      rows: actions,
      columns: [
        { label: 'Action', head: true, cell: ([, label]) => label },
        { label: 'Share', number: true, cell: ([key]) => percent(given[key]) },
      ],
    })),
    counts('Reasons', 'Reason', given.reasons, 'Nothing was skipped.'),
    counts('Flags', 'Flag', given.flags, 'Nothing was flagged.', flagName))];
}

function counts(caption, label, given, empty, name = words) {
  const rows = Object.entries(given).sort(([, one], [, other]) => other - one);
  return make('div', { class: 'tm-block' }, grid({
    caption,
    empty,
    rows,
    showCaption: true,
    columns: [
      { label, head: true, cell: ([key]) => name(key) },
      { label: 'Count', number: true, cell: ([, count]) => number(count) },
    ],
  }));
}

// ---- haste

function haste(figures) {
  return [
    make('p', { class: 'rk-hint' }, 'Made in less than 3 seconds, or than a quarter of the usual time for texts of that length. '
      + (figures.too_fast.length > LISTED ? `The ${LISTED} fastest of ${number(figures.too_fast.length)}.` : '')),
    grid({
      caption: 'Rankings that were too fast',
      rows: figures.too_fast.slice(0, LISTED),
      empty: 'None.',
      columns: [
        { label: 'Ranking', head: true, number: true, cell: (row) => String(row.ranking) },
        { label: 'Person', cell: (row) => person(named(figures, row.pseudonym)) },
        { label: 'Active time', unit: '(s)', number: true, cell: (row) => seconds(row.seconds) },
      ],
    })];
}
