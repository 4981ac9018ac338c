// The ranking page. Body of Gradio's js_on_load(element, ...): draws everything inside `element`.
//
// Texts of a model enter by textContent only. A ranking is saved in this browser before it is
// sent and removed when the server has acknowledged it, so that a lost connection, a closed tab
// or a second press can neither lose nor double it.

const root = element.querySelector('.rk');
const LETTERS = 'ABCDEFGHI';
const OUTBOX = 'rlhf-ranking:outbox:';
const DRAFT = 'rlhf-ranking:draft';
const NAME = 'rlhf-ranking:name';
const IDLE_MS = 60000;
const REASONS = {
  skip: [['too_long', 'Too long for now'], ['language', 'I don\u2019t know the language'],
    ['unpleasant', 'I\u2019d rather not read this'], ['other', 'Other']],
  cannot_judge: [['no_knowledge', 'I lack the knowledge'],
    ['unclear_prompt', 'The prompt is unclear'], ['other', 'Other']],
};
const QUESTIONS = {
  skip: 'Skip this task? Somebody else will get it. Why?',
  cannot_judge: 'Can\u2019t tell which answer is better? Why?',
  all_bad: 'Are all these answers bad? Ranks you have given are kept.',
};
const PANEL_TITLES = { skip: 'Skip', cannot_judge: 'Cannot judge', all_bad: 'All bad' };

// Of the task on the screen: ranks[i] of shown answer i, null = not ranked yet.
let state = null;
let sending = false;
let notice = null;
let myName = memory('get', NAME);

// ---- small tools ------------------------------------------------------------------------------

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === 'onclick' || name === 'onchange' || name === 'oninput' || name === 'onsubmit') {
      node.addEventListener(name.slice(2), value);
    } else if (value === true) {
      node.setAttribute(name, '');
    } else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value);
    }
  }
  node.append(...children); // strings become text nodes
  return node;
}

function button(label, key, onclick, attributes) {
  const node = make('button', { type: 'button', onclick, ...attributes }, label);
  if (key) node.append(' ', make('kbd', { 'aria-hidden': 'true' }, key));
  return node;
}

function memory(action, key, value) {
  try {
    if (action === 'set') localStorage.setItem(key, value);
    else if (action === 'remove') localStorage.removeItem(key);
    else return localStorage.getItem(key);
  } catch (error) { /* private window or full: the page still works while it is open */ }
  return null;
}

function remembered(key) {
  try { return JSON.parse(memory('get', key)); } catch (error) { return null; }
}

function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function announce(text) {
  if (state && state.live) state.live.textContent = text;
}

function names(places) {
  return places.map((place) => LETTERS[place]).join(', ');
}

// ---- the server -------------------------------------------------------------------------------

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

async function post(url, body) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(20000),
  });
  let answer = {};
  try { answer = await response.json(); } catch (error) { /* not from our server */ }
  return { status: response.status, answer };
}

// Tries until the server gives a verdict; only silence and 5xx are tried again.
async function postPatiently(url, body, kept) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    let why = 'The server doesn\u2019t answer.';
    try {
      const reply = await post(url, body);
      if (reply.status < 500) { showAway(null); return reply; }
      why = 'The server reports a fault' + (reply.answer.error ? ': ' + reply.answer.error + '.' : '.');
    } catch (error) { /* no answer: try again */ }
    showAway(why + (kept ? ' Your ranking is kept in this browser and not yet stored.' : '')
      + ' Trying again \u2026');
    await Promise.race([pause(wait), new Promise((resolve) => { retryNow = resolve; })]);
  }
}

let retryNow = () => {};
let away = null;

function showAway(text) {
  if (!text) { if (away) away.remove(); away = null; return; }
  if (!away) {
    away = make('div', { class: 'rk-away', role: 'alert' }, make('span', {}),
      button('Try now', '', () => retryNow()));
  }
  if (!root.contains(away)) root.prepend(away);
  if (away.firstChild.textContent !== text) away.firstChild.textContent = text;
}

// Sends what earlier pages could not; then shows the task.
async function start() {
  const waiting = [];
  try {
    for (let i = 0; i < localStorage.length; i += 1) {
      if (localStorage.key(i).startsWith(OUTBOX)) waiting.push(localStorage.key(i));
    }
  } catch (error) { /* no storage, nothing waits */ }
  for (const key of waiting) {
    const job = remembered(key);
    const reply = job ? await postPatiently('/api/submit', job, true) : null;
    if (reply && reply.status !== 200) notice = 'An earlier ranking was not stored: ' + reply.answer.error;
    memory('remove', key);
  }
  await fetchTask();
}

