// Brings the queue to the gateway: the oldest first, one request at a time, each scan under its own id until it is
// answered, so that whatever is sent twice (a lost answer, a reload, a second tab) is recorded once.

import * as queue from './queue.js';

const LINES_MAX = 500;
// Half of the gateway's default limit of 1 MiB; a character takes up to three bytes, and payloads are ASCII as a rule.
const CHARS_MAX = 170_000;
const TIMEOUT_MS = 15_000;
const PAUSE_FIRST_MS = 1_000;
const PAUSE_MAX_MS = 30_000;
// A new scan may cut a pause short, but not a gateway's Retry-After.
const PAUSE_MIN_MS = 2_000;

const TRANSIENT = new Set([429, 503]);
// The gateway has read the request and won't have it, now or later.
const FINAL = new Set([400, 413, 422]);

// How long an answer asks to wait.
export function retryAfterMs(response) {
  const seconds = Number(response.headers.get('Retry-After'));
  return Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : PAUSE_FIRST_MS;
}

export class Sender {
  // `token()` gives the device's token; `answered(scan, answer)` is told each verdict, `changed(state)` each state:
  // { name: idle | sending | waiting | offline | token, until }.
  constructor({ token, answered, changed }) {
    Object.assign(this, { token, answered, changed });
    this.state = { name: 'idle' };
    this.lines = LINES_MAX;
    this.failures = 0;
    this.running = null;
    this.again = false;
    this.timer = 0;
    this.tried = 0;
  }

  // There may be something to send. `now`: even if the gateway asked to wait. Resolves when nothing is under way.
  async kick({ now = false } = {}) {
    if (!this.token()) return;
    if (this.running) {
      this.again = true;
      return this.running;
    }
    const { name, until } = this.state;
    if (name === 'token' && !now) return;
    if (name === 'waiting' && !now && Date.now() < until) return;
    if (name === 'offline' && !now && Date.now() < Math.min(until, this.tried + PAUSE_MIN_MS)) return;
    clearTimeout(this.timer);
    this.running = this.run().finally(() => (this.running = null));
    return this.running;
  }

  async run() {
    do {
      this.again = false;
      while (await this.send());
    } while (this.again && this.state.name === 'idle');
  }

  // Sends some of the oldest. Whether to go on.
  async send() {
    const scans = await queue.oldest(this.lines, CHARS_MAX);
    if (scans.length === 0) {
      this.become('idle');
      return false;
    }
    this.become('sending');
    this.tried = Date.now();
    let response, text;
    try {
      response = await this.post(scans);
      text = await response.text();
    } catch {
      return this.pause('offline', this.backoffMs());
    }
    if (response.status === 401 || response.status === 403) {
      this.become('token');
      return false;
    }
    if (TRANSIENT.has(response.status)) return this.pause('waiting', retryAfterMs(response));
    const answers = read(response, text, scans);
    if (answers === null) {
      // Nothing of the gateway's; or a batch that it won't have as a whole, whose halves end at a single scan.
      if (!FINAL.has(response.status) || scans.length === 1) return this.pause('offline', this.backoffMs());
      this.lines = Math.max(1, Math.floor(scans.length / 2));
      return true;
    }
    return this.take(scans, answers);
  }

  post(scans) {
    const lines = scans.map(({ id, qr, at, direction }) => JSON.stringify({ id, qr, at, direction }));
    return fetch('/v1/checkins', {
      method: 'POST',
      cache: 'no-store',
      credentials: 'omit',
      headers: {
        Authorization: `Bearer ${this.token()}`,
        'Content-Type': scans.length === 1 ? 'application/json' : 'application/x-ndjson',
      },
      body: lines.join('\n'),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  }

  async take(scans, answers) {
    const final = [];
    let pauseMs = 0;
    for (const [index, answer] of answers.entries()) {
      if (TRANSIENT.has(answer.status)) {
        pauseMs = Math.max(pauseMs, (answer.retry_after_s ?? 1) * 1000);
      } else {
        final.push([scans[index], answer]);
      }
    }
    await queue.remove(final.map(([scan]) => scan));
    for (const [scan, answer] of final) this.answered(scan, answer);
    this.failures = 0;
    this.lines = LINES_MAX;
    return pauseMs > 0 ? this.pause('waiting', pauseMs) : true;
  }

  // Doubles, and differs from device to device, so that a gateway that comes back isn't met by all at once.
  backoffMs() {
    const full = Math.min(PAUSE_FIRST_MS * 2 ** this.failures, PAUSE_MAX_MS);
    this.failures += 1;
    return full * (0.5 + Math.random() / 2);
  }

  pause(name, ms) {
    this.become(name, Date.now() + ms);
    this.timer = setTimeout(() => this.kick({ now: true }), ms);
    return false;
  }

  become(name, until = 0) {
    this.state = { name, until };
    this.changed(this.state);
  }
}

// One answer a scan, in order; null if the response isn't a gateway's answer to them.
function read(response, text, scans) {
  try {
    if (scans.length === 1) {
      const body = JSON.parse(text);
      const isAnswer = response.ok || FINAL.has(response.status);
      return isAnswer && typeof body.outcome === 'string' ? [{ ...body, status: response.status }] : null;
    }
    if (response.status !== 200) return null;
    const answers = text.trimEnd().split('\n').map((line) => JSON.parse(line));
    const isWhole = answers.length === scans.length && answers.every(({ line }, index) => line === index + 1);
    return isWhole ? answers : null;
  } catch {
    return null;
  }
}
