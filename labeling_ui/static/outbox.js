// The outbox: a ranking is written here before it is sent, and taken out when the server has given
// its verdict. The id of the request makes sending it again harmless.
//
// A 409 is no verdict: somebody stored another ranking of this task meanwhile, perhaps the same
// person in another window. The job then stays until the person has decided; see drop().

import { newRequestId, post } from './net.js';

const KEY = 'outbox:';

export class Outbox {
  constructor(memory) {
    this.memory = memory;
  }

  // Gives the server's answer; throws Refused, with the job, when it is not taken.
  send(body) {
    const job = { ...body, request_id: newRequestId() };
    return this.deliver(job, this.memory.set(KEY + job.request_id, job));
  }

  // What earlier pages could not send: calls stored() or refused(error) for each. Another window
  // may have sent it meanwhile.
  async drain({ stored, refused }) {
    for (const key of this.memory.keys(KEY)) {
      const job = this.memory.get(key);
      if (!job) continue;
      try {
        await this.deliver(job, true);
        stored();
      } catch (error) {
        await refused(error);
      }
    }
  }

  async deliver(job, isKept) {
    const meanwhile = isKept
      ? 'Your ranking is kept in this browser and not yet stored.'
      : 'Your ranking is not yet stored; leave this page open.';
    try {
      const answer = await post('/api/submit', job, { meanwhile });
      this.drop(job);
      return answer;
    } catch (error) {
      if (error.status !== 409) this.drop(job);
      error.job = job;
      throw error;
    }
  }

  drop(job) {
    this.memory.remove(KEY + job.request_id);
  }
}
