// What may follow a submit: a way back, another ranking that was there first, training feedback,
// the end of the work.

import { button, hidden, letter, make } from './dom.js';
import { endingLine } from './endings.js';
import { orderLine } from './outcome.js';
import { conversation, showSanitizedHtml, textBlock } from './text.js';

const UNDO_MS = 10000;

// 'Stored.' with a way back, for ten seconds; later My work leads there.
export function offerUndo(app, { assignment, late }) {
  const back = button('Undo', () => app.go(`#/rank/${assignment}`), {});
  const line = late ? 'Stored; the time for it had run out, so somebody else may have got this task too.' : 'Stored.';
  app.notice(make('span', {}, line), back);
  setTimeout(() => { if (back.isConnected) app.notice(null); }, UNDO_MS);
}

// Two rankings of one task. Gives 'mine' or 'stored' when the person has decided.
export function askWhich(place, { task, mine }) {
  return new Promise((resolve) => {
    const columns = [['Stored', task.current], ['Yours', mine]];
    draw(place, task, {
      title: 'This task has been ranked already',
      words: [make('p', {}, 'Perhaps in another window. The stored ranking is kept unless you replace it.'),
        summary(columns), make('div', { class: 'rk-row' },
          button('Keep the stored one', () => resolve('stored')), button('Store mine instead', () => resolve('mine')))],
      columns: [['stored', task.current.ranks], ['yours', mine.ranks]],
    });
  });
}

// How a training item was meant. Resolves when the person goes on.
export function showFeedback(place, { task, mine, feedback }) {
  return new Promise((resolve) => {
    const { ranks, explanation_html: html, share, passed } = feedback;
    const explanation = make('div', { class: 'rk-text', dir: 'auto' });
    showSanitizedHtml(explanation, html);
    const alike = share === null ? '' : ` You ordered ${Math.round(100 * share)} % of the pairs in the same way.`;
    draw(place, task, {
      title: passed ? 'Well judged' : 'Not quite as intended',
      tag: 'Training',
      words: [
        make('p', { class: passed ? 'rk-verdict rk-passed' : 'rk-verdict' }, passed ? 'Passed.' : 'Not passed.', alike),
        summary([['Expected', { action: 'rank', ranks }], ['Yours', mine]]), explanation,
        make('div', { class: 'rk-row' }, button('Next task', resolve, { class: 'rk-primary' })),
      ],
      columns: [['expected', ranks], ['yours', mine.ranks]],
    });
  });
}

export function showEnd(place, { status, counts }, look) {
  const { tasks, open, mine } = counts;
  const many = (count, one, more) => (count === 1 ? one : more.replace('%', count));
  const words = {
    paused: ['Your work is paused', 'You get no tasks at the moment. Ask the person who runs this when it goes on.'],
    empty: ['Nothing to rank yet', 'There are no tasks. Look again when some have been added.'],
    done: ['Thank you', many(mine, 'You have ranked 1 task.', 'You have ranked % tasks.'), open
      ? `There is nothing more for you at the moment; ${many(open, '1 task waits', '% tasks wait')} for other people.`
      : many(tasks, 'The one task is done.', 'All % tasks are done.')],
  }[status];
  const heading = make('h1', { tabindex: -1 }, words[0]);
  place.replaceChildren(make('div', { class: 'rk-box' }, heading,
    ...words.slice(1).map((text) => make('p', {}, text)),
    make('div', { class: 'rk-row' }, button('Look again', look, { class: 'rk-primary' }),
      make('a', { href: '#/work' }, 'My work'))));
  heading.focus();
}

// A heading, some words, and the task to read with the ranks of each column beside the letters.
function draw(place, task, { title, tag, words, columns }) {
  const heading = make('h1', { tabindex: -1 }, title);
  const answers = task.completions.map((content, index) => make('article', { class: 'rk-card', 'aria-labelledby': `rk-read-${index}` },
    make('div', { class: 'rk-card-head' },
      make('h2', { id: `rk-read-${index}` }, hidden('Answer '), make('span', { class: 'rk-letter' }, letter(index)),
        make('span', { class: 'rk-status' }, columns.map(([name, ranks]) => `${name}: ${ranks[index] ?? '\u2013'}`).join(', ')))),
    textBlock(content, false)));
  place.replaceChildren(make('div', { class: 'rk-after' },
    make('div', { class: 'rk-panel' }, make('div', { class: 'rk-row' }, heading, ...(tag ? [make('span', { class: 'rk-tag' }, tag)] : [])), ...words),
    make('section', { class: 'rk-panel', 'aria-label': 'Prompt' }, make('h2', {}, 'Prompt'), conversation(task.prompt, false).node),
    ...answers));
  window.scrollTo(0, 0);
  heading.focus();
}

function summary(columns) {
  const list = make('dl', { class: 'rk-orders' });
  for (const [name, decision] of columns) {
    const line = decision.action === 'rank' ? orderLine(decision) : endingLine(decision);
    list.append(make('dt', {}, name), make('dd', {}, line));
  }
  return list;
}
