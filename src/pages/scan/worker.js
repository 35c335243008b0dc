// The service worker: keeps the scanner's files, so that the page opens without a network. VERSION and FILES stand
// in front, written by the gateway; a new release is a new version, fetched whole before it takes over.

const CACHE = `scangate-scan-${VERSION}`;

self.addEventListener('install', (event) => {
  const requests = FILES.map((path) => new Request(path, { cache: 'no-cache' }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)).then(() => self.skipWaiting()));
});

self.addEventListener('activate', (event) => {
  const isOld = (name) => name.startsWith('scangate-scan-') && name !== CACHE;
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter(isOld).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener('fetch', (event) => {
  const { pathname, origin } = new URL(event.request.url);
  if (event.request.method !== 'GET' || origin !== self.location.origin || !FILES.includes(pathname)) return;
  const kept = caches.open(CACHE).then((cache) => cache.match(pathname));
  event.respondWith(kept.then((response) => response ?? fetch(event.request)));
});
