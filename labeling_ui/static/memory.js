// What this browser remembers.
//
//   const mine = await memoryOf(person)    one person's: drafts, outbox, guidelines seen
//   browser                                everybody's on this machine: theme, layout, shortcuts
//   mine.get('key')  mine.set('key', anything)  mine.remove('key')  mine.keys('prefix')
//
// The person is hashed, so that two people on one machine neither mix nor read each other's name.
// A private window or a full disk only means that nothing outlives the page; set() then says false.

class Memory {
  constructor(prefix) {
    this.prefix = prefix;
  }

  get(key) {
    try {
      return JSON.parse(localStorage.getItem(this.prefix + key));
    } catch {
      return null;
    }
  }

  set(key, value) {
    try {
      localStorage.setItem(this.prefix + key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  remove(key) {
    try {
      localStorage.removeItem(this.prefix + key);
    } catch { /* see above */ }
  }

  keys(start) {
    try {
      const wanted = this.prefix + start;
      return Object.keys(localStorage).filter((key) => key.startsWith(wanted)).sort()
        .map((key) => key.slice(this.prefix.length));
    } catch {
      return [];
    }
  }
}

export const browser = new Memory('rlhf:browser:');

export async function memoryOf(person) {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(person));
  const bytes = Array.from(new Uint8Array(digest).slice(0, 8));
  return new Memory(`rlhf:${bytes.map((byte) => byte.toString(16).padStart(2, '0')).join('')}:`);
}
