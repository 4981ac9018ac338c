// What somebody said of a task, as a line.

import { flagName } from './cards.js';
import { letter } from './dom.js';
import { names, Ranks } from './ranks.js';

// 'B > A = C > D' where D was called worse than the rest, 'B > A = C; D not ranked' where not.
export function orderLine({ ranks: given, others_worse: worse }) {
  const ranks = new Ranks(given.length);
  ranks.restore({ ranks: given });
  const order = ranks.tiers.map((tier) => tier.map(letter).join(' = ')).join(' > ');
  if (!order || !ranks.unranked.length) return order;
  return `${order}${worse ? ' > ' : '; '}${names(ranks.unranked)}${worse ? '' : ' not ranked'}`;
}

// 'A harmful, cut off; C wrong language', or '' without flags.
export function flagLine({ flags }) {
  return (flags ?? []).flatMap((raised, place) => (
    raised.length ? [`${letter(place)} ${raised.map(flagName).join(', ').toLowerCase()}`] : [])).join('; ');
}
