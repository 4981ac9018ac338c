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
    this.memory.set(KEY + job.request_id, job);
    return this.deliver(job);
  }

  // What earlier pages could not send: calls stored() or refused(error) for each.
  async drain({ stored, refused }) {
    for (const key of this.memory.keys(KEY)) {
      try {
        await this.deliver(this.memory.get(key));
        stored();
      } catch (error) {
        await refused(error);
      }
    }
  }

  async deliver(job) {
    try {
      const answer = await post('/api/submit', job, { kept: true });
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
