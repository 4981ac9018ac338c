// Shows what people and models wrote.
//
//   textBlock({ text, html }, raw)   the text as the server rendered it, or raw; block.show(raw)
//   conversation(messages, raw)      a prompt, one block per message: { node, blocks }
//   visible(text)                    nodes in which control, bidi and zero-width characters are seen
//   showSanitizedHtml(node, html)    the only place where a string becomes markup
//
// Every block finds its own direction (dir=auto), so that Arabic beside English reads right.

import { make } from './dom.js';

const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;
const ROLES = { system: 'System', user: 'User', assistant: 'Assistant', tool: 'Tool' };

export function textBlock(content, raw) {
  const block = make('div', { class: 'rk-text', dir: 'auto' });
  block.show = (asRaw) => {
    block.classList.toggle('rk-raw', asRaw);
    if (asRaw) block.replaceChildren(...visible(content.text));
    else showSanitizedHtml(block, content.html);
  };
  block.show(raw);
  return block;
}

export function conversation(messages, raw) {
  const blocks = messages.map((message) => textBlock(message, raw));
  const node = make('div', { class: 'rk-conversation' }, ...messages.map((message, index) => make('div', {
    class: message.role === 'assistant' ? 'rk-message rk-reply' : 'rk-message',
  }, make('p', { class: 'rk-role' }, ROLES[message.role] || message.role), blocks[index])));
  return { node, blocks };
}

export function visible(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match[0] === '\n' || match[0] === '\t') continue;
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
    nodes.push(text.slice(from, match.index), make('span', { class: 'rk-glyph' }, `U+${code}`));
    from = match.index + match[0].length;
  }
  return [...nodes, text.slice(from)];
}

// `html` must come from the server, which writes every tag and attribute of it by itself
// (labeling_ui/render.py). Nothing else may be given here.
export function showSanitizedHtml(node, html) {
  node.innerHTML = html;
}
