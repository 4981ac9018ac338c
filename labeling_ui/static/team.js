// What the team's screens share.

import { make, useStyle } from './dom.js';
import { Refused } from './net.js';

export async function prepare(place, ...styles) {
  await Promise.all([...styles, 'team.css'].map(useStyle));
  place.classList.add('tm');
}

// The top of a screen. Its title takes the focus when it is drawn, so that it is read out and the
// Tab key goes on from there.
export function head(title, ...rest) {
  return make('header', { class: 'tm-head' }, make('h1', { tabindex: -1 }, title), ...rest);
}

export function focusHead(place) {
  place.querySelector('h1').focus({ preventScroll: true });
}

export function section(title, ...children) {
  return make('section', { class: 'rk-panel tm-section' }, make('h2', {}, title), ...children);
}

// A line with a smaller one below it: a person's name and pseudonym, a measure and its meaning.
export function twoLines(text, below) {
  return make('span', { class: 'tm-two' }, make('bdi', {}, text),
    ...(below ? [make('span', { class: 'rk-hint' }, below)] : []));
}

// The name, where the server knows one, and the pseudonym that exports carry.
export function person(row) {
  return row.name ? twoLines(row.name, row.pseudonym) : twoLines(row.pseudonym);
}

// Does what the server may refuse, and says how it went; true when it was done.
export async function attempt(app, work, said) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    app.notice(`Not done: ${error.message}.`);
    return false;
  }
  app.notice(said);
  return true;
}
