// Which key does what on a task. Answers have the first letters; what shares a letter with one of
// them is reached with Shift.

import { letter } from './dom.js';
import { openHelp } from './keys.js';

// { flags: 'F', guidelines: 'G', wide: 'E' }, with Shift where the letter names an answer.
export function extraKeys(count) {
  const last = letter(count - 1);
  const free = (key) => (key > last ? key : `Shift+${key}`);
  return { flags: free('F'), guidelines: free('G'), wide: free('E') };
}

export function commandsOf(sheet) {
  const { cards, side, extra } = sheet;
  const places = cards.all.map((_, place) => place);
  const step = (way) => () => cards.step(way);
  return {
    ...Object.fromEntries(places.map((place) => [letter(place), () => cards.focus(place)])),
    ...Object.fromEntries(places.map((place) => [String(place + 1), () => sheet.rankAndGoOn(place + 1)])),
    0: () => sheet.rank(cards.current, null),
    Backspace: () => sheet.rank(cards.current, null),
    N: step(1),
    P: step(-1),
    ...(cards.layout === 'single' ? { ArrowRight: step(1), ArrowLeft: step(-1) } : {}),
    U: () => sheet.undo(),
    'Ctrl+Z': () => sheet.undo(),
    W: () => sheet.setRest('worse'),
    T: () => sheet.setRest('unknown'),
    X: () => side.endings.open('all_bad'),
    J: () => side.endings.open('cannot_judge'),
    S: () => side.endings.open('skip'),
    M: () => sheet.toggleRaw(),
    L: () => sheet.nextLayout(),
    [extra.flags]: () => cards.toggleFlags(cards.current),
    [extra.wide]: () => cards.expand(cards.current),
    [extra.guidelines]: () => sheet.openGuidelines(),
    '?': () => openHelp(sheet.app.root, helpLines(cards.count, extra)),
    'Ctrl+Enter': () => (side.endings.isOpen ? side.endings.confirm() : sheet.submit({ byKey: true })),
  };
}

export function helpLines(count, extra) {
  return [
    [['A', 'to', letter(count - 1)], 'go to an answer'],
    [['1', 'to', String(count)], 'rank it and go on; the same number twice is a tie'],
    [['0'], 'take its rank away'],
    [['N', 'or', 'P'], 'next or previous answer; one at a time, arrow keys too'],
    [['U', 'or', 'Ctrl+Z'], 'undo'],
    [['W', 'or', 'T'], 'the rest is worse, or you can\u2019t tell'],
    [[extra.flags], 'flag an answer'],
    [['X'], 'all bad'],
    [['J'], 'cannot judge'],
    [['S'], 'skip'],
    [['M'], 'raw text'],
    [['L'], 'next layout'],
    [[extra.wide], 'wide card'],
    [[extra.guidelines], 'guidelines'],
    [['Ctrl+Enter'], 'submit'],
  ];
}
