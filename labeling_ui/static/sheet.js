// One task on the screen: the conversation, the cards, and what stands beside them.
//
//   new Sheet(app, task, { counts, onsubmit })    onsubmit(body) gets what /api/submit takes
//   sheet.node  sheet.begin()  sheet.setBusy(true)  sheet.complain(line)  sheet.stored()  sheet.stop()

import { Cards, LAYOUTS } from './cards.js';
import { Clock } from './clock.js';
import { button, letter, make } from './dom.js';
import { bodyOf, Draft } from './draft.js';
import { hasGuidelines, openGuidelines } from './guide.js';
import { Keys, markKeys, openHelp } from './keys.js';
import { browser } from './memory.js';
import { Ranks } from './ranks.js';
import { commandsOf, extraKeys, helpLines } from './shortcuts.js';
import { Side } from './side.js';
import { conversation } from './text.js';
import { layoutChoice, toolbar } from './toolbar.js';

export class Sheet {
  constructor(app, task, { counts, onsubmit }) {
    Object.assign(this, { app, task, onsubmit, busy: false });
    this.settings = app.me.settings;
    this.extra = extraKeys(task.completions.length);
    this.raw = browser.get('raw') === true;
    this.ranks = new Ranks(task.completions.length);
    this.clock = new Clock();
    this.draft = new Draft(app.memory, task, {
      collect: () => this.collect(),
      tell: (line) => this.side.tell(line),
      isActive: () => this.clock.isActive,
    });
    this.draw(counts);
    this.restore();
    this.layOut(browser.get('layout') in LAYOUTS ? browser.get('layout') : 'columns');
    markKeys(app.root);
  }

  // ---- drawing -------------------------------------------------------------------------------

  draw(counts) {
    const { app, task, raw } = this;
    const on = this.listeners();
    this.cards = new Cards(task, this.settings.flags, { raw, on });
    this.side = new Side(task, { root: app.root, withStrengths: this.settings.strengths, on });
    const prompt = conversation(task.prompt, raw);
    this.blocks = [...prompt.blocks, ...this.cards.blocks];
    const title = task.prompt.length > 1 ? `Conversation, ${task.prompt.length} messages` : 'Prompt';
    this.read = make('div', { class: 'rk-read' },
      make('details', { class: 'rk-panel rk-prompt', open: true },
        make('summary', {}, make('h2', {}, title)), prompt.node),
      this.cards.node);
    this.node = make('div', { class: 'rk-sheet' },
      toolbar({
        title: task.current ? 'Correct your ranking' : 'Rank the answers',
        tag: task.kind === 'training' ? 'Training' : '',
        counts,
        tools: this.drawTools(),
      }),
      this.read, this.side.node);
  }

  drawTools() {
    this.layout = layoutChoice((layout) => this.layOut(layout));
    this.rawButton = button('Raw text', () => this.toggleRaw(), { key: 'M', 'aria-pressed': this.raw });
    const guide = button('Guidelines', () => this.openGuidelines(), { key: this.extra.guidelines });
    const help = button('Shortcuts', () => this.openHelp(), { key: '?' });
    return [this.layout, this.rawButton, ...(hasGuidelines(this.app) ? [guide] : []), help];
  }

  listeners() {
    return {
      rank: (place, rank) => this.rank(place, rank),
      insert: (place, rank) => this.change(this.ranks.insert(place, rank), place),
      step: (place, way) => this.change(this.ranks.step(place, way), place),
      reach: (place) => this.cards.focus(place),
      flag: () => this.draft.changed(),
      comment: () => this.draft.changed(),
      strength: () => this.change(true),
      rest: (meaning) => this.setRest(meaning),
      undo: () => this.undo(),
      clear: () => this.change(this.ranks.clear()),
      submit: () => this.submit(),
      end: (action, reason) => this.send(action, reason),
    };
  }

  begin() {
    window.scrollTo(0, 0);
    this.cards.all[0].focus({ preventScroll: true });
  }

  redraw() {
    this.cards.redraw(this.ranks);
    this.side.redraw(this.ranks);
  }

  layOut(layout) {
    browser.set('layout', layout);
    this.layout.value = layout;
    this.cards.layOut(layout);
    if (this.keys) this.keys.stop();
    this.keys = new Keys(commandsOf(this), () => !this.busy);
  }

