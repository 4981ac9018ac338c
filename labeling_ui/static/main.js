// The shell around every screen: header, navigation by role, banner, live region, routes.
//
// start(element) draws it. Each screen is a module that exports
//
//   async function show(place, app)
//
// which draws into the empty element `place` and may return a function to call, and wait for, when
// the person leaves. What `app` offers:
//
//   app.me          {name, role, local, settings} as /api/me gives it
//   app.path        what follows the screen in the address: '#/review/12' gives ['12']
//   app.root        the element that dialogs and drag ghosts belong into
//   app.memory      what this browser remembers of this person (memory.js)
//   app.go(hash)    go to another screen, '#/rank/12'
//   app.say(text)   tell screen readers
//   app.notice(text, ...nodes)   a line above the screen until the next one; null takes it away
//
// Common classes are listed at the top of page.css.

import { button, make, useStyle } from './dom.js';
import { memoryOf } from './memory.js';
import { get, onAway, once, tryNow } from './net.js';
import { followTheme, themeButton } from './theme.js';

const ROLES = ['annotator', 'reviewer', 'admin'];
const SCREENS = {
  rank: { title: 'Rank', role: 'annotator', module: './ranker.js' },
  work: { title: 'My work', role: 'annotator', module: './work.js' },
  review: { title: 'Review', role: 'reviewer', module: './review.js' },
  admin: { title: 'Admin', role: 'admin', module: './admin.js' },
};

export async function start(element) {
  const shell = new Shell();
  followTheme();
  await useStyle('page.css');
  element.replaceChildren(shell.root);
  await shell.open();
}

class Shell {
  constructor() {
    this.header = make('header', { class: 'rk-header' });
    this.banner = make('div', { class: 'rk-away', role: 'alert', hidden: true },
      make('span'), button('Try now', tryNow));
    this.note = make('div', { class: 'rk-notice', role: 'status', hidden: true });
    this.live = make('p', { class: 'rk-hidden', 'aria-live': 'polite' });
    this.place = make('div');
    this.root = make('div', { class: 'rk' }, this.header, this.banner, this.note, this.place, this.live);
    this.leave = () => {};
  }

  async open() {
    onAway((line) => this.showAway(line));
    this.me = await get('/api/me');
    this.memory = await memoryOf(`${this.me.store ?? ''}\n${this.me.name}`);
    this.drawHeader();
    window.addEventListener('hashchange', () => this.route());
    await this.route();
  }

  drawHeader() {
    const links = Object.entries(SCREENS).filter(([, screen]) => this.may(screen))
      .map(([name, screen]) => make('a', { href: `#/${name}`, 'data-screen': name }, screen.title));
    this.links = links;
    this.header.replaceChildren(
      make('nav', { 'aria-label': 'Screens' }, ...links),
      make('div', { class: 'rk-person' },
        make('span', {}, make('bdi', {}, this.me.name), ` \u00b7 ${this.me.role}`),
        themeButton(),
        ...(this.me.local ? [] : [button('Log out', () => this.logOut(), { class: 'rk-quiet' })])),
    );
  }

  may(screen) {
    return ROLES.indexOf(this.me.role) >= ROLES.indexOf(screen.role);
  }

  async route() {
    const [name, ...path] = window.location.hash.replace(/^#\/?/, '').split('/');
    const known = SCREENS[name] && this.may(SCREENS[name]) ? name : 'rank';
    this.links.forEach((link) => {
      if (link.dataset.screen === known) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    });
    this.leave();
    this.leave = () => {};
    this.notice(null);
    document.title = SCREENS[known].title;
    const place = make('div', { class: 'rk-screen' });
    this.place.replaceWith(place);
    this.place = place;
    await this.draw(known, path, place);
  }

  async draw(name, path, place) {
    try {
      const screen = await import(SCREENS[name].module);
      const leave = await screen.show(place, this.app(path)) || (() => {});
      if (this.place === place) this.leave = leave;
      else leave(); // somebody went on before it was drawn
    } catch (error) {
      console.error(error);
      place.replaceChildren(make('div', { class: 'rk-box' },
        make('h1', {}, 'This screen can\u2019t be shown'), make('p', {}, `${error.message}.`),
        button('Try again', () => this.route(), { class: 'rk-primary' })));
    }
  }

  app(path) {
    return {
      me: this.me,
      path,
      root: this.root,
      memory: this.memory,
      go: (hash) => { window.location.hash = hash; },
      say: (text) => { this.live.textContent = text; },
      notice: (...content) => this.notice(...content),
    };
  }

  notice(...content) {
    this.note.hidden = content[0] === null;
    this.note.replaceChildren(...content.filter((part) => part !== null));
  }

  showAway(line) {
    const text = this.banner.firstChild;
    if (line && text.textContent !== line) text.textContent = line; // read out once, not at each try
    this.banner.hidden = !line;
  }

  async logOut() {
    await this.leave();
    this.leave = () => {};
    await once('/logout', {});
    window.location.assign('/login');
  }
}
