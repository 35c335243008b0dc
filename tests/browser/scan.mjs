// The scanner page, from the camera to the row in the store.

import assert from 'node:assert/strict';

import { broken, INSECURE_HOST, picture, tabOrder, visit } from './browser.mjs';

const VERDICT_MS = 20_000;

const scanPage = (gateway, token) => `${gateway.publicOrigin}/scan${token ? `#token=${token}` : ''}`;
const kind = (page, wanted) => page.waitForSelector(`#verdict[data-kind="${wanted}"]`, { timeout: VERDICT_MS });
const type = async (page, code) => {
  await page.fill('#manual', code);
  await page.press('#manual', 'Enter');
};

// Scans that wait in the browser.
const waiting = (page) =>
  page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const opening = indexedDB.open('scangate');
        opening.onerror = () => reject(opening.error);
        opening.onsuccess = () => {
          const asked = opening.result.transaction('scans').objectStore('scans').getAll();
          asked.onsuccess = () => (opening.result.close(), resolve(asked.result));
        };
      }),
  );

const emptied = async (page, ms = VERDICT_MS) => {
  const deadline = Date.now() + ms;
  while ((await waiting(page)).length > 0) {
    assert.ok(Date.now() < deadline, 'the queue was not sent');
    await page.waitForTimeout(50);
  }
};

// Service worker in charge, so that the page opens offline.
const kept = (page) => page.evaluate(() => navigator.serviceWorker.ready.then(() => true));

const posts = (context, path) => {
  const found = [];
  context.on('request', (request) => {
    if (request.method() === 'POST' && new URL(request.url()).pathname === path) found.push(request);
  });
  return found;
};

