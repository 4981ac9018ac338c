// Talks to the server. JSON in, JSON out.
//
//   await get('/api/me')                 the answer
//   await post('/api/next', {})          the answer
//   await post(url, body, { meanwhile })   also tells the person this while nothing is answered
//
// Silence, 5xx and what only says "later" (408, 425, 429) are tried again, 0.4 to 8 seconds apart,
// until the server gives a verdict; the banner says so meanwhile. Any other 4xx throws Refused with
// its status and the server's one line. A 401 leads to the login page and never returns.
//
//   await once(url, body)    one try, no banner: { status, answer }; status 0 is silence
//   newRequestId()           32 hex digits
//   onAway(listener)         the shell's banner: called with a line, or null when all is well

const FIRST_WAIT = 400;
const LAST_WAIT = 8000;
const TIMEOUT = 20000;
const LATER = [408, 425, 429];

let tellAway = () => {};
let wake = () => {};

export class Refused extends Error {
  constructor(status, answer) {
    super(answer.error || `the server refused it (${status})`);
    this.status = status;
    this.answer = answer;
  }
}

export const get = (url) => patiently(url, undefined, {});
export const post = (url, body, options = {}) => patiently(url, body, options);

export async function once(url, body) {
  try {
    const response = await fetch(url, {
      method: body === undefined ? 'GET' : 'POST',
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT),
    });
    return { status: response.status, answer: await response.json() };
  } catch {
    return { status: 0, answer: {} };
  }
}

export function onAway(listener) {
  tellAway = listener;
}

export function tryNow() {
  wake();
}

export function newRequestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

async function patiently(url, body, { meanwhile = '' }) {
  for (let wait = FIRST_WAIT; ; wait = Math.min(2 * wait, LAST_WAIT)) {
    const { status, answer } = await once(url, body);
    if (status > 0 && status < 500 && !LATER.includes(status)) {
      tellAway(null);
      if (status === 401) return toLogin();
      if (status >= 400) throw new Refused(status, answer);
      return answer;
    }
    const why = status ? `The server reports a fault: ${answer.error || status}.` : 'The server doesn\u2019t answer.';
    tellAway(`${[why, meanwhile].filter(Boolean).join(' ')} Trying again \u2026`);
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, wait);
    });
  }
}

function toLogin() {
  window.location.assign('/login');
  return new Promise(() => {});
}
