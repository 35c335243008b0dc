// The officers' queue: list, read, see the photo, answer, move on.

import { Language } from './language.js';
import { QUEUE } from './words.js';

const KEY = 'scangate.officer';
const NEXT = { received: ['triaged', 'rejected'], triaged: ['rejected'], answered: ['closed'], closed: [], rejected: [] };

const element = (id) => document.getElementById(id);

let token = sessionStorage.getItem(KEY) ?? '';
let notice = null;
let items = [];
let next = null;
let piece = null;
let asked = 0; // Only the newest answer counts.
const language = new Language(QUEUE, () => {
  tell(notice);
  list();
  show();
});

function tell(what) {
  notice = what;
  element('notice').textContent = what ? language.say(what.key, values(what)) : '';
  element('notice').classList.toggle('bad', Boolean(what?.bad));
}

const values = ({ values = {} }) => ({ ...values, state: values.state && language.say(`state_${values.state}`) });
const moment = (at) => `${language.date(new Date(at))} ${language.time(new Date(at))}`;

// An answer that is no success is thrown as what to tell.
async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, Authorization: `Bearer ${token}` } });
  } catch {
    throw { key: 'offline', bad: true };
  }
  if (answer.ok) return answer;
  if (answer.status === 401 || answer.status === 403) throw { key: 'not_allowed', bad: true, leaves: true };
  const problem = await answer.json().catch(() => ({}));
  const failure = { key: 'failed', values: { why: problem.detail ?? String(answer.status) }, bad: true };
  throw { ...failure, status: answer.status };
}

// Runs what a button is for; what it throws is told.
async function attempt(work) {
  try {
    await work();
  } catch (failure) {
    if (!failure.key) throw failure;
    if (failure.leaves) leave();
    tell(failure);
  }
}

async function load(more = false) {
  const turn = ++asked;
  const query = new URLSearchParams();
  if (element('state').value) query.set('state', element('state').value);
  if (more && next) query.set('cursor', next);
  const page = await (await call(`/v1/feedback?${query}`)).json();
  if (turn !== asked) return;
  items = more ? [...items, ...page.items] : page.items;
  next = page.next;
  element('entry').hidden = true;
  element('queue').hidden = false;
  list();
}

function line(className, text) {
  const part = document.createElement('span');
  [part.className, part.textContent] = [className, text];
  return part;
}

function list() {
  const rows = items.map((item) => {
    const [row, button] = [document.createElement('li'), document.createElement('button')];
    button.type = 'button';
    button.dataset.id = item.id;
    if (item.id === piece?.id) button.setAttribute('aria-current', 'true');
    const head = [language.say(`category_${item.category}`), language.say(`state_${item.state}`)];
    const tail = [moment(item.received), language.say(item.signed ? 'signed' : 'anonymous')];
    if (item.has_photo) tail.push(language.say('with_photo'));
    const excerpt = line('excerpt', item.excerpt);
    excerpt.lang = item.language;
    button.append(line('head', head.join(' · ')), excerpt, line('quiet', tail.join(' · ')));
    button.addEventListener('click', () => attempt(() => open(item.id, true)));
    row.append(button);
    return row;
  });
  const focused = document.activeElement?.dataset?.id;
  element('items').replaceChildren(...rows);
  if (focused) document.querySelector(`[data-id="${focused}"]`)?.focus();
  element('none').hidden = items.length > 0;
  element('more').hidden = !next;
}

async function open(id, moves = false) {
  const answer = await call(`/v1/feedback/${id}`);
  piece = await answer.json();
  tell(null);
  forgetPhoto();
  element('answer').value = '';
  list();
  show();
  if (moves) element('piece').focus();
}

function show() {
  element('piece').hidden = !piece;
  if (!piece) return;
  element('piece-title').textContent = `${language.say(`category_${piece.category}`)} · ${language.say(`state_${piece.state}`)}`;
  const facts = [['received', moment(piece.received)], ['changed', moment(piece.changed)]];
  facts.push(['sender', piece.sender ?? language.say('anonymous')]);
  if (piece.place) facts.push(['place', piece.place]);
  element('facts').replaceChildren(
    ...facts.flatMap(([name, value]) => {
      const [term, text] = [document.createElement('dt'), document.createElement('dd')];
      [term.textContent, text.textContent] = [language.say(name), value];
      return [term, text];
    }),
  );
  element('text').textContent = piece.text;
  element('text').lang = piece.language;
  element('photo').alt = language.say('photo_of');
  element('show-photo').hidden = !piece.photo || !element('photo').hidden;
  element('answered').hidden = !piece.answer;
  element('answer-text').textContent = piece.answer ?? '';
  element('answer-text').lang = piece.language;
  element('answering').hidden = piece.state !== 'triaged';
  element('steps').replaceChildren(
    ...NEXT[piece.state].map((to) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.dataset.to = to;
      button.textContent = language.say(`to_${to}`);
      button.addEventListener('click', () => attempt(() => step(to)));
      return button;
    }),
  );
}

async function step(to, answer) {
  const { id, revision } = piece;
  try {
    await call(`/v1/feedback/${id}/state`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ to, revision, ...(answer ? { answer } : {}) }),
    });
  } catch (failure) {
    if (failure.status !== 409) throw failure;
    await Promise.all([load(), open(id, true)]);
    throw { key: 'changed_since', bad: true };
  }
  await Promise.all([load(), open(id, true)]);
  tell({ key: 'moved', values: { state: to } });
}

function forgetPhoto() {
  const photo = element('photo');
  if (photo.src) URL.revokeObjectURL(photo.src);
  photo.removeAttribute('src');
  photo.hidden = true;
}

async function showPhoto() {
  // An address can't carry the token, so the bytes are read first.
  const { id } = piece;
  const blob = await (await call(`/v1/feedback/${id}/photo`)).blob();
  if (piece?.id !== id) return;
  element('photo').src = URL.createObjectURL(blob);
  element('photo').hidden = false;
  show();
  element('piece').focus();
}

function leave() {
  sessionStorage.removeItem(KEY);
  [token, items, next, piece] = ['', [], null, null];
  forgetPhoto();
  element('queue').hidden = true;
  element('entry').hidden = false;
  list();
  show();
  element('token').focus();
}

element('entry').addEventListener('submit', (event) => {
  event.preventDefault();
  token = element('token').value.trim();
  element('token').value = '';
  tell(null);
  attempt(async () => {
    await load();
    sessionStorage.setItem(KEY, token);
    element('state').focus();
  });
});
element('state').addEventListener('change', () => attempt(async () => {
  await load();
  tell({ key: 'loaded', values: { n: items.length } });
}));
element('more').addEventListener('click', () => attempt(async () => {
  await load(true);
  tell({ key: 'loaded', values: { n: items.length } });
}));
element('leave').addEventListener('click', () => {
  leave();
  tell(null);
});
element('show-photo').addEventListener('click', () => attempt(showPhoto));
element('answering').addEventListener('submit', (event) => {
  event.preventDefault();
  attempt(() => step('answered', element('answer').value));
});

language.apply();
if (token) attempt(() => load());
