// Scans that the gateway hasn't answered yet, in IndexedDB, so that they outlive a reload, a crash and a dead
// battery. In order of scanning; each goes when it is answered. What is full refuses the newest: an earlier scan is
// never given up for a later one.

export const QUEUE_MAX = 10_000;

const NAME = 'scangate';
const STORE = 'scans';

export class QueueFull extends Error {}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function done(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

let opened = null;

async function database() {
  opened ??= (() => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: 'n', autoIncrement: true });
    return settled(request);
  })();
  try {
    return await opened;
  } catch (error) {
    opened = null;
    throw error;
  }
}

// `scan`: { id, qr, at, direction, device }. Resolves when it is on disk.
export async function add(scan) {
  const transaction = (await database()).transaction(STORE, 'readwrite', { durability: 'strict' });
  const store = transaction.objectStore(STORE);
  const finished = done(transaction);
  finished.catch(() => {}); // Awaited below, unless the queue is full.
  if ((await settled(store.count())) >= QUEUE_MAX) throw new QueueFull();
  await settled(store.add(scan));
  await finished;
}

// The oldest scans: up to `count`, and up to `charsMax` of payload, but at least one.
export async function oldest(count, charsMax) {
  const store = (await database()).transaction(STORE).objectStore(STORE);
  const scans = await settled(store.getAll(null, count));
  let chars = 0;
  const tooMany = scans.findIndex((scan) => (chars += scan.qr.length) > charsMax);
  return tooMany < 0 ? scans : scans.slice(0, Math.max(tooMany, 1));
}

export async function remove(scans) {
  const transaction = (await database()).transaction(STORE, 'readwrite', { durability: 'strict' });
  for (const scan of scans) transaction.objectStore(STORE).delete(scan.n);
  await done(transaction);
}

export async function count() {
  return settled((await database()).transaction(STORE).objectStore(STORE).count());
}

export async function clear() {
  const transaction = (await database()).transaction(STORE, 'readwrite', { durability: 'strict' });
  transaction.objectStore(STORE).clear();
  await done(transaction);
}
