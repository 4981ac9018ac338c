// One task under review: the answers, who ranked them how, and the reviewer's decision.
//
// Three ways to decide: accept one person's ranking, give an own one, or send the task back to be
// ranked by one person more. People have no names here. Who decides on what somebody else has
// decided on meanwhile is refused, and may look at that first; what they did stays on the screen.

import { Cards } from './cards.js';
import { button, letter, make } from './dom.js';
import { when, words } from './format.js';
import { Keys, openHelp } from './keys.js';
import { orderLine } from './outcome.js';
import { newRequestId, post, Refused } from './net.js';
import { names, Ranks } from './ranks.js';
import { matrix } from './review_matrix.js';
import { focusHead, head } from './team.js';
import { conversation } from './text.js';

const HELP = [
  [['A', 'to', 'I'], 'go to an answer'], [['1', 'to', '9'], 'rank it; the same number twice is a tie'], [['0'], 'take its rank away'],
  [['U'], 'undo'], [['Ctrl+Enter'], 'decide by your ranking'], [['N'], 'next task without a decision']];
const VERDICTS = { accept: 'A ranking was accepted', override: 'Decided by an own ranking', send_back: 'Sent back' };

// `next(task, line)` goes on to the item after `task` and says `line` there. Gives what to call
// when the person leaves.
export async function drawItem(place, { task, tasks, next, root }) {
  let view = new Item(await post('/api/review/open', { task }), next, loadAnew);
  const index = tasks.findIndex((row) => row.task === task);
  const goOn = () => next(task, null);
  const help = () => openHelp(root, HELP);
  const draw = () => {
    place.replaceChildren(head(`Task ${task}`,
      make('p', { class: 'rk-hint' }, index < 0 ? '' : `${index + 1} of ${tasks.length}`),
      make('div', { class: 'rk-row tm-head-end' }, make('a', { href: '#/review' }, 'All tasks'),
        button('Keys', help, { key: '?' }), button('Next', goOn, { key: 'N' }))),
    ...earlier(view.item.reviews), view.node);
    return new Keys({ ...view.commands(), N: goOn, '?': help }, () => !view.busy);
  };

  async function loadAnew() {
    const fresh = new Item(await post('/api/review/open', { task }), next, loadAnew);
    if (!place.isConnected) return; // somebody has gone to another screen
    fresh.takeOver(view);
    view = fresh;
    keys.stop();
    keys = draw();
    focusHead(place);
  }

  document.title = `Task ${task} \u00b7 Review`;
  let keys = draw();
  return () => keys.stop();
}

function earlier(reviews) {
  if (!reviews.length) return [];
  const entry = (review) => make('li', {},
    `${VERDICTS[review.verdict] ?? words(review.verdict)}, ${when(review.created_ms)}`,
    ...(review.note ? [make('p', { class: 'rk-text', dir: 'auto' }, review.note)] : []));
  return [make('section', { class: 'rk-panel tm-section' }, make('h2', {}, 'Decisions so far'),
    make('ul', { class: 'tm-earlier' }, ...reviews.map(entry)))];
}

class Item {
  constructor(item, next, loadAnew) {
    Object.assign(this, { item, next, loadAnew, busy: false });
    this.requestId = newRequestId(); // one decision a visit: a second press stores nothing twice
    this.ranks = new Ranks(item.completions.length);
    this.prompt = conversation(item.prompt, false);
    const on = { rank: (place, rank) => this.rank(place, rank), flag: () => {}, reach: () => {} };
    this.cards = new Cards(item, [], { raw: false, on });
    this.cards.layOut('columns');
    this.own = make('p', { class: 'tm-own', role: 'status' });
    this.error = make('p', { class: 'rk-error', role: 'alert' });
    this.anew = button('Load the task anew', () => this.again(), { hidden: true });
    this.note = make('textarea', { id: 'tm-note', rows: 2, maxlength: 4000, dir: 'auto' });
    this.node = make('div', { class: 'tm-item' },
      make('section', { class: 'rk-panel tm-section', 'aria-labelledby': 'tm-prompt' },
        make('div', { class: 'tm-between' }, make('h2', { id: 'tm-prompt' }, 'Prompt'), this.rawButton()), this.prompt.node),
      make('section', { class: 'rk-panel tm-section', 'aria-labelledby': 'tm-matrix' },
        make('h2', { id: 'tm-matrix' }, 'Who ranked what'), matrix(item, (ranking) => this.accept(ranking))),
      this.cards.node, this.decision());
    this.redraw();
  }