async function fetchTask() {
  const { status, answer } = await postPatiently('/api/next', { annotator: myName });
  if (status === 200) show(answer);
  else showName(answer.error || 'This name can\u2019t be used.');
}

async function send(action, extra) {
  if (sending) return; // a second press
  sending = true;
  const job = {
    annotator: state.annotator, assignment: state.task.assignment, request_id: randomId(), action,
    comment: state.comment.value.trim(), active_ms: Math.round(state.activeMs), ...extra,
  };
  memory('set', OUTBOX + job.request_id, JSON.stringify(job));
  setBusy(true);
  const { status, answer } = await postPatiently('/api/submit', job, true);
  memory('remove', OUTBOX + job.request_id);
  sending = false;
  if (status === 200 || status === 409) {
    memory('remove', DRAFT);
    notice = status === 200 ? null : 'You had ranked that task already, perhaps in another window.';
    if (answer.next) show(answer.next); else await fetchTask();
  } else {
    setBusy(false);
    complain('Not stored: ' + (answer.error || 'the server refused it') + '.');
  }
}

function setBusy(busy) {
  state.form.toggleAttribute('inert', busy);
  state.form.setAttribute('aria-busy', String(busy));
  state.submit.firstChild.textContent = busy ? 'Storing \u2026' : 'Submit';
}

// ---- pages ------------------------------------------------------------------------------------

function show(answer) {
  if (answer.status === 'name') showName('');
  else if (answer.status === 'task') showTask(answer);
  else showEnd(answer);
}

function replace(...nodes) {
  state = null;
  root.replaceChildren(...nodes);
  if (notice) root.prepend(make('p', { class: 'rk-notice', role: 'status' }, notice));
  notice = null;
}

function showName(error) {
  const field = make('input', { id: 'rk-name', type: 'text', maxlength: 64, autocomplete: 'name', required: true });
  field.value = error ? myName || '' : '';
  const form = make('form', {
    class: 'rk-box',
    onsubmit: (event) => {
      event.preventDefault();
      myName = field.value.trim();
      memory('set', NAME, myName);
      fetchTask();
    },
  },
  make('h1', {}, 'Rank the answers'),
  make('p', {}, 'You will see a prompt and several answers to it, and put the answers in order.'),
  make('label', { for: 'rk-name' }, 'Your name'), field,
  make('p', { class: 'rk-hint' }, 'It is kept on this server to give everyone tasks of their own; '
    + 'exported rankings carry a pseudonym instead.'),
  make('button', { type: 'submit', class: 'rk-primary' }, 'Begin'));
  if (error) form.append(make('p', { class: 'rk-error', role: 'alert' }, error));
  replace(form);
  field.focus();
}

function showEnd(answer) {
  const { tasks, open, mine } = answer.counts;
  const box = make('div', { class: 'rk-box' });
  if (!tasks) {
    box.append(make('h1', {}, 'Nothing to rank yet'),
      make('p', {}, 'This store holds no tasks. Fill it with ', make('code', {}, 'rlhf sample'),
        ', then look again.'));
  } else {
    box.append(make('h1', {}, 'Thank you'),
      make('p', {}, mine === 1 ? 'You have ranked 1 task.' : 'You have ranked ' + mine + ' tasks.'),
      make('p', {}, open
        ? 'There is nothing more for you at the moment; ' + (open === 1 ? '1 task waits' : open + ' tasks wait')
          + ' for other people.'
        : (tasks === 1 ? 'The one task is done.' : 'All ' + tasks + ' tasks are done.')));
  }
  box.append(button('Look again', '', () => fetchTask(), { class: 'rk-primary' }),
    person(answer.annotator));
  replace(box);
  box.querySelector('button').focus();
}

function person(name) {
  const line = make('p', { class: 'rk-person' }, 'You are ', make('bdi', {}, name), '. ');
  if (name === myName) line.append(button('Not you?', '', forgetMe, { class: 'rk-link' }));
  return line;
}

function forgetMe() {
  myName = null;
  memory('remove', NAME);
  memory('remove', DRAFT);
  fetchTask();
}

