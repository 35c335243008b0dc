// The device's access token: kept in this browser, read for its place and end, never checked here.

import { drop, recall, remember } from './memory.js';

const KEY = 'scangate.token';

export function read() {
  return recall(KEY) ?? '';
}

export function save(token) {
  remember(KEY, token);
}

export function forget() {
  drop(KEY);
}

// What a token says of its device, or null if it is none. `key` is the same for every token that scans for the same
// place or person, so that a renewed token sends what waits.
export function describe(token) {
  try {
    const [, claims, signature] = token.split('.');
    if (!signature) return null;
    const bytes = Uint8Array.from(atob(claims.replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0));
    const { place, person, exp } = JSON.parse(new TextDecoder().decode(bytes));
    if (!place && !person) return null;
    const expires = typeof exp === 'number' ? new Date(exp * 1000) : null;
    return { key: place ? `place:${place}` : `person:${person}`, place: place ?? '', expires };
  } catch {
    return null;
  }
}

// A token handed over in the address (`#token=…`), which is cleaned at once: a fragment never leaves the browser,
// but it would stay in its history and on its screen.
export function fromAddress() {
  if (location.hash.length < 2) return '';
  const token = new URLSearchParams(location.hash.slice(1)).get('token') ?? '';
  if (token) history.replaceState(null, '', location.pathname + location.search);
  return token.trim();
}
