// The scanner: camera or keyboard → code → queue on this device → gateway → verdict.

import { Camera } from './camera.js';
import * as device from './device.js';
import * as frames from './frames.js';
import { Language } from './language.js';
import * as queue from './queue.js';
import { Reader } from './reader.js';
import { Sender } from './sender.js';
import { Signal } from './signal.js';
import { verdict, Verdicts } from './verdict.js';
import { WORDS } from './words.js';

// Between two looks at the picture, and between two frames sent.
const LOOK_MS = 120;
const FRAME_MS = 350;
// A code counts once for as long as it stays in view, and this long after.
const SAME_CODE_MS = 4_000;
const STATE_MS = 1_000;
// How long a scan may be under way before the page says that it is safe on the device.
const QUEUED_MS = 1_500;

const by = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let token = device.read();
let notice = null;
let latest = null; // The id of the scan whose verdict is shown.
let readerName = '';
const inView = new Map(); // Codes and when each was last seen.
let lastCheckin = { id: '', at: 0 }; // What the gateway last read from a frame.

const language = new Language(WORDS, draw);
const camera = new Camera(by('video'));
const reader = new Reader();
const signal = new Signal(by('sound'), by('vibration'));
const verdicts = new Verdicts(language, signal, () => camera.isOn);
const sender = new Sender({ token: () => token, answered, changed: stateChanged });

function direction() {
  return document.querySelector('input[name="direction"]:checked').value;
}

// Version 4, also where the page isn't secure and `crypto.randomUUID` is missing.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

// Takes a code: first onto the disk, then on its way.
async function submit(qr) {
  const scan = {
    id: uuid(),
    qr,
    at: new Date().toISOString(),
    direction: direction(),
    device: device.describe(token)?.key ?? '',
  };
  latest = scan.id;
  verdicts.show({ kind: 'sending', title: 'sending', detail: 'sending_detail' }, { lasting: true });
  try {
    await queue.add(scan);
  } catch (error) {
    const isFull = error instanceof queue.QueueFull;
    const word = isFull ? 'full' : 'unsaved';
    const shown = { kind: 'refused', title: word, detail: `${word}_detail`, values: () => ({ n: queue.QUEUE_MAX }) };
    verdicts.show(shown, { lasting: true });
    verdicts.note(scan.id, scan.at, { ...shown, detail: word });
    return;
  }
  setTimeout(() => saved(scan), QUEUED_MS);
  sender.kick().then(() => saved(scan));
  drawWaiting();
}

// Says that a scan waits on the device, if it still does.
function saved(scan) {
  if (latest !== scan.id || verdicts.shown?.kind !== 'sending') return;
  const shown = { kind: 'queued', title: 'queued', detail: 'queued_detail' };
  verdicts.show(shown);
  verdicts.note(scan.id, scan.at, shown);
}

function answered(scan, answer) {
  const shown = verdict(answer, language);
  if (scan.id === latest) verdicts.show(shown);
  // Of what was sent later, the list tells what is news: what was refused, and what it already names.
  if (scan.id === latest || shown.kind === 'refused' || verdicts.has(scan.id)) verdicts.note(scan.id, scan.at, shown);
}

// Whether a code has just come into view. Each look renews it.
function isNew(code) {
  const now = Date.now();
  for (const [seen, at] of inView) if (now - at > SAME_CODE_MS) inView.delete(seen);
  const known = inView.has(code);
  inView.set(code, now);
  return !known;
}

let isLooking = false;
async function keepLooking() {
  if (isLooking) return;
  isLooking = true;
  while (camera.isOn) {
    const restMs = await look().catch((error) => (console.error(error), STATE_MS));
    await pause(restMs);
  }
  isLooking = false;
}

// Reads the picture of this moment. How long to rest.
async function look() {
  const picture = camera.picture();
  if (!picture || !token) return LOOK_MS;
  const codes = await reader.codes(picture);
  const name = codes === null ? 'frames' : reader.name;
  if (name !== readerName) drawReader(name);
  if (codes === null) return sendFrame(picture);
  for (const code of codes.filter(isNew)) await submit(code);
  return LOOK_MS;
}

// Lets the gateway read the picture. How long to rest.
async function sendFrame(picture) {
  const id = uuid();
  const at = new Date().toISOString();
  const { answers, pauseMs, failure } = await frames.send(picture, { id, at, direction: direction(), token });
  if (failure === 'token') {
    sender.become('token');
    return STATE_MS;
  }
  if (failure) {
    tell(failure === 'off' ? 'frames_off' : 'frames_offline');
    return failure === 'off' ? 10 * STATE_MS : 2 * STATE_MS;
  }
  if (notice?.startsWith('frames_')) tell(null);
  if (pauseMs) return pauseMs;
  for (const answer of answers) frameAnswered(answer, at);
  return FRAME_MS;
}

