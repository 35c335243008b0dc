// What became of a scan, large enough to read from where the person stands, and the last few below each other.

const RECENT_MAX = 20;
// Long enough to read, short enough that a gate's next person finds it ready.
const SHOWN_MS = 6_000;

const SYMBOLS = { idle: '·', sending: '…', recorded: '✓', duplicate: '=', queued: '↑', refused: '✕' };

// A gateway's answer as a verdict: its kind and the words for it.
export function verdict(answer, language) {
  const time = (at, name) => language.time(new Date(at), name);
  switch (answer.outcome) {
    case 'recorded':
      return {
        kind: 'recorded',
        title: `recorded_${answer.direction}`,
        detail: 'recorded_detail',
        values: (name) => ({ time: time(answer.at, name) }),
      };
    case 'duplicate':
      return {
        kind: 'duplicate',
        title: 'duplicate',
        detail: 'duplicate_detail',
        values: (name) => ({ time: time(answer.original.at, name) }),
      };
    default: {
      const reason = `outcome_${answer.outcome}`;
      return { kind: 'refused', title: 'refused', detail: language.has(reason) ? reason : 'outcome_other' };
    }
  }
}

export class Verdicts {
  constructor(language, signal, isCameraOn) {
    Object.assign(this, { language, signal, isCameraOn });
    this.shown = null;
    this.recent = [];
    this.timer = 0;
  }

  // Shows one. `lasting` ones stay until the next.
  show(shown, { lasting = false } = {}) {
    clearTimeout(this.timer);
    this.shown = shown;
    this.draw();
    this.signal.give(shown.kind);
    if (!lasting) this.timer = setTimeout(() => this.rest(), SHOWN_MS);
  }

  rest() {
    clearTimeout(this.timer);
    this.shown = null;
    this.draw();
  }

  // Into the list: time, kind, title, reason; nothing of the code. A later verdict on the same scan replaces it.
  note(id, at, shown) {
    const earlier = this.recent.find((entry) => entry.id === id);
    if (earlier) earlier.shown = shown;
    else this.recent.unshift({ id, at: new Date(at), shown });
    this.recent.length = Math.min(this.recent.length, RECENT_MAX);
    this.drawRecent();
  }

  has(id) {
    return this.recent.some((entry) => entry.id === id);
  }

  draw() {
    const idle = { kind: 'idle', title: 'idle', detail: this.isCameraOn() ? 'idle_detail' : 'idle_off' };
    const { kind, title, detail, values } = this.shown ?? idle;
    const element = document.getElementById('verdict');
    const text = (key, name) => this.language.say(key, values?.(name) ?? {}, name);
    const { name, other } = this.language;
    // Restarts the movement for two people in a row.
    element.removeAttribute('data-kind');
    void element.offsetWidth;
    element.dataset.kind = kind;
    document.getElementById('verdict-symbol').textContent = SYMBOLS[kind];
    document.getElementById('verdict-title').textContent = text(title, name);
    document.getElementById('verdict-detail').textContent = text(detail, name);
    const second = document.getElementById('verdict-other');
    second.lang = other;
    second.textContent = this.shown ? `${text(title, other)} · ${text(detail, other)}` : '';
  }

  drawRecent() {
    document.getElementById('recent-none').hidden = this.recent.length > 0;
    const items = this.recent.map(({ at, shown }) => {
      const item = document.createElement('li');
      const time = document.createElement('time');
      time.dateTime = at.toISOString();
      time.textContent = this.language.time(at);
      const what = document.createElement('span');
      what.dataset.kind = shown.kind;
      const isReason = shown.kind === 'refused';
      what.textContent = this.language.say(isReason ? shown.detail : shown.title, shown.values?.() ?? {});
      item.append(time, what);
      return item;
    });
    document.getElementById('recent').replaceChildren(...items);
  }
}
