// The gateway's state, as it tells it once a second.

import { History, SECONDS } from './history.js';
import { Language } from './language.js';
import { Sparkline } from './sparkline.js';
import { WORDS } from './words.js';

// How often a screen reader is told how things are, unless the state changes.
const SUMMARY_MS = 30_000;
// Without figures for so long, the connection counts as lost, whatever the browser thinks of it.
const SILENCE_MS = 5_000;
const RECONNECT_MS = 3_000;

const by = (id) => document.getElementById(id);

const history = new History();
let source = null;
let lastAt = 0;
let lost = false;
let reasons = [];
let told = { at: 0, state: '' };

const language = new Language(WORDS, () => draw());

const duration = (ms) => {
  // The symbols are the SI's and the same in every language, but Intl spells some out in Vietnamese.
  const [value, unit] = ms < 1000 ? [ms, 'ms'] : [ms / 1000, 's'];
  return `${language.number(value, { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 })}\u00a0${unit}`;
};

const rate = (value) => language.number(value, { maximumFractionDigits: value < 10 ? 1 : 0 });

function bytes(value) {
  const units = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte'];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  const options = { style: 'unit', unit: units[power], maximumFractionDigits: power === 0 ? 0 : 1 };
  return language.number(value / 1000 ** power, options);
}

function uptime(seconds) {
  const units = [['day', 86_400], ['hour', 3_600], ['minute', 60], ['second', 1]];
  const first = Math.max(0, units.findIndex(([, length]) => seconds >= length));
  const parts = units.slice(seconds < 1 ? 3 : first).slice(0, 2);
  let rest = Math.floor(seconds);
  const texts = parts.map(([unit, length]) => {
    const value = Math.floor(rest / length);
    rest -= value * length;
    return language.number(value, { style: 'unit', unit, unitDisplay: 'long' });
  });
  return texts.join(' ');
}

// The class of requests that the gateway has most of now: its p99 stands for all.
function busiest(stats) {
  const kinds = ['single', 'batch', 'frame'].map((kind) => stats.latency[kind]);
  return kinds.reduce((most, kind) => (kind.count > most.count ? kind : most));
}

const FIGURES = [
  {
    name: 'rate',
    value: (stats) => rate(stats.rates.last_1_s.scans_per_s),
    more: ({ rates }) =>
      language.say('rate_more', { ten: rate(rates.last_10_s.scans_per_s), sixty: rate(rates.last_60_s.scans_per_s) }),
    curve: (stats) => stats.rates.last_1_s.scans_per_s,
  },
  {
    name: 'p99',
    value: (stats) => (busiest(stats).count > 0 ? duration(busiest(stats).p99_ms) : '–'),
    more: (stats) => {
      const { count, p50_ms, max_ms } = busiest(stats);
      return count > 0 ? language.say('p99_more', { p50: duration(p50_ms), max: duration(max_ms) }) : language.say('p99_none');
    },
    curve: (stats) => busiest(stats).p99_ms,
  },
  {
    name: 'store_lag',
    value: (stats) => duration(stats.store.lag_ms),
    more: (stats) => language.say('store_lag_more', { n: stats.store.lag_records }),
    curve: (stats) => stats.store.lag_records,
  },
  {
    name: 'journal',
    value: (stats) => bytes(stats.journal.bytes),
    more: ({ journal }) => language.say('journal_more', { max: bytes(journal.bytes_max), segments: journal.segments }),
    meter: ({ journal }) => ({ value: journal.bytes, max: journal.bytes_max }),
  },
  {
    name: 'queues',
    value: (stats) => language.number(stats.workers.queue_jobs + stats.frames.queue_frames),
    more: (stats) =>
      language.say('queues_more', { workers: stats.workers.queue_jobs, frames: stats.frames.queue_frames }),
    curve: (stats) => stats.workers.queue_jobs + stats.frames.queue_frames,
  },
];

const DETAILS = [
  ['uptime', (stats) => uptime(stats.uptime_s)],
  ['version', (stats) => stats.version],
  ['runtime', (stats) => stats.runtime],
  ['connections', (stats) => language.number(stats.connections)],
  ['deduplicate_entries', (stats) => language.number(stats.deduplicate_entries)],
  ['resident', (stats) => bytes(stats.resident_bytes)],
  ['rows_written', (stats) => language.number(stats.store.rows_written)],
  ['store_retries', (stats) => language.number(stats.store.retries)],
  ['workers_shed', (stats) => language.number(stats.workers.shed)],
  ['workers_late', (stats) => language.number(stats.workers.late)],
  ['frames_available', (stats) => language.say(stats.frames.available ? 'yes' : 'no')],
  ['frames_read', (stats) => language.number(stats.frames.read)],
  ['frames_without_code', (stats) => language.number(stats.frames.without_code)],
  ['frames_shed', (stats) => language.number(stats.frames.shed)],
  ['frames_timed_out', (stats) => language.number(stats.frames.timed_out)],
  ['frames_crashed', (stats) => language.number(stats.frames.crashed)],
];

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Only what changed is written, so that a reading cursor stays where it is.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function buildFigure(figure) {
  figure.title = make('h2', { class: 'quiet' });
  figure.shown = make('p', { class: 'value', 'data-figure': figure.name });
  figure.note = make('p', { class: 'quiet' });
  const parts = [figure.title, figure.shown];
  if (figure.curve) {
    figure.sparkline = new Sparkline(SECONDS);
    parts.push(figure.sparkline.element);
  }
  if (figure.meter) {
    figure.bar = make('meter', { min: '0' });
    parts.push(figure.bar);
  }
  return make('section', { class: 'card figure' }, ...parts, figure.note);
}

