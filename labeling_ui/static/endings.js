// The other ways to end a task: all bad, cannot judge, skip. Each asks once more, and why.
//
//   new Endings(onEnd)   .node   .open('skip')   .close()   .confirm()   .isOpen
//   onEnd(action, reason)

import { button, make } from './dom.js';

const REASONS = {
  all_bad: [],
  cannot_judge: [['no_knowledge', 'I lack the knowledge'], ['unclear_prompt', 'The prompt is unclear'], ['other', 'Other']],
  skip: [['too_long', 'Too long for now'], ['language', 'I don\u2019t know the language'],
    ['unpleasant', 'I\u2019d rather not read this'], ['other', 'Other']],
};
const ENDINGS = {
  all_bad: { label: 'All bad', key: 'X', question: 'Are all these answers bad? Ranks that you have given are kept.' },
  cannot_judge: { label: 'Cannot judge', key: 'J', question: 'Can\u2019t tell which answer is better? Why?' },
  skip: { label: 'Skip', key: 'S', question: 'Skip this task? Somebody else will get it. Why?' },
};

// 'Skipped: too long for now', for what is stored.
export function endingLine({ action, reason }) {
  const past = { all_bad: 'All bad', cannot_judge: 'Could not judge', skip: 'Skipped' }[action];
  const why = (REASONS[action] || []).find(([value]) => value === reason);
  return why ? `${past}: ${why[1].toLowerCase().replace(/^i\b/, 'I')}` : past;
}

export class Endings {
  constructor(onEnd) {
    this.onEnd = onEnd;
    this.action = null;
    this.buttons = Object.entries(ENDINGS).map(([action, { label, key }]) => button(label, () => this.open(action),
      { key, 'aria-expanded': false, 'data-action': action }));
    this.panel = make('div', {
      class: 'rk-ask', role: 'group', hidden: true,
      onkeydown: (event) => { if (event.key === 'Escape') this.close(); },
    });
    this.node = make('div', { class: 'rk-endings' }, make('div', { class: 'rk-row' }, ...this.buttons), this.panel);
  }

  get isOpen() {
    return this.action !== null;
  }

  open(action) {
    const again = this.action === action;
    this.hide();
    if (again) return this.focusButton(action);
    this.action = action;
    this.reason = '';
    this.mark(action, true);
    const { label, question } = ENDINGS[action];
    const heading = make('p', { tabindex: -1 }, question);
    this.panel.replaceChildren(heading, make('div', { class: 'rk-choices' }, ...this.reasons(action)),
      make('div', { class: 'rk-row' }, this.confirmButton(label), button('Back', () => this.close(), { key: 'Esc' })));
    this.panel.setAttribute('aria-label', label);
    this.panel.hidden = false;
    return (this.panel.querySelector('input') || heading).focus();
  }

  reasons(action) {
    return REASONS[action].map(([value, label]) => make('label', {},
      make('input', {
        type: 'radio', name: 'rk-reason', value,
        onchange: () => { this.reason = value; this.yes.disabled = false; },
      }), make('span', {}, label)));
  }

  confirmButton(label) {
    this.yes = button(label, () => this.confirm(), { key: 'Ctrl+Enter', class: 'rk-primary', disabled: this.action !== 'all_bad' });
    return this.yes;
  }

  confirm() {
    if (!this.yes.disabled) this.onEnd(this.action, this.reason);
  }

  close() {
    const { action } = this;
    this.hide();
    this.focusButton(action);
  }

  hide() {
    if (this.action) this.mark(this.action, false);
    this.action = null;
    this.panel.hidden = true;
    this.panel.replaceChildren();
  }

  mark(action, open) {
    this.byAction(action).setAttribute('aria-expanded', String(open));
  }

  focusButton(action) {
    this.byAction(action).focus();
  }

  byAction(action) {
    return this.buttons.find((one) => one.dataset.action === action);
  }
}
