// The risk map: the figures that everybody may see, drawn and as tables.

import { Chart } from './chart.js';
import { Language } from './language.js';
import { WORDS } from './words.js';

const ROWS_MAX = 200;
const MARKS = { hidden: '', none: '', exposed: '▲ ', cluster: '■ ' };

const by = (id) => document.getElementById(id);

let told = null;
let day = null;
let districts = [];
let places = [];
let district = null;
let failed = false;
let asked = 0;

const language = new Language(WORDS, () => draw());
const chart = new Chart(by('map'), describe, ({ id }) => choose(id));

function make(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

async function load(path) {
  const response = await fetch(path, { headers: { Accept: 'application/json, application/geo+json' } });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

// Noon in Vietnam is on the same date nearly everywhere; the text is Vietnam's date in any case.
const dateText = (text) =>
  new Intl.DateTimeFormat(language.name, { dateStyle: 'full', timeZone: 'Asia/Ho_Chi_Minh' }).format(new Date(`${text}T12:00:00+07:00`));

const provinceName = (code) => language.say(language.has(`province_${code}`) ? `province_${code}` : 'province_other', { code });
const persons = (value) => (value === null ? language.say('hidden') : language.number(value));
const level = (name) => MARKS[name] + language.say(`level_${name}`, { k: told.k });

function describe({ properties }) {
  const { name, district: code, persons: count } = properties;
  const lines = [name ?? (properties.place ? language.say('unnamed') : code)];
  lines.push(count === null ? language.say('hidden') : language.say('at_least', { n: count }));
  lines.push(`${language.say('level')}: ${level(properties.level)}`);
  return lines;
}

const here = (feature) => feature.properties.province === by('province').value;

async function show(wanted) {
  day = wanted;
  const turn = (asked += 1);
  try {
    const loaded = await Promise.all(['districts', 'places'].map((kind) => load(`/v1/map/${wanted}/${kind}.geojson`)));
    if (turn !== asked) return;
    [districts, places] = loaded.map(({ features }) => features);
    failed = false;
  } catch {
    if (turn !== asked) return;
    [districts, places, failed] = [[], [], true];
  }
  district = null;
  draw();
}

function choose(code) {
  district = district === code ? null : code;
  draw();
  if (district !== null) chart.show(district);
}

function drawChoices() {
  const codes = [...new Set(['01', '79', ...districts.map(({ properties }) => properties.province)])].sort();
  fill(by('province'), codes.map((code) => [code, provinceName(code)]));
  fill(by('day'), told.days.map((one) => [one.day, dateText(one.day)]), day);
  const at = told.days.findIndex((one) => one.day === day);
  by('later').disabled = at <= 0;
  by('earlier').disabled = at < 0 || at === told.days.length - 1;
}

function fill(select, options, value = select.value) {
  select.replaceChildren(...options.map(([value, text]) => make('option', text, { value })));
  if (options.some(([one]) => one === value)) select.value = value;
}

function drawLegend() {
  const { k, classes } = told;
  const items = [[make('span', '–', { class: 'swatch class-0' }), language.say('class_0', { k })]];
  classes.forEach((from, index) => {
    const to = classes[index + 1];
    const text = to ? language.say('class_between', { from, to }) : language.say('class_over', { from });
    items.push([make('span', `${chart.number(from)}+`, { class: `swatch class-${index + 1}` }), text]);
  });
  items.push([make('span', '▲', { class: 'swatch level-exposed' }), language.say('legend_exposed')]);
  items.push([make('span', '■', { class: 'swatch level-cluster' }), language.say('legend_cluster', { k })]);
  items.push([make('span', '●', { class: 'swatch dots' }), language.say('legend_place')]);
  by('legend').replaceChildren(
    ...items.map(([swatch, text]) => {
      const item = make('li');
      swatch.setAttribute('aria-hidden', 'true');
      item.append(swatch, make('span', text));
      return item;
    }),
  );
}

function drawDistricts() {
  const caption = { province: provinceName(by('province').value), day: dateText(day) };
  by('districts-title').textContent = language.say('districts', caption);
  const most = (a, b) => (b.properties.persons ?? -1) - (a.properties.persons ?? -1) || a.id.localeCompare(b.id);
  const rows = districts.filter(here).sort(most).map(({ id, properties }) => {
    const row = make('tr', undefined, { class: `level-${properties.level}` });
    const head = make('th', undefined, { scope: 'row' });
    const button = make('button', properties.name ?? id, { type: 'button', class: 'link', 'data-district': id, 'aria-pressed': String(id === district) });
    button.addEventListener('click', () => (choose(id), document.querySelector(`[data-district="${id}"]`)?.focus()));
    head.append(button);
    row.append(head, make('td', persons(properties.persons)), make('td', level(properties.level)));
    return row;
  });
  document.querySelector('#districts tbody').replaceChildren(...rows);
}

function drawPlaces() {
  const names = new Map(districts.map(({ id, properties }) => [id, properties.name ?? id]));
  by('places-title').textContent = district === null ? language.say('places') : language.say('places_of', { district: names.get(district) ?? district });
  const shown = places.filter(here).filter(({ properties }) => district === null || properties.district === district);
  shown.sort((a, b) => b.properties.persons - a.properties.persons || a.id.localeCompare(b.id));
  const rows = shown.slice(0, ROWS_MAX).map(({ properties }) => {
    const row = make('tr', undefined, { class: `level-${properties.level}` });
    const cells = [names.get(properties.district), persons(properties.persons), persons(properties.checkins ?? null), level(properties.level)];
    row.append(make('th', properties.name ?? language.say('unnamed'), { scope: 'row' }), ...cells.map((text) => make('td', text)));
    return row;
  });
  document.querySelector('#places tbody').replaceChildren(...rows);
  by('places').tHead.hidden = rows.length === 0;
  const more = shown.length - rows.length;
  by('places-none').textContent = rows.length === 0 ? language.say('places_none', { k: told.k }) : more > 0 ? language.say('places_more', { n: more }) : '';
}

function draw() {
  if (failed) by('summary').textContent = language.say('failed');
  if (told === null) return;
  drawChoices();
  drawLegend();
  by('note-k').textContent = language.say('note_k', { k: told.k });
  if (day === null) {
    by('summary').textContent = language.say('no_days');
  } else if (!failed) {
    drawDistricts();
    drawPlaces();
    const shown = (features) => features.filter(here).filter(({ properties }) => properties.persons !== null).length;
    const values = { day: dateText(day), province: provinceName(by('province').value), districts: shown(districts), places: shown(places) };
    by('summary').textContent = language.say('summary', values);
  }
  chart.draw(districts.filter(here), places.filter(here));
}

function step(by_) {
  const at = told.days.findIndex((one) => one.day === day);
  const next = told.days[at - by_];
  if (next) show(next.day);
}

by('choice').addEventListener('submit', (event) => event.preventDefault());
by('day').addEventListener('change', () => show(by('day').value));
by('province').addEventListener('change', () => ((district = null), draw()));
by('earlier').addEventListener('click', () => step(-1));
by('later').addEventListener('click', () => step(1));
by('in').addEventListener('click', () => chart.in());
by('out').addEventListener('click', () => chart.out());
by('whole').addEventListener('click', () => chart.whole());

language.apply();
try {
  told = await load('/v1/map/days');
  // The newest with anything to see.
  const newest = told.days.find((one) => one.districts > 0) ?? told.days[0];
  if (newest) await show(newest.day);
  else draw();
} catch {
  failed = true;
  draw();
}