export const CASES = {
  async 'camera, read on the device, recorded, one row in the store'({ browser, gateway, folder }) {
    const { context, page, abroad, errors } = await visit(browser, gateway.publicOrigin);
    const sent = posts(context, '/v1/checkins');
    const frames = posts(context, '/v1/frames');
    await page.goto(scanPage(gateway, await gateway.token('camera')));
    await page.waitForSelector('#scanner:not([hidden])');
    assert.equal(page.url(), `${gateway.publicOrigin}/scan`, 'the token stays in the address');
    const before = Date.now();
    await page.click('#camera');
    await kind(page, 'recorded');
    assert.equal(await page.textContent('#verdict-title'), 'Đã ghi nhận: vào');
    assert.match(await page.textContent('#verdict-other'), /^Recorded: in/);
    await picture(page, folder, 'scan-recorded', { all: true });
    assert.match(await page.textContent('#state-reader'), /ZXing/);
    // The film goes round again: the code stays in view and counts once.
    await page.waitForTimeout(2_500);
    assert.deepEqual([sent.length, frames.length], [1, 0]);
    assert.equal((await sent[0].response()).status(), 201);
    assert.deepEqual(await waiting(page), []);
    const rows = (await gateway.rows()).filter(({ at }) => Date.parse(at) >= before);
    assert.deepEqual(rows.map(({ direction }) => direction), ['in']);
    assert.deepEqual([abroad, errors], [[], []]);
    await context.close();
  },

  async 'camera, read by the gateway from frames'({ browser, gateway }) {
    const { context, page, abroad } = await visit(browser, gateway.publicOrigin, { serviceWorkers: 'block' });
    await context.route('**/*.wasm', (route) => route.abort());
    const sent = posts(context, '/v1/checkins');
    const frames = posts(context, '/v1/frames');
    await page.goto(scanPage(gateway, await gateway.token('frames')));
    await page.check('input[value="out"]', { force: true });
    const before = Date.now();
    await page.click('#camera');
    await kind(page, 'recorded');
    assert.equal(await page.textContent('#verdict-title'), 'Đã ghi nhận: ra');
    assert.match(await page.textContent('#state-reader'), /gửi ảnh/);
    assert.equal(sent.length, 0);
    for (const frame of frames) assert.ok(frame.postDataBuffer().length <= 256 * 1024);
    assert.ok(frames.length > 0);
    const rows = (await gateway.rows()).filter(({ at }) => Date.parse(at) >= before);
    assert.deepEqual(rows.map(({ direction }) => direction), ['out']);
    assert.deepEqual(abroad, []);
    await context.close();
  },

  // Chromium on Linux has no BarcodeDetector: the interface is given here, with the same decoder behind it.
  async 'camera, read by a BarcodeDetector where the browser has one'({ browser, gateway }) {
    const { context, page, errors } = await visit(browser, gateway.publicOrigin);
    await context.addInitScript(() => {
      window.BarcodeDetector = class {
        static async getSupportedFormats() {
          return ['qr_code'];
        }

        async detect(canvas) {
          const { prepareZXingModule, readBarcodes } = await import('/scan/zxing/reader/index.js');
          prepareZXingModule({ overrides: { locateFile: () => '/scan/zxing/zxing_reader.wasm' } });
          const picture = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          const codes = await readBarcodes(picture, { formats: ['QRCode'] });
          return codes.map((code) => ({ rawValue: code.text }));
        }
      };
    });
    await page.goto(scanPage(gateway, await gateway.token('detector')));
    await page.click('#camera');
    await kind(page, 'recorded');
    assert.match(await page.textContent('#state-reader'), /trình duyệt/);
    assert.deepEqual(errors, []);
    await context.close();
  },

  async 'offline: queued, kept over a reload, recorded once with its own time'({ browser, gateway, folder, code }) {
    const { context, page, abroad } = await visit(browser, gateway.publicOrigin);
    await page.goto(scanPage(gateway, await gateway.token('offline')));
    await kept(page);
    const before = (await gateway.rows()).length;
    await gateway.down();
    await type(page, code);
    await kind(page, 'queued');
    await picture(page, folder, 'scan-queued');
    const [scan] = await waiting(page);
    await page.reload();
    await page.waitForSelector('#scanner:not([hidden])');
    assert.match(await page.textContent('#state-waiting'), /1 lượt/);
    assert.deepEqual(await waiting(page), [scan]);
    await page.waitForTimeout(1_500);
    await gateway.up();
    await emptied(page, 40_000);
    const rows = await gateway.rows();
    assert.equal(rows.length, before + 1);
    assert.equal(rows.filter(({ at }) => Date.parse(at) === Date.parse(scan.at)).length, 1);
    assert.deepEqual(abroad, []);
    await context.close();
  },

  async 'an answer that was lost: sent again under the same id, recorded once'({ browser, gateway, code }) {
    const { context, page } = await visit(browser, gateway.publicOrigin);
    await page.goto(scanPage(gateway, await gateway.token('lost')));
    const before = (await gateway.rows()).length;
    let lost = 0;
    await context.route('**/v1/checkins', async (route) => {
      if (lost > 0) return route.continue();
      lost += 1;
      await route.fetch();
      return route.abort('connectionreset');
    });
    const sent = posts(context, '/v1/checkins');
    await type(page, code);
    await kind(page, 'queued');
    await emptied(page);
    assert.equal(sent.length, 2);
    assert.equal(sent[0].postDataJSON().id, sent[1].postDataJSON().id);
    assert.equal((await sent[1].response()).status(), 200);
    assert.equal((await gateway.rows()).length, before + 1);
    await context.close();
  },

  async 'a token that is refused: the scan stays, and goes with a new one of the same place only'({ browser, gateway, code, folder, stranger }) {
    const { context, page, errors } = await visit(browser, gateway.publicOrigin);
    await page.goto(scanPage(gateway));
    await picture(page, folder, 'scan-setup');
    await page.fill('#token', 'no token');
    await page.press('#token', 'Enter');
    await page.waitForSelector('#notice:not([hidden])');
    await page.fill('#token', stranger);
    await page.press('#token', 'Enter');
    await page.waitForSelector('#scanner:not([hidden])');
    await type(page, code);
    await page.waitForSelector('#setup:not([hidden])');
    assert.equal(await page.textContent('#verdict-title'), 'Mã truy cập không được chấp nhận');
    assert.equal((await waiting(page)).length, 1);
    await page.fill('#token', await gateway.token('elsewhere'));
    await page.press('#token', 'Enter');
    await page.waitForFunction(() => document.getElementById('notice').textContent.includes('máy trước'));
    assert.equal((await waiting(page)).length, 1);
    await page.fill('#token', await gateway.token('renewed'));
    await page.press('#token', 'Enter');
    await emptied(page);
    await kind(page, 'recorded');
    assert.deepEqual(errors, []);
    await context.close();
  },

  async 'a full queue: the newest is refused aloud, and 10,000 scans go in batches'({ browser, gateway, code }) {
    const { context, page } = await visit(browser, gateway.publicOrigin);
    await page.goto(scanPage(gateway, await gateway.token('queue')));
    await kept(page);
    await context.setOffline(true);
    await type(page, code);
    await kind(page, 'queued');
    // One scan every 17 seconds of two days: what a gate gathers behind a broken line.
    await page.evaluate((count) => {
      return new Promise((resolve, reject) => {
        const opening = indexedDB.open('scangate');
        opening.onsuccess = () => {
          const transaction = opening.result.transaction('scans', 'readwrite');
          const store = transaction.objectStore('scans');
          store.getAll().onsuccess = ({ target }) => {
            const { n: _, ...scan } = target.result[0];
            for (let index = 1; index < count; index += 1) {
              const at = new Date(Date.parse(scan.at) - index * 17_000).toISOString();
              store.add({ ...scan, id: crypto.randomUUID(), at });
            }
          };
          transaction.oncomplete = () => (opening.result.close(), resolve());
          transaction.onabort = () => reject(transaction.error);
        };
      });
    }, 10_000);
    const batches = posts(context, '/v1/checkins');
    await type(page, code);
    await page.waitForFunction(() => document.getElementById('verdict-title').textContent === 'Hàng đợi đã đầy');
    assert.match(await page.textContent('#verdict-detail'), /10\.000 lượt chờ gửi/);
    const stored = await waiting(page);
    assert.equal(stored.length, 10_000);
    await context.setOffline(false);
    await emptied(page, 40_000);
    const ids = new Set();
    for (const batch of batches) {
      const response = await batch.response();
      if (response === null) continue;
      for (const line of (await response.text()).trimEnd().split('\n').map((text) => JSON.parse(text))) {
        assert.ok(line.status === 200 || line.status === 201, JSON.stringify(line));
        ids.add(line.id);
      }
    }
    assert.deepEqual(ids, new Set(stored.map(({ id }) => id)));
    await context.close();
  },

  async 'a gateway with narrow bounds: batches are halved, Retry-After is kept'({ browser, narrow }) {
    const { context, page } = await visit(browser, narrow.publicOrigin);
    await page.goto(scanPage(narrow, await narrow.token('hn-0001')));
    await kept(page);
    const code = await narrow.code();
    await context.setOffline(true);
    for (const way of ['in', 'out', 'in', 'out', 'in']) {
      await page.check(`input[value="${way}"]`, { force: true });
      await type(page, code);
      await page.waitForTimeout(20);
    }
    await kind(page, 'queued');
    const sent = posts(context, '/v1/checkins');
    await context.setOffline(false);
    await emptied(page, 40_000);
    const answers = await Promise.all(sent.map((request) => request.response()));
    const statuses = answers.filter(Boolean).map((response) => response.status());
    assert.ok(statuses.includes(429), `${statuses}`);
    assert.ok(statuses.some((status) => status === 400 || status === 413), `${statuses}`);
    for (const [index, response] of answers.entries()) {
      if (response?.status() !== 429 || !answers[index + 1]) continue;
      const asked = Number(response.headers()['retry-after']) * 1000;
      const waited = sent[index + 1].timing().startTime - sent[index].timing().startTime;
      assert.ok(waited >= asked, `waited ${waited} of ${asked} ms`);
    }
    assert.equal((await narrow.rows()).length, 2);
    await context.close();
  },

  async 'without HTTPS: says why there is no camera, and takes typed codes'({ browser, gateway, code }) {
    const origin = gateway.publicOrigin.replace('localhost', INSECURE_HOST);
    const { context, page, errors } = await visit(browser, origin, { permissions: [] });
    await page.goto(`${origin}/scan#token=${await gateway.token('insecure')}`);
    await page.click('#camera');
    await page.waitForFunction(() => document.getElementById('notice').textContent.includes('HTTPS'));
    await type(page, code);
    await kind(page, 'recorded');
    assert.deepEqual(errors, []);
    await context.close();
  },

  async 'a link with a token: of another place only after a question'({ browser, gateway }) {
    const { context, page } = await visit(browser, gateway.publicOrigin);
    const token = await gateway.token('asked');
    const asked = [];
    page.on('dialog', (dialog) => (asked.push(dialog.message()), dialog.dismiss()));
    await page.goto(scanPage(gateway, token));
    await page.waitForSelector('#scanner:not([hidden])');
    const handed = async (place) => {
      await page.goto(scanPage(gateway, await gateway.token(place)));
      await page.waitForFunction(() => location.hash === '');
      return page.evaluate(() => localStorage.getItem('scangate.token'));
    };
    assert.equal(await handed('elsewhere'), token);
    assert.notEqual(await handed('asked'), token);
    assert.deepEqual(asked.length, 1);
    assert.match(asked[0], /elsewhere/);
    await context.close();
  },

  async 'keyboard, both languages, accessible'({ browser, gateway, folder }) {
    const { context, page, abroad, errors } = await visit(browser, gateway.publicOrigin);
    await page.goto(scanPage(gateway));
    for (const language of ['vi', 'en']) {
      await page.click(`[data-language="${language}"]`);
      assert.deepEqual(await broken(page), [], `setup, ${language}`);
    }
    // By keyboard alone, from the top: past the link and the languages to the token.
    assert.deepEqual(await tabOrder(page), ['skip', 'vi', 'en', 'token', 'primary']);
    await page.focus('#token');
    await page.keyboard.insertText(await gateway.token('keys'));
    await page.keyboard.press('Enter');
    await page.waitForSelector('#scanner:not([hidden])');
    assert.deepEqual(await tabOrder(page), ['skip', 'vi', 'en', 'camera', 'direction', 'manual', 'button', 'summary']);
    await page.focus('#manual');
    await page.keyboard.type('no code of ours');
    await page.keyboard.press('Enter');
    await kind(page, 'refused');
    assert.equal(await page.textContent('#verdict-title'), 'Not accepted');
    assert.equal(await page.textContent('#verdict-detail'), 'The code is of no supported kind.');
    assert.match(await page.textContent('#verdict-other'), /Mã không thuộc loại nào được hỗ trợ/);
    await page.click('summary');
    for (const language of ['vi', 'en']) {
      for (const colorScheme of ['light', 'dark']) {
        await page.click(`[data-language="${language}"]`);
        await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
        assert.deepEqual(await broken(page), [], `${language}, ${colorScheme}`);
      }
    }
    await picture(page, folder, 'scan-refused');
    assert.equal(await page.getAttribute('html', 'lang'), 'en');
    await page.reload();
    assert.equal(await page.textContent('h1'), 'Scan check-ins');
    // Forgetting leaves nothing behind.
    page.on('dialog', (dialog) => dialog.accept());
    await page.click('summary');
    await page.click('#forget');
    await page.waitForSelector('#setup:not([hidden])');
    assert.equal(await page.evaluate(() => localStorage.getItem('scangate.token')), null);
    assert.deepEqual([abroad, errors], [[], []]);
    await context.close();
  },
};