function showTask(answer) {
  const { task, counts } = answer;
  replace();
  state = {
    task, annotator: answer.annotator, ranks: task.completions.map(() => null), past: [],
    activeMs: 0, lastActivity: Date.now(), cards: [], rest: null, asked: false, panel: null,
  };
  state.live = make('p', { class: 'rk-hidden', 'aria-live': 'polite' });
  state.comment = make('textarea', { id: 'rk-comment', rows: 2, maxlength: 4000, oninput: keepDraft });
  state.error = make('p', { class: 'rk-error', role: 'alert' });
  state.summary = make('ol', { class: 'rk-summary', 'aria-label': 'Your ranking, best first' });
  state.restBox = restBox();
  state.panelBox = make('div', { class: 'rk-panel', role: 'group' });
  state.form = make('div', { class: 'rk-task' },
    header(answer, counts), promptBox(task.prompt), cards(task.completions),
    make('details', { class: 'rk-comment' }, make('summary', {}, 'Comment'),
      make('label', { for: 'rk-comment', class: 'rk-hidden' }, 'Comment'), state.comment),
    bar(), help());
  root.append(state.form, state.live);
  restoreDraft();
  redraw();
  root.scrollIntoView({ block: 'start' });
  state.cards[0].focus({ preventScroll: true });
}

function header(answer, counts) {
  return make('header', { class: 'rk-header' }, make('h1', {}, 'Rank the answers'),
    make('p', {}, '1 is best; equal ranks are ties.'),
    make('p', { class: 'rk-counts' }, counts.mine + ' ranked by you \u00b7 ' + counts.open + ' open'),
    person(answer.annotator));
}

function promptBox(messages) {
  const box = make('section', { class: 'rk-prompt', 'aria-label': 'Prompt' }, make('h2', {}, 'Prompt'));
  for (const message of messages) {
    if (messages.length > 1) box.append(make('h3', {}, message.role));
    box.append(textBlock(message.content));
  }
  return box;
}

function textBlock(text) {
  const block = make('div', { class: 'rk-text', dir: 'auto' });
  block.textContent = text;
  if (!text) block.append(make('em', {}, '(empty)'));
  return block;
}

function cards(completions) {
  const list = make('div', { class: 'rk-cards' });
  list.style.setProperty('--rk-columns', [1, 1, 2, 3, 4, 3, 3, 4, 4, 3][completions.length]);
  completions.forEach((text, place) => {
    const letter = LETTERS[place];
    const card = make('article', { class: 'rk-card', tabindex: -1, 'aria-labelledby': 'rk-title-' + letter },
      make('div', { class: 'rk-title' },
        make('h2', { id: 'rk-title-' + letter }, make('span', { class: 'rk-hidden' }, 'Answer '),
          make('span', { class: 'rk-letter' }, letter), make('span', { class: 'rk-status' })),
        button('Clear', '', () => setRank(place, null),
          { class: 'rk-link rk-clear', 'aria-label': 'Clear the rank of answer ' + letter })),
      textBlock(text), radios(place));
    card.addEventListener('focusin', () => { state.focused = place; });
    card.addEventListener('click', () => { state.focused = place; });
    state.cards.push(card);
    list.append(card);
  });
  return list;
}

function radios(place) {
  const letter = LETTERS[place];
  const choices = make('fieldset', { class: 'rk-ranks' },
    make('legend', {}, 'Rank of answer ' + letter));
  state.task.completions.forEach((_, index) => {
    const rank = index + 1;
    choices.append(make('label', {},
      make('input', {
        type: 'radio', name: 'rk-' + state.task.assignment + '-' + letter, value: rank,
        onchange: () => setRank(place, rank),
      }), make('span', {}, String(rank))));
  });
  return choices;
}

// Partial rankings say what they mean: the rest is worse, or its place is unknown.
function restBox() {
  const option = (value, label, key) => make('label', {},
    make('input', { type: 'radio', name: 'rk-rest', value, onchange: () => setRest(value) }),
    make('span', {}, label), make('kbd', { 'aria-hidden': 'true' }, key));
  return make('fieldset', { class: 'rk-rest' }, make('legend', {}),
    option('worse', 'worse than those I ranked', 'W'), option('unknown', 'I can\u2019t place them', 'N'));
}