  nextLayout() {
    const all = Object.keys(LAYOUTS);
    this.layOut(all[(all.indexOf(this.cards.layout) + 1) % all.length]);
    this.app.say(`Layout: ${LAYOUTS[this.cards.layout]}`);
  }

  toggleRaw() {
    this.raw = !this.raw;
    browser.set('raw', this.raw);
    this.rawButton.setAttribute('aria-pressed', String(this.raw));
    this.blocks.forEach((block) => block.show(this.raw));
    this.app.say(this.raw ? 'Raw text' : 'Formatted text');
  }

  openGuidelines() {
    if (hasGuidelines(this.app)) openGuidelines(this.app);
  }

  openHelp() {
    openHelp(this.app.root, helpLines(this.cards.count, this.extra));
  }

  // ---- what the person does ------------------------------------------------------------------

  rank(place, rank) {
    this.change(this.ranks.set(place, rank), place);
  }

  // By a digit: rank, then go on to the next answer that has none.
  rankAndGoOn(rank) {
    const place = this.cards.current;
    this.rank(place, rank);
    const { unranked } = this.ranks;
    const next = unranked.find((other) => other > place) ?? unranked[0];
    if (next === undefined) return;
    this.cards.focus(next);
    this.app.say(`Answer ${letter(place)}: ${this.ranks.describe(place)}. Now answer ${letter(next)}.`);
  }

  setRest(meaning) {
    if (this.side.asked) this.change(this.ranks.setRest(meaning));
  }

  undo() {
    if (this.change(this.ranks.undo())) this.app.say('Undone');
  }

  change(changed, place) {
    if (!changed) return false;
    this.redraw();
    this.draft.changed();
    if (place !== undefined) this.app.say(`Answer ${letter(place)}: ${this.ranks.describe(place)}`);
    return true;
  }

  submit({ byKey = false } = {}) {
    const { problem } = this.ranks;
    const unclear = this.settings.strengths ? this.side.strengths.problem(this.ranks) : null;
    if (problem) {
      this.side.asked = true;
      this.redraw();
      if (byKey) this.cards.focus(problem.place);
      this.complain(problem.line);
    } else if (unclear) this.complain(unclear);
    else this.send('rank', '');
  }

  send(action, reason) {
    if (this.busy) return; // a second press
    const { flags } = this.cards;
    this.onsubmit({
      assignment: this.task.assignment,
      replaces: this.task.revision,
      action,
      reason,
      ranks: action === 'rank' || action === 'all_bad' ? this.ranks.ranks : [],
      others_worse: action === 'rank' && this.ranks.rest === 'worse',
      flags: flags.some((raised) => raised.length) ? flags : null,
      strengths: action === 'rank' ? this.side.strengths.values(this.ranks) : null,
      comment: this.side.comment.value.trim(),
      active_ms: this.clock.read(),
    });
  }

  complain(line) {
    this.side.complain(line);
  }

  // ---- being stored, and what outlives the page ----------------------------------------------

  setBusy(busy) {
    this.busy = busy;
    [this.read, this.side.node].forEach((part) => part.toggleAttribute('inert', busy));
    this.node.setAttribute('aria-busy', String(busy));
    this.side.setBusy(busy);
  }

  collect() {
    return {
      ranks: this.ranks.ranks,
      rest: this.ranks.rest,
      flags: this.cards.flags,
      strengths: this.side.strengths.given,
      comment: this.side.comment.value,
      active_ms: this.clock.read(),
    };
  }

  // The draft, or else what is stored of this task, or else nothing ranked.
  restore() {
    const kept = this.draft.restore() || bodyOf(this.task.current, this.cards.count);
    if (kept) {
      this.ranks.restore(kept);
      this.cards.flags = kept.flags;
      this.side.strengths.restore(kept.strengths, this.ranks);
      this.side.restore(kept);
      this.clock.ms = kept.active_ms;
    }
    this.redraw();
  }

  stored() {
    this.draft.forget();
    this.stop();
  }

  stop() {
    this.keys.stop();
    this.clock.stop();
    return this.draft.stop();
  }
}
