// Light or dark: follows the system until somebody chooses; the choice is this browser's.
//
// Sets data-theme on <html>, where page.css keeps the colours.

import { button } from './dom.js';
import { browser } from './memory.js';

const CHOICES = ['system', 'light', 'dark'];
const system = window.matchMedia('(prefers-color-scheme: dark)');

let choice = CHOICES.includes(browser.get('theme')) ? browser.get('theme') : 'system';

export function followTheme() {
  paint();
  system.addEventListener('change', paint);
}

export function themeButton() {
  const label = () => `Theme: ${choice}`;
  const node = button(label(), () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    browser.set('theme', choice);
    paint();
    node.firstChild.textContent = label();
  }, { class: 'rk-quiet' });
  return node;
}

function paint() {
  const dark = choice === 'dark' || (choice === 'system' && system.matches);
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  document.body.classList.toggle('dark', dark); // Gradio's own
}