function bar() {
  state.count = make('span', { class: 'rk-count' });
  state.undo = button('Undo', 'U', undo);
  state.submit = button('Submit', 'Ctrl+Enter', () => submit(), { class: 'rk-primary' });
  return make('div', { class: 'rk-bar', role: 'group', 'aria-label': 'Actions' },
    state.error, state.restBox, state.panelBox, state.count, state.summary, state.undo,
    button('Clear all', '', clearAll),
    button('All bad', 'X', () => openPanel('all_bad')),
    button('Cannot judge', 'J', () => openPanel('cannot_judge')),
    button('Skip', 'S', () => openPanel('skip')), state.submit);
}

function help() {
  const last = LETTERS[state.task.completions.length - 1];
  const keys = [['A', '\u2026', last, 'go to an answer'], ['1', '\u2026', String(state.task.completions.length),
    'rank it; the same number twice is a tie'], ['0', 'no rank'], ['U', 'undo'], ['X', 'all bad'],
  ['J', 'cannot judge'], ['S', 'skip'], ['Ctrl+Enter', 'submit']];
  const list = make('ul', {});
  for (const entry of keys) {
    const item = make('li', {});
    entry.slice(0, -1).forEach((key) => item.append(key === '\u2026' ? ' \u2026 ' : make('kbd', {}, key)));
    item.append(' ' + entry[entry.length - 1]);
    list.append(item);
  }
  return make('section', { class: 'rk-help', 'aria-label': 'Keyboard' }, make('h2', {}, 'Keyboard'), list);
}

// ---- ranking ----------------------------------------------------------------------------------

function setRank(place, rank) {
  if (state.ranks[place] === rank) return;
  keepForUndo();
  state.ranks[place] = rank;
  redraw();
  announce('Answer ' + LETTERS[place] + ': ' + status(place));
}

function setRest(meaning) {
  if (state.restBox.hidden) return;
  state.rest = meaning;
  redraw();
}

function clearAll() {
  if (state.ranks.every((rank) => rank === null)) return;
  keepForUndo();
  state.ranks.fill(null);
  redraw();
  announce('All ranks cleared');
}

function keepForUndo() {
  state.past.push({ ranks: [...state.ranks], rest: state.rest });
}

function undo() {
  const before = state.past.pop();
  if (!before) return;
  state.ranks = before.ranks;
  state.rest = before.rest;
  state.asked = Boolean(before.rest);
  redraw();
  announce('Undone');
}

function places(rank) {
  return state.ranks.flatMap((given, place) => (given === rank ? [place] : []));
}

function status(place) {
  const rank = state.ranks[place];
  if (rank === null) return 'not ranked yet';
  const tied = places(rank).filter((other) => other !== place);
  return 'rank ' + rank + (tied.length ? ', tied with ' + names(tied) : '');
}

function redraw() {
  const unranked = places(null);
  const total = state.ranks.length;
  state.cards.forEach((card, place) => {
    const rank = state.ranks[place];
    card.classList.toggle('rk-ranked', rank !== null);
    card.querySelector('.rk-status').textContent = status(place);
    card.querySelector('.rk-clear').hidden = rank === null;
    card.querySelectorAll('input').forEach((radio) => { radio.checked = Number(radio.value) === rank; });
  });
  state.summary.replaceChildren(...[...new Set(state.ranks)].filter((rank) => rank !== null)
    .sort((a, b) => a - b).map((rank) => make('li', {}, names(places(rank)).replaceAll(', ', ' = '))));
  if (unranked.length) {
    state.summary.append(make('li', { class: 'rk-none' }, 'not ranked: ' + names(unranked)));
  }
  const partial = unranked.length > 0 && unranked.length < total;
  if (!partial) { state.rest = null; state.asked = false; }
  state.restBox.hidden = !state.asked;
  state.restBox.querySelector('legend').textContent = 'If you leave ' + names(unranked) + ' unranked:';
  state.restBox.querySelectorAll('input').forEach((radio) => {
    radio.checked = radio.value === state.rest;
    radio.disabled = radio.value === 'unknown' && total - unranked.length < 2;
    if (radio.disabled && state.rest === 'unknown') { state.rest = null; radio.checked = false; }
  });
  state.count.textContent = total - unranked.length + ' of ' + total;
  state.undo.disabled = !state.past.length;
  state.error.textContent = '';
  keepDraft();
}