function drawFigure(figure, stats) {
  write(figure.title, language.say(figure.name));
  write(figure.shown, stats ? figure.value(stats) : '–');
  write(figure.note, stats ? figure.more(stats) : ' ');
  if (figure.meter) figure.bar.setAttribute('aria-label', language.say(figure.name));
  if (!stats) return;
  figure.sparkline?.draw(history.values(figure.curve));
  if (figure.meter) {
    const { value, max } = figure.meter(stats);
    Object.assign(figure.bar, { max, high: max * 0.8, value });
  }
}

// Brings a table's body to these rows, each a heading and its cells.
function fill(table, rows) {
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  for (const [index, [heading, ...cells]] of rows.entries()) {
    const row = body.rows[index] ?? body.appendChild(make('tr', {}, make('th', { scope: 'row' })));
    write(row.cells[0], heading);
    for (const [column, text] of cells.entries()) write(row.cells[column + 1] ?? row.insertCell(), text);
  }
}

function drawOutcomes(stats) {
  const counts = Object.entries(stats?.outcomes ?? {}).sort(([, left], [, right]) => right - left);
  const all = counts.reduce((sum, [, count]) => sum + count, 0);
  by('outcomes').parentElement.hidden = all === 0;
  by('outcomes-none').hidden = all > 0;
  const percent = { style: 'percent', maximumFractionDigits: 1 };
  const rows = counts.map(([name, count]) => {
    const word = `outcome_${name}`;
    const heading = language.has(word) ? language.say(word) : name;
    const recent = history.growth((then) => then.outcomes[name]);
    return [heading, language.number(count), language.number(count / all, percent), language.number(recent)];
  });
  fill(by('outcomes'), rows);
}

function drawLatency(stats) {
  const rows = ['single', 'batch', 'frame', 'commit'].map((kind) => {
    const measured = stats?.latency[kind];
    const times = ['p50_ms', 'p90_ms', 'p99_ms', 'p999_ms', 'max_ms'];
    const cells = times.map((name) => (measured?.count ? duration(measured[name]) : '–'));
    return [language.say(kind), language.number(measured?.count ?? 0), ...cells];
  });
  fill(by('latency'), rows);
}

function drawDetails(stats) {
  const list = by('details');
  for (const [index, [word, value]] of DETAILS.entries()) {
    const row = list.children[index] ?? list.appendChild(make('div', {}, make('dt'), make('dd')));
    write(row.children[0], language.say(word));
    write(row.children[1], stats ? value(stats) : '–');
  }
}

function drawState(stats) {
  const state = lost ? 'lost' : !stats ? 'connecting' : stats.ready ? 'ready' : 'unready';
  by('state').dataset.state = state;
  write(by('state-title'), language.say(state));
  const reason = (name) =>
    language.has(`reason_${name}`) ? language.say(`reason_${name}`) : language.say('reason_other', { reason: name });
  const detail = state === 'unready' ? reasons.map(reason).join(' ') : language.say(`${state}_detail`);
  write(by('state-detail'), detail);
  write(by('state-when'), lastAt ? language.say('when', { time: language.time(lastAt) }) : '');
  tell(`${state} ${language.name}`, state, stats, detail);
}

// The screen reader's sentence: at once when the state changes, else now and then.
function tell(key, state, stats, detail) {
  const now = Date.now();
  if (key === told.state && now - told.at < SUMMARY_MS) return;
  told = { at: now, state: key };
  if (state === 'lost' || state === 'connecting' || (state === 'unready' && detail)) {
    write(by('summary'), `${language.say(state)}. ${detail}`);
    return;
  }
  const { count, p99_ms } = busiest(stats);
  const values = {
    state: language.say(`summary_${state}`),
    rate: rate(stats.rates.last_10_s.scans_per_s),
    p99: count > 0 ? duration(p99_ms) : '–',
    lag: duration(stats.store.lag_ms),
  };
  write(by('summary'), language.say('summary', values));
}

function draw() {
  const stats = history.seen.at(-1)?.stats ?? null;
  drawState(stats);
  for (const figure of FIGURES) drawFigure(figure, stats);
  drawOutcomes(stats);
  drawLatency(stats);
  drawDetails(stats);
}

async function askReasons() {
  try {
    const response = await fetch('/readyz', { cache: 'no-store' });
    ({ reasons } = await response.json());
  } catch {
    reasons = [];
  }
  draw();
}

function connect() {
  source?.close();
  source = new EventSource('/v1/stats/stream');
  source.onmessage = (event) => {
    lost = false;
    lastAt = Date.now();
    const stats = JSON.parse(event.data);
    history.add(lastAt, stats);
    if (stats.ready) reasons = [];
    else askReasons();
    draw();
  };
  source.onerror = () => {
    lost = true;
    draw();
    // The browser tries again by itself, except after an answer that isn't a stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RECONNECT_MS);
  };
}

by('figures').append(...FIGURES.map(buildFigure));
language.apply();
connect();
setInterval(() => {
  if (lost || !lastAt || Date.now() - lastAt < SILENCE_MS) return;
  lost = true;
  draw();
  connect();
}, 1_000);
