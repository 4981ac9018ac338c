// Keyboard shortcuts. Letters and digits can be switched off for this browser; Ctrl+Enter and
// Ctrl+Z stay. Enter alone does nothing here, so it never submits.
//
//   new Keys(commands, isAwake)    commands: { 'U': run, 'Shift+F': run, 'Ctrl+Enter': run, ... }
//   keys.stop()                    isAwake() says whether they work at the moment
//   openHelp(root, lines)    lines: [[['A', 'to', 'D'], 'go to an answer'], ...], shown by '?'
//   keysAreOn()

import { make, openDialog } from './dom.js';
import { browser } from './memory.js';

const TYPING = 'textarea, select, input:not([type=radio]):not([type=checkbox])';
const OWN_ARROWS = 'input, .rk-chip, .rk-text *';

export const keysAreOn = () => browser.get('shortcuts') !== false;

export class Keys {
  constructor(commands, isAwake) {
    Object.assign(this, { commands, isAwake });
    this.onKey = (event) => this.handle(event);
    document.addEventListener('keydown', this.onKey);
  }

  stop() {
    document.removeEventListener('keydown', this.onKey);
  }

  handle(event) {
    if (event.defaultPrevented || !this.isAwake() || document.querySelector('dialog[open]')) return;
    const name = keyName(event);
    const run = this.commands[name];
    if (!run || (!name.startsWith('Ctrl+') && !isFree(event))) return;
    if (name === 'Ctrl+Z' && event.target.matches(TYPING)) return;
    event.preventDefault();
    if (!event.repeat) run();
  }
}

// Whether a plain key is ours: not while somebody types, nor where a control uses it itself.
function isFree(event) {
  if (!keysAreOn() || event.target.matches(TYPING)) return false;
  return !event.key.startsWith('Arrow') || !event.target.matches(OWN_ARROWS);
}

// 'A', 'Shift+F', '3', 'Ctrl+Enter': by the letter, or by its place on keyboards of other scripts.
function keyName(event) {
  if (event.altKey) return '';
  if (event.key === '?') return '?';
  const letter = /^[a-z]$/i.test(event.key) ? event.key.toUpperCase() : event.code.match(/^Key([A-Z])$/)?.[1];
  const digit = /^[0-9]$/.test(event.key) ? event.key : event.code.match(/^Digit([0-9])$/)?.[1];
  const base = letter || digit || event.key;
  if (event.ctrlKey || event.metaKey) return `Ctrl+${base}`;
  return event.shiftKey && letter ? `Shift+${base}` : base;
}

export function openHelp(root, lines) {
  const box = make('input', {
    type: 'checkbox', checked: keysAreOn(),
    onchange: () => { browser.set('shortcuts', box.checked); markKeys(root); },
  });
  const list = make('dl', { class: 'rk-keys' });
  for (const [keys, does] of lines) {
    const shown = keys.map((key) => (['to', 'or'].includes(key) ? ` ${key} ` : make('kbd', {}, key)));
    list.append(make('dt', {}, ...shown), make('dd', {}, does));
  }
  openDialog(root, 'Keyboard shortcuts', [
    make('div', { class: 'rk-choices' }, make('label', {}, box, make('span', {}, 'Letters and digits are shortcuts'))),
    list,
  ]);
}

// Buttons show their keys only while these work.
export function markKeys(root) {
  root.classList.toggle('rk-keys-off', !keysAreOn());
}
