// The pages in headless Chromium, against a gateway of its own. `.ci/browser` installs what it needs and runs it:
//
//   node tests/browser/run.mjs [part of a case's name]

import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';

import { broken, launch, visit } from './browser.mjs';
import { CASES as FEEDBACK } from './feedback.mjs';
import { Gateway } from './gateway.mjs';
import { CASES as SCAN } from './scan.mjs';
import { CASES as STATUS } from './status.mjs';
import { film } from './video.mjs';

// The checks themselves must be able to fail.
const SELF = {
  async 'a page that names no language and leaves its origin is caught'({ browser, gateway }) {
    const { context, page, abroad, errors } = await visit(browser, gateway.publicOrigin);
    await page.goto(`${gateway.publicOrigin}/scan`);
    await page.evaluate(() => {
      document.documentElement.removeAttribute('lang');
      document.querySelector('label[for="token"]').remove();
    });
    const found = await broken(page);
    assert.ok(found.some((one) => one.startsWith('html-has-lang')), `${found}`);
    assert.ok(found.some((one) => one.startsWith('label')), `${found}`);
    // The page's policy stops it, and says so.
    await page.evaluate((origin) => fetch(`${origin}/healthz`).catch(() => {}), gateway.adminOrigin);
    await page.waitForTimeout(100);
    assert.ok(errors.some((error) => error.includes('Content Security Policy')), `${errors}`);
    await page.goto(`${gateway.adminOrigin}/`);
    assert.ok(abroad.length > 0);
    await context.close();
  },
};

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
process.setMaxListeners(0); // One for each start of a gateway.

const folder = resolve('target/browser');
await mkdir(folder, { recursive: true });
const wanted = process.argv[2] ?? '';
const cleanup = [];
let failed = 0;
let passed = 0;

async function started(settings, signal, hasServices) {
  const gateway = await Gateway.start(settings, hasServices);
  cleanup.push(() => gateway.end(signal));
  return gateway;
}

async function runAll(group, cases, world) {
  for (const [name, run] of Object.entries(cases)) {
    if (!`${group}: ${name}`.includes(wanted)) continue;
    const began = Date.now();
    try {
      await run(world);
      passed += 1;
      console.log(`ok    ${group}: ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL  ${group}: ${name}\n${error.stack}`);
      if (world.gateway.process.exitCode !== null) await world.gateway.up();
    }
  }
}

try {
  const free = { LIMITS__DEVICE_SCANS_PER_S: '0', FRAMES__DEVICE_MS_PER_S: '0', FRAMES__PRIORITY: 'low' };
  const [gateway, watched, narrow, full, serving, artist] = await Promise.all([
    started(free),
    started(free),
    started({ LIMITS__DEVICE_SCANS_PER_S: '1', LIMITS__DEVICE_SCANS_BURST: '2', LIMITS__BATCH_LINES_MAX: '2' }),
    // Its journal fills up, since its store can't be reached; a stop in order would wait for the store.
    started(
      {
        STORE__KIND: 'cql',
        CQL__NODES: '["127.0.0.1:1"]',
        LIMITS__DEVICE_SCANS_PER_S: '0',
        DEDUPLICATE__WINDOW_S: '0',
        JOURNAL__LANE_BYTES_MAX: '262144',
        JOURNAL__BATCH_BYTES_MAX: '65536',
        JOURNAL__SEGMENT_BYTES: '393216',
        JOURNAL__BYTES_MAX: '1572864',
      },
      'SIGKILL',
    ),
    started(free, 'SIGTERM', true),
    launch(),
  ]);

  // One person for all, so each case scans at a place of its own.
  const png = join(folder, 'code.png');
  const code = await gateway.code(png);
  const video = join(folder, 'camera.mjpeg');
  await film(artist, png, video);
  await artist.close();
  const browser = await launch(video);
  cleanup.push(() => browser.close());

  // Another installation's token for one of the places.
  const stranger = await narrow.token('renewed');
  const scanner = { browser, gateway, narrow, code, stranger, folder };
  const status = { browser, gateway: watched, full, code: await watched.code(), folder };
  const feedback = { browser, gateway: serving, folder };
  // Most of a case is waiting: the groups do it together.
  await Promise.all([
    runAll('scan', SCAN, scanner),
    runAll('status', STATUS, status),
    runAll('feedback', FEEDBACK, feedback),
  ]);
  await runAll('self-test', SELF, scanner);
} finally {
  for (const end of cleanup.reverse()) await end().catch((error) => console.log(`${error}`));
}
console.log(`browser: ${passed} cases passed, ${failed} failed; pictures in target/browser`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
