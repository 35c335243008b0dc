// Headless Chromium as the cases need it, and what they all check.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(join(process.env.SCANGATE_BROWSER_TOOLS, 'node_modules', 'index.js'));
const { chromium } = require('playwright-core');
const AXE = await readFile(require.resolve('axe-core/axe.min.js'), 'utf8');

export const INSECURE_HOST = 'gate.test';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
  // A name that the browser doesn't take for this machine, so that its pages aren't secure.
  `--host-resolver-rules=MAP ${INSECURE_HOST} 127.0.0.1`,
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
];

export function launch(film) {
  const camera = film ? [`--use-file-for-fake-video-capture=${film}`] : [];
  return chromium.launch({
    executablePath: process.env.SCANGATE_CHROMIUM ?? '/usr/bin/chromium',
    args: [...FLAGS, ...camera],
  });
}

// A browser profile that notes what leaves the origin and what the console complains of.
export async function visit(browser, origin, options = {}) {
  const context = await browser.newContext({ locale: 'vi-VN', permissions: ['camera'], ...options });
  const abroad = [];
  context.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${origin}/`) && !url.startsWith('data:') && !url.startsWith('blob:')) abroad.push(url);
  });
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => {
    // A policy that is broken is told here and nowhere else. Answers that are no success are the cases' own, and one
    // header means nothing without HTTPS.
    const expected = /^(Failed to load resource|The Cross-Origin-Opener-Policy header has been ignored)/;
    if (message.type() === 'error' && !expected.test(message.text())) errors.push(message.text());
  });
  return { context, page, abroad, errors };
}

// The rules that axe finds broken, as "rule: element".
export async function broken(page) {
  // By the protocol, since the page's policy lets no script in.
  const client = await page.context().newCDPSession(page);
  await client.send('Runtime.evaluate', { expression: AXE });
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ['violations'] }));
  await client.detach();
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target }) => `${id}: ${target}`));
}

// What Tab reaches on a page just opened, in order: ids, or what the element says.
export async function tabOrder(page) {
  await page.reload();
  await page.waitForFunction(() => document.title !== 'scangate');
  // The status page's tables stand there from its first figures on.
  await page.waitForTimeout(500);
  const order = [];
  for (;;) {
    await page.keyboard.press('Tab');
    const name = await page.evaluate(() => {
      const element = document.activeElement;
      if (!element || element === document.body) return null;
      const { id, name, dataset, className, localName } = element;
      return id || name || dataset.language || element.getAttribute('aria-labelledby') || className || localName;
    });
    if (name === null || name === order[0] || order.length > 40) return order;
    order.push(name);
  }
}

// A phone in the dark and a desktop in the light, or all four of them.
export async function picture(page, folder, name, { all = false } = {}) {
  for (const [size, width, height, schemes] of [['phone', 390, 844, ['dark', 'light']], ['desktop', 1280, 900, ['light', 'dark']]]) {
    for (const colorScheme of all ? schemes : schemes.slice(0, 1)) {
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      const { scrollWidth, clientWidth } = await page.evaluate(() => {
        const { scrollWidth, clientWidth } = document.documentElement;
        return { scrollWidth, clientWidth };
      });
      if (scrollWidth > clientWidth) throw new Error(`${name} is ${scrollWidth} wide on ${size}, of ${clientWidth}`);
      await page.screenshot({ path: join(folder, `${name}-${size}-${colorScheme}.png`), fullPage: true });
    }
  }
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: null });
}