function frameAnswered(answer, at) {
  const now = Date.now();
  // Refused codes are told apart by nothing but their reason.
  const checkin = answer.checkin ?? answer.original?.checkin ?? answer.outcome;
  const isSame = checkin === lastCheckin.id && now - lastCheckin.at < SAME_CODE_MS;
  lastCheckin = { id: checkin, at: now };
  if (isSame) return;
  latest = answer.id;
  const shown = verdict(answer, language);
  verdicts.show(shown);
  verdicts.note(answer.id, at, shown);
}

async function toggleCamera() {
  signal.allow();
  if (camera.isOn) {
    camera.stop();
  } else {
    try {
      await camera.start(() => (camera.stop(), drawCamera()));
      tell(null);
      keepLooking();
    } catch (error) {
      camera.stop();
      tell(error.message);
    }
  }
  drawCamera();
}

// Takes another token, unless scans of another device wait: they would be recorded where that one stands.
async function useToken(given) {
  const described = device.describe(given);
  if (!described) return tell('token_wrong');
  const [first] = await queue.oldest(1, 0).catch(() => []);
  if (first && first.device !== described.key) {
    by('setup-forget').hidden = false;
    return tell('token_other_device', { n: await queue.count() });
  }
  token = given;
  device.save(token);
  navigator.storage?.persist?.().catch(() => {});
  by('token').value = '';
  tell(null);
  sender.become('idle');
  drawSetup(false);
  sender.kick({ now: true });
}

// A token from the address. Whoever made the link may not turn a scanner into another place's unseen.
async function useHanded() {
  const handed = device.fromAddress();
  if (!handed) return;
  const [given, had] = [device.describe(handed), device.describe(token)];
  const place = given?.place || language.say('device_unnamed');
  if (given && had && given.key !== had.key && !confirm(language.say('token_replace', { place }))) return;
  await useToken(handed);
}

async function forget() {
  const waiting = await queue.count().catch(() => 0);
  if (!confirm(language.say('forget_confirm', { n: waiting }))) return;
  await queue.clear().catch(() => {});
  device.forget();
  token = '';
  camera.stop();
  tell(null);
  draw();
}

let noticeValues = {};
function tell(word, values = {}) {
  notice = word;
  noticeValues = values;
  by('notice').hidden = word === null;
  by('notice').textContent = word === null ? '' : language.say(word, values);
}

function draw() {
  drawSetup(!token);
  drawCamera();
  drawReader(readerName);
  drawState(sender.state);
  verdicts.drawRecent();
  tell(notice, noticeValues);
}

function drawSetup(isOpen) {
  by('setup').hidden = !isOpen;
  by('scanner').hidden = isOpen && !token;
  by('token-cancel').hidden = !token;
  by('setup-forget').hidden = true;
  const described = device.describe(token);
  const place = described?.place || language.say('device_unnamed');
  by('state-device').textContent = described?.expires
    ? language.say('device_until', { place, until: language.date(described.expires) })
    : place;
}

function drawCamera() {
  by('camera').textContent = language.say(camera.isOn ? 'camera_stop' : 'camera_on');
  by('camera-off').hidden = camera.isOn;
  verdicts.draw();
}

function drawReader(name) {
  readerName = name;
  by('state-reader').textContent = language.say(`reader_${name || 'none'}`);
}

function drawState(state) {
  const n = Math.max(0, Math.ceil((state.until - Date.now()) / 1000));
  const text = language.say(`gateway_${state.name}`, { n });
  if (by('state-gateway').textContent !== text) by('state-gateway').textContent = text;
  by('send-now').hidden = state.name !== 'waiting' && state.name !== 'offline';
  drawWaiting();
}

function stateChanged(state) {
  drawState(state);
  if (state.name !== 'token') return;
  verdicts.show({ kind: 'refused', title: 'no_token', detail: 'no_token_detail' }, { lasting: true });
  drawSetup(true);
}

async function drawWaiting() {
  const n = await queue.count().catch(() => 0);
  const text = language.say('waiting', { n });
  if (by('state-waiting').textContent !== text) by('state-waiting').textContent = text;
}

by('camera').addEventListener('click', toggleCamera);
by('send-now').addEventListener('click', () => sender.kick({ now: true }));
by('forget').addEventListener('click', forget);
by('setup-forget').addEventListener('click', forget);
by('token-change').addEventListener('click', () => (drawSetup(true), by('token').focus()));
by('token-cancel').addEventListener('click', () => (tell(null), drawSetup(false), by('camera').focus()));
by('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  useToken(by('token').value.trim());
});
by('manual-form').addEventListener('submit', (event) => {
  event.preventDefault();
  signal.allow();
  const code = by('manual').value;
  by('manual').value = '';
  submit(code);
});
for (const input of document.querySelectorAll('input[name="direction"]')) {
  // The same code in the other direction is another scan.
  input.addEventListener('change', () => inView.clear());
}
addEventListener('hashchange', useHanded);
document.addEventListener('visibilitychange', () => document.hidden || camera.stayAwake());
addEventListener('online', () => sender.kick({ now: true }));
setInterval(() => drawState(sender.state), STATE_MS);

language.apply();
await useHanded();
sender.kick();
navigator.serviceWorker?.register('/scan/worker.js', { scope: '/scan' }).catch(() => {});
