// The guidelines: a drawer that opens by itself when they are newer than the person has seen.

import { make, openDialog } from './dom.js';
import { get } from './net.js';
import { showSanitizedHtml } from './text.js';

const SEEN = 'guidelines';

export const hasGuidelines = (app) => app.me.settings.guidelines_version > 0;

export function hasNewGuidelines(app) {
  return app.me.settings.guidelines_version > (app.memory.get(SEEN) ?? 0);
}

export async function openGuidelines(app) {
  const { version, html } = await get('/api/guidelines');
  const words = make('div', { class: 'rk-text', dir: 'auto' });
  showSanitizedHtml(words, html);
  openDialog(app.root, 'Guidelines', [words], { side: true, onclose: () => app.memory.set(SEEN, version) });
}