function submit(byKey) {
  const unranked = places(null);
  const goTo = byKey === true ? unranked[0] : undefined;
  if (unranked.length === state.ranks.length) {
    complain('Nothing is ranked yet. Give at least one answer a rank.', goTo);
  } else if (unranked.length && !state.rest) {
    state.asked = true;
    redraw();
    complain('Not ranked yet: ' + names(unranked) + '. Rank ' + (unranked.length > 1 ? 'them' : 'it')
      + ', or say what leaving ' + (unranked.length > 1 ? 'them' : 'it') + ' out means.', goTo);
  } else {
    send('rank', { ranks: state.ranks, others_worse: state.rest === 'worse' });
  }
}

function complain(text, place) {
  state.error.textContent = text;
  if (place !== undefined) state.cards[place].focus();
}

// ---- all bad, cannot judge, skip: each asks once more -----------------------------------------

function openPanel(action) {
  if (state.panel === action) { closePanel(); return; }
  state.panel = action;
  const chosen = { reason: '' };
  const confirm = state.confirm = button(PANEL_TITLES[action], '', () => {
    const kept = action === 'all_bad' ? { ranks: state.ranks } : { reason: chosen.reason };
    send(action, kept);
  }, { class: 'rk-primary', disabled: action !== 'all_bad' });
  const reasons = (REASONS[action] || []).map(([value, label]) => make('label', {},
    make('input', {
      type: 'radio', name: 'rk-reason', value,
      onchange: () => { chosen.reason = value; confirm.disabled = false; },
    }), make('span', {}, label)));
  state.panelBox.replaceChildren(make('p', {}, QUESTIONS[action]), ...reasons,
    make('span', { class: 'rk-panel-buttons' }, confirm, button('Back', 'Esc', closePanel)));
  state.panelBox.setAttribute('aria-label', PANEL_TITLES[action]);
  (state.panelBox.querySelector('input') || confirm).focus();
}

function closePanel() {
  state.panel = null;
  state.panelBox.replaceChildren();
  state.cards[state.focused || 0].focus();
}

// ---- the draft: what is on the screen outlives a reload ---------------------------------------

function keepDraft() {
  const { task, ranks, rest, comment } = state;
  memory('set', DRAFT, JSON.stringify({
    assignment: task.assignment, texts: task.completions, ranks, rest, comment: comment.value,
  }));
}

function restoreDraft() {
  const draft = remembered(DRAFT);
  const { task } = state;
  if (!draft || draft.assignment !== task.assignment
    || JSON.stringify(draft.texts) !== JSON.stringify(task.completions)) return;
  state.ranks = draft.ranks;
  state.rest = draft.rest;
  state.asked = Boolean(draft.rest);
  state.comment.value = draft.comment;
  root.querySelector('details.rk-comment').open = Boolean(draft.comment);
}

// ---- keyboard and time ------------------------------------------------------------------------

function onKey(event) {
  if (!state || sending || !document.body.contains(root)) return;
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (event.repeat) return;
    if (state.panel) state.confirm.click(); else submit(true);
    return;
  }
  if (event.key === 'Escape' && state.panel) { closePanel(); return; }
  if (event.target.closest && event.target.closest('textarea, select, input:not([type=radio])')) return;
  if (state.panelBox.contains(event.target)) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'z') {
    event.preventDefault();
    undo();
  } else if (!event.ctrlKey && !event.metaKey && !event.altKey && onPlainKey(event.key)) {
    event.preventDefault();
  }
}

function onPlainKey(key) {
  const total = state.ranks.length;
  const place = key.length === 1 ? LETTERS.indexOf(key.toUpperCase()) : -1;
  const actions = { u: undo, x: () => openPanel('all_bad'), j: () => openPanel('cannot_judge'), s: () => openPanel('skip'),
    w: () => setRest('worse'), n: () => setRest('unknown') };
  if (place >= 0) {
    if (place < total) state.cards[place].focus();
  } else if (/^[1-9]$/.test(key) && Number(key) <= total) {
    setRank(state.focused || 0, Number(key));
  } else if (key === '0' || key === 'Backspace') {
    setRank(state.focused || 0, null);
  } else if (actions[key.toLowerCase()]) {
    actions[key.toLowerCase()]();
  } else {
    return false;
  }
  return true;
}

document.addEventListener('keydown', onKey);
for (const kind of ['keydown', 'pointermove', 'scroll', 'touchstart']) {
  document.addEventListener(kind, () => { if (state) state.lastActivity = Date.now(); }, { passive: true, capture: true });
}
setInterval(() => {
  const active = state && !document.hidden && Date.now() - state.lastActivity < IDLE_MS;
  if (active) state.activeMs += 1000;
}, 1000);

start();
