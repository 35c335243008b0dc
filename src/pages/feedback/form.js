// The form for whoever has something to say, and for reading the answer.

import { Language } from './language.js';
import { FORM } from './words.js';

// As the gateway keeps it; a camera's own file is larger than it may be sent.
const SIDE_PX_MAX = 1600;
const PHOTO_BYTES_MAX = 2_000_000;

const element = (id) => document.getElementById(id);
const form = element('form');

// `crypto.randomUUID` is there on HTTPS only.
function fresh() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

let notice = null; // What is told, by its key, so that it follows the language.
let progress = null;
let id = fresh();
const language = new Language(FORM, () => {
  tell(notice);
  show(progress);
});

function tell(next) {
  notice = next;
  element('notice').textContent = next ? language.say(next.key, next.values) : '';
  element('notice').classList.toggle('bad', Boolean(next?.bad));
}

// Where the refusal has words of its own they are told, else what the gateway says.
async function refusal(answer) {
  if (answer.status === 429) return { key: 'limited', bad: true };
  const problem = await answer.json().catch(() => ({}));
  if (problem.bound === 'feedback.anonymous_open_max') return { key: 'full', bad: true };
  return { key: 'failed', values: { why: problem.detail ?? String(answer.status) }, bad: true };
}

// A photo small enough to be sent. The picture is drawn anew, so that its file's metadata stays here.
async function smaller(file) {
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, SIDE_PX_MAX / Math.max(picture.width, picture.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const pencil = canvas.getContext('2d');
  pencil.fillStyle = '#fff';
  pencil.fillRect(0, 0, canvas.width, canvas.height);
  pencil.drawImage(picture, 0, 0, canvas.width, canvas.height);
  for (const quality of [0.85, 0.6]) {
    const blob = await new Promise((done) => canvas.toBlob(done, 'image/jpeg', quality));
    if (blob && blob.size <= PHOTO_BYTES_MAX) return blob;
  }
  throw new Error('too large');
}

async function upload(file) {
  let body;
  try {
    body = await smaller(file);
  } catch {
    throw { key: 'photo_bad', bad: true };
  }
  const answer = await fetch('/v1/feedback/photos', { method: 'POST', headers: { 'Content-Type': 'image/jpeg' }, body });
  if (!answer.ok) throw await refusal(answer);
  return (await answer.json()).photo;
}

async function send() {
  const body = { id, category: element('category').value, language: language.name, text: element('text').value };
  const place = element('place').value.trim();
  if (place) body.place = place;
  const [file] = element('photo').files;
  if (file) body.photo = await upload(file);
  const answer = await fetch('/v1/feedback', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw await refusal(answer);
  return (await answer.json()).receipt;
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  element('send').disabled = true;
  tell({ key: 'sending' });
  try {
    element('receipt').textContent = await send();
    tell(null);
    form.hidden = true;
    element('sent').hidden = false;
    element('sent').focus();
  } catch (failure) {
    // Nothing that was written goes, and the id stays, so that sending again is the same feedback.
    tell(failure.key ? failure : { key: 'offline', bad: true });
  }
  element('send').disabled = false;
});

// What was changed after a refusal is something else.
form.addEventListener('input', () => {
  id = fresh();
});

element('another').addEventListener('click', () => {
  form.reset();
  id = fresh();
  element('sent').hidden = true;
  form.hidden = false;
  element('category').focus();
});

function fact(list, name, value) {
  const [term, text] = [document.createElement('dt'), document.createElement('dd')];
  [term.textContent, text.textContent] = [name, value];
  list.append(term, text);
}

function show(next) {
  progress = next;
  const list = element('progress');
  list.replaceChildren();
  list.hidden = !next;
  element('answer').hidden = !next?.answer;
  if (!next) return;
  const moment = (at) => `${language.date(new Date(at))} ${language.time(new Date(at))}`;
  fact(list, language.say('category'), language.say(`category_${next.category}`));
  fact(list, language.say('state'), language.say(`state_${next.state}`));
  fact(list, language.say('received'), moment(next.received));
  fact(list, language.say('changed'), moment(next.changed));
  element('answer').textContent = next.answer ?? '';
}

element('ask').addEventListener('submit', async (event) => {
  event.preventDefault();
  show(null);
  tell(null);
  try {
    const receipt = element('secret').value.trim();
    const answer = await fetch('/v1/feedback/receipt', { headers: { Authorization: `Receipt ${receipt}` } });
    if (answer.ok) show(await answer.json());
    else tell(answer.status === 404 ? { key: 'unknown', bad: true } : await refusal(answer));
  } catch {
    tell({ key: 'offline', bad: true });
  }
});

language.apply();
