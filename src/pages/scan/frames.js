// The last resort: pictures to the gateway, one at a time. Nothing of them is kept, here or there.

import { retryAfterMs } from './sender.js';

const BYTES_MAX = 256 * 1024;
const TIMEOUT_MS = 10_000;

// A JPEG within the gateway's limit.
async function jpeg(canvas) {
  for (const quality of [0.8, 0.6, 0.4, 0.2]) {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/jpeg', quality));
    if (blob && blob.size <= BYTES_MAX) return blob;
  }
  return null;
}

// Sends one picture. Gives { answers } with a verdict a code, none if there was no code; { pauseMs } where the
// gateway asks to wait; { failure } where it wasn't reached ("offline"), refuses the token ("token") or reads no
// pictures ("off").
export async function send(canvas, { id, at, direction, token }) {
  const body = await jpeg(canvas);
  if (body === null) return { answers: [] };
  let response, text;
  try {
    response = await fetch(`/v1/frames?${new URLSearchParams({ id, at, direction })}`, {
      method: 'POST',
      cache: 'no-store',
      credentials: 'omit',
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'image/jpeg' },
      body,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    text = await response.text();
  } catch {
    return { failure: 'offline' };
  }
  switch (response.status) {
    case 200:
      return { answers: text.trimEnd().split('\n').map((line) => JSON.parse(line)) };
    case 422:
    case 400:
    case 413:
      return { answers: [] };
    case 401:
    case 403:
      return { failure: 'token' };
    case 404:
      return { failure: 'off' };
    case 429:
    case 503:
      return { pauseMs: retryAfterMs(response) };
    default:
      return { failure: 'offline' };
  }
}
