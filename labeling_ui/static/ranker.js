// The screen of an annotator: one task after the other.
//
// What earlier pages could not send goes first. '#/rank/12' reopens the ranking of assignment 12 as
// a correction, '#/rank' gives the next task.

import { askWhich, offerUndo, showEnd, showFeedback } from './after.js';
import { useStyle } from './dom.js';
import { hasNewGuidelines, openGuidelines } from './guide.js';
import { post } from './net.js';
import { Outbox } from './outbox.js';
import { orderLine } from './outcome.js';
import { Sheet } from './sheet.js';

export async function show(place, app) {
  await useStyle('ranker.css');
  const desk = new Desk(place, app);
  await desk.open();
  return () => desk.leave();
}

class Desk {
  constructor(place, app) {
    Object.assign(this, { place, app, sheet: null });
    this.outbox = new Outbox(app.memory);
  }

  async open() {
    await this.outbox.drain({
      stored: () => this.app.notice('A ranking that had waited in this browser is stored now.'),
      refused: (error) => this.settle(error),
    });
    const [assignment] = this.app.path;
    if (assignment) await this.reopen(Number(assignment));
    else await this.next();
    if (hasNewGuidelines(this.app)) await openGuidelines(this.app);
  }

  // Resolves when the draft has been sent.
  leave() {
    const { sheet } = this;
    this.sheet = null;
    return sheet ? sheet.stop() : null;
  }

  async next() {
    this.draw(await post('/api/next', {}));
  }

  async reopen(assignment) {
    try {
      const { task } = await post('/api/reopen', { assignment });
      this.drawTask(task);
    } catch (error) {
      this.app.notice(`This ranking can\u2019t be opened: ${error.message}.`);
      await this.next();
    }
  }

  draw(answer) {
    if (answer.status === 'task') this.drawTask(answer.task, answer.counts);
    else showEnd(this.place, answer, () => this.next());
  }

  drawTask(task, counts) {
    this.leave();
    this.sheet = new Sheet(this.app, task, { counts, onsubmit: (body) => this.submit(body) });
    this.place.replaceChildren(this.sheet.node);
    this.sheet.begin();
  }

  async submit(body) {
    const { sheet } = this;
    sheet.setBusy(true);
    const answer = await this.outbox.send(body).catch((error) => this.notStored(sheet, error));
    if (!answer) return;
    sheet.stored();
    if (!this.place.isConnected) return; // somebody has gone to another screen
    history.replaceState(null, '', '#/rank');
    if (answer.feedback) await showFeedback(this.place, { task: sheet.task, mine: body, feedback: answer.feedback });
    this.draw(answer.next || await post('/api/next', {}));
    offerUndo(this.app, answer.stored);
  }

  async notStored(sheet, error) {
    if (error.status === 409) {
      sheet.stored();
      await this.settle(error);
      await this.next();
    } else {
      sheet.setBusy(false);
      sheet.complain(`Not stored: ${error.message}.`);
    }
  }

  // A ranking that was refused: by another one that is stored, or for good.
  async settle(error) {
    if (error.status !== 409) {
      const given = error.job.action === 'rank' ? ` It was: ${orderLine(error.job)}.` : '';
      this.app.notice(`An earlier ranking was not stored: ${error.message}.${given}`);
      return;
    }
    const { task } = error.answer;
    const which = await askWhich(this.place, { task, mine: error.job });
    this.outbox.drop(error.job);
    if (which === 'stored') return;
    const { request_id: _, ...body } = error.job;
    try {
      await this.outbox.send({ ...body, replaces: task.revision });
      this.app.notice('Your ranking is stored in place of the other.');
    } catch (again) {
      await this.settle(again);
    }
  }
}
