// Small charts, drawn as SVG by DOM calls. Each says in words what it shows; the numbers are in a
// table beside it.
//
//   barChart({ title, headings, bars: [{ label, long, value }], unit, span, every })   with its table;
//     every so many-th bar has its label below
//   whisker({ value, low, high }, { from, to })                  an interval on a line
//   share(part, text)                                            a bar behind a number

import { make } from './dom.js';
import { counted, number } from './format.js';
import { grid } from './tables.js';

const SVG = 'http://www.w3.org/2000/svg';
const STEPS = [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10];

function draw(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A round number at or above the greatest value, where the axis ends; half of it is whole.
export function ceiling(greatest) {
  if (!(greatest > 0)) return 1;
  const scale = 10 ** Math.floor(Math.log10(greatest));
  const top = STEPS.map((step) => step * scale).find((value) => value >= greatest);
  return greatest > 10 ? top : Math.max(2, 2 * Math.ceil(greatest / 2));
}

export function barChart({ title, headings, bars, unit, span, every = 1 }) {
  const values = bars.map((bar) => bar.value);
  const total = values.reduce((sum, value) => sum + value, 0);
  const greatest = bars.reduce((best, bar) => (bar.value > best.value ? bar : best), bars[0]);
  const summary = total
    ? `${counted(total, unit)}; the most in ${span}: ${number(greatest.value)} (${greatest.long}).`
    : `No ${unit}s in this time.`;
  const top = ceiling(greatest.value);
  return make('figure', { class: 'tm-chart' },
    make('figcaption', {}, make('h3', {}, title), make('p', { class: 'rk-hint' }, summary)),
    make('div', { class: 'tm-plot', 'aria-hidden': 'true' },
      make('div', { class: 'tm-y' }, ...[top, top / 2, 0].map((value) => make('span', {}, number(value)))),
      plot(bars, top),
      make('div', { class: 'tm-x' }, ...bars.map((bar, place) => make('span', {},
        (bars.length - 1 - place) % every ? '' : bar.label)))),
    numbers(title, headings, bars));
}

function plot(bars, top) {
  const gap = 0.22;
  const svg = draw('svg', { viewBox: `0 0 ${bars.length} 100`, preserveAspectRatio: 'none', focusable: 'false' });
  [0, 50].forEach((y) => svg.append(draw('line', { x1: 0, x2: bars.length, y1: y, y2: y, class: 'tm-rule' })));
  bars.forEach((bar, place) => {
    const height = (100 * bar.value) / top;
    svg.append(draw('rect', {
      class: 'tm-bar', x: place + gap / 2, width: 1 - gap, y: 100 - height, height,
    }, draw('title', {}, `${bar.long}: ${number(bar.value)}`)));
  });
  svg.append(draw('line', { x1: 0, x2: bars.length, y1: 100, y2: 100, class: 'tm-base' }));
  return svg;
}

function numbers(title, [time, count], bars) {
  return make('details', { class: 'tm-numbers' }, make('summary', {}, 'Numbers'),
    grid({
      caption: title,
      rows: bars,
      columns: [
        { label: time, head: true, cell: (bar) => bar.long },
        { label: count, number: true, cell: (bar) => number(bar.value) },
      ],
    }));
}

const WIDTH = 88;
const HEIGHT = 14;

// Decoration: the numbers stand beside it.
export function whisker(figure, { from, to }) {
  const svg = draw('svg', {
    class: 'tm-whisker', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT,
    'aria-hidden': 'true', focusable: 'false',
  });
  const x = (value) => 4 + ((WIDTH - 8) * (Math.min(Math.max(value, from), to) - from)) / (to - from);
  const middle = HEIGHT / 2;
  svg.append(draw('line', { x1: 4, x2: WIDTH - 4, y1: middle, y2: middle, class: 'tm-rule' }));
  if (!Number.isFinite(figure?.value)) return svg;
  if (Number.isFinite(figure.low) && Number.isFinite(figure.high)) {
    svg.append(draw('line', { x1: x(figure.low), x2: x(figure.high), y1: middle, y2: middle, class: 'tm-range' }));
  }
  const at = x(figure.value);
  svg.append(draw('line', { x1: at, x2: at, y1: 1, y2: HEIGHT - 1, class: 'tm-mark' }));
  return svg;
}

// A number with a bar behind it that shows its part of the whole.
export function share(part, text) {
  const bar = make('span', { class: 'tm-share' }, text);
  bar.style.setProperty('--tm-part', `${100 * (Number.isFinite(part) ? Math.min(Math.max(part, 0), 1) : 0)}%`);
  return bar;
}
