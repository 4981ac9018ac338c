// Numbers and times as people read them: units named, '-' where nothing is known.

export const UNKNOWN = '-';
const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;

const formats = new Map();
function fixed(digits) {
  if (!formats.has(digits)) {
    formats.set(digits, new Intl.NumberFormat('en-GB', {
      minimumFractionDigits: digits, maximumFractionDigits: digits,
    }));
  }
  return formats.get(digits);
}

const known = (value) => typeof value === 'number' && Number.isFinite(value);

export function number(value, digits = 0) {
  return known(value) ? fixed(digits).format(value).replace('-', '\u2212') : UNKNOWN;
}

export function percent(share, digits = 1) {
  return known(share) ? `${number(100 * share, digits)}\u00a0%` : UNKNOWN;
}

// The number of a share in percent, for a column whose heading names the unit.
export function hundredths(share, digits = 1) {
  return known(share) ? number(100 * share, digits) : UNKNOWN;
}

// '1 task', '2 tasks', '-' for an unknown count.
export function counted(count, one, many = `${one}s`) {
  return `${number(count)}\u00a0${count === 1 ? one : many}`;
}

// An interval of two numbers in the format of their value.
export function interval(low, high, show = number, ...rest) {
  return known(low) && known(high) ? `${show(low, ...rest)} to ${show(high, ...rest)}` : UNKNOWN;
}

export function seconds(value) {
  return known(value) ? number(value, value < 100 ? 1 : 0) : UNKNOWN;
}

// '50 min', '1 h 40 min', '3 days 4 h': two units are enough to plan by.
export function duration(hours) {
  if (!known(hours)) return UNKNOWN;
  const minutes = Math.round(60 * hours);
  if (minutes < 60) return `${minutes}\u00a0min`;
  const [h, m] = [Math.floor(minutes / 60), minutes % 60];
  if (h < 48) return m ? `${h}\u00a0h ${m}\u00a0min` : `${h}\u00a0h`;
  const days = Math.floor(h / 24);
  return h % 24 ? `${days}\u00a0days ${h % 24}\u00a0h` : `${days}\u00a0days`;
}

// A probability as a test reports it: never a bare 0.
export function probability(p) {
  if (!known(p)) return UNKNOWN;
  return p < 0.001 ? 'p\u00a0<\u00a00.001' : `p\u00a0=\u00a0${number(p, 3)}`;
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const utcDay = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', timeZone: 'UTC' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const dayOfYear = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' });

function midnight(ms) {
  return new Date(ms).setHours(0, 0, 0, 0);
}

export function hour(ms) {
  return clock.format(ms);
}

export function utcDate(ms) {
  return utcDay.format(ms);
}

// 'today 14:02', 'yesterday 09:30', '3 Nov 14:02', '3 Nov 2025 14:02'.
export function when(ms, now = Date.now()) {
  if (!known(ms)) return UNKNOWN;
  const days = Math.round((midnight(now) - midnight(ms)) / DAY);
  if (days === 0) return `today ${clock.format(ms)}`;
  if (days === 1) return `yesterday ${clock.format(ms)}`;
  const sameYear = new Date(ms).getFullYear() === new Date(now).getFullYear();
  return `${(sameYear ? day : dayOfYear).format(ms)} ${clock.format(ms)}`;
}

// 'fails_instruction' -> 'fails instruction'
export function words(key) {
  return String(key).replaceAll('_', ' ');
}