  // What the reviewer did on `before`; the answers stand in the same order.
  takeOver(before) {
    this.ranks = before.ranks;
    this.note.value = before.note.value;
    this.redraw();
  }

  rawButton() {
    const blocks = [...this.prompt.blocks, ...this.cards.blocks];
    const toggle = button('Raw text', () => {
      const raw = toggle.getAttribute('aria-pressed') === 'false';
      toggle.setAttribute('aria-pressed', String(raw));
      blocks.forEach((block) => block.show(raw));
    }, { class: 'rk-quiet', 'aria-pressed': 'false' });
    return toggle;
  }

  decision() {
    return make('section', { class: 'rk-panel tm-section tm-decide', 'aria-labelledby': 'tm-decision' },
      make('h2', { id: 'tm-decision' }, 'Your decision'),
      make('p', { class: 'rk-hint' }, 'Accept a ranking in the table, rank the answers yourself, or ask one person more.'),
      make('label', { for: 'tm-note' }, 'Note to the people who ranked it'), this.note, this.error, this.anew,
      make('div', { class: 'tm-between' },
        make('div', { class: 'rk-row' }, button('Decide by my ranking', () => this.override(), { class: 'rk-primary' }), this.own),
        button('Send back', () => this.sendBack())));
  }

  commands() {
    const commands = { U: () => { this.ranks.undo(); this.redraw(); }, 'Ctrl+Enter': () => this.override() };
    commands[0] = () => this.rank(this.cards.current, null);
    this.item.completions.forEach((_, place) => {
      commands[letter(place)] = () => this.cards.focus(place);
      commands[place + 1] = () => this.rank(this.cards.current, place + 1);
    });
    return commands;
  }

  rank(place, rank) {
    this.ranks.set(place, rank);
    this.redraw();
  }

  redraw() {
    this.cards.redraw(this.ranks);
    this.own.textContent = orderLine({ ranks: this.ranks.ranks });
    this.error.textContent = '';
  }

  accept(ranking) {
    this.send({ verdict: 'accept', ranking: ranking.ranking }, `The ranking of ${ranking.who} is accepted.`);
  }

  override() {
    const missing = this.ranks.unranked;
    if (missing.length) {
      this.error.textContent = `Not ranked yet: ${names(missing)}. Your own ranking places every answer.`;
      this.cards.focus(missing[0]);
    } else this.send({ verdict: 'override', ranks: this.ranks.ranks }, 'Your ranking decides the task.');
  }

  sendBack() {
    if (!this.note.value.trim()) {
      this.error.textContent = 'Say in the note why it goes back.';
      this.note.focus();
    } else this.send({ verdict: 'send_back' }, 'Sent back: one person more will rank it.');
  }

  async send(decision, line) {
    const body = {
      task: this.item.task, request_id: this.requestId, note: this.note.value.trim(),
      seen: this.item.reviews.at(-1)?.review ?? null, ...decision,
    };
    const refused = await this.attempt('Not stored', async () => {
      await post('/api/review/decide', body);
      this.next(this.item.task, line);
    });
    if (!refused) return;
    this.requestId = newRequestId();
    if (refused.status === 409) this.anew.hidden = false;
  }

  again() {
    this.attempt('Not loaded', this.loadAnew);
  }

  // Nothing else can be done meanwhile. Gives what the server refused it with, if it did.
  async attempt(failed, work) {
    if (this.busy) return null;
    this.busy = true;
    this.node.inert = true;
    try {
      await work();
      return null;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.error.textContent = `${failed}: ${error.message}.`;
      this.busy = false;
      this.node.inert = false;
      return error;
    }
  }
}
