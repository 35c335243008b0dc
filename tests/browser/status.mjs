// The status page.

import assert from 'node:assert/strict';

import { broken, picture, tabOrder, visit } from './browser.mjs';

const STATE_MS = 20_000;

const state = (page, wanted) => page.waitForSelector(`#state[data-state="${wanted}"]`, { timeout: STATE_MS });
const count = async (page, outcome) => {
  const row = page.locator('#outcomes tbody tr', { hasText: outcome });
  return (await row.count()) === 0 ? 0 : Number(await row.locator('td').first().textContent());
};

export const CASES = {
  async 'numbers move with the traffic'({ browser, gateway, code, folder }) {
    const token = await gateway.token('status');
    const { context, page, abroad, errors } = await visit(browser, gateway.adminOrigin);
    await page.goto(`${gateway.adminOrigin}/`);
    await state(page, 'ready');
    const before = await count(page, 'Không nhận dạng được');
    for (let index = 0; index < 30; index += 1) {
      assert.equal(await gateway.scan(token, 'no code of ours'), 422);
      await gateway.scan(token, code, index % 2 ? 'in' : 'out');
    }
    await page.waitForFunction(
      (rate) => Number(document.querySelector('[data-figure="rate"]').textContent.replace(',', '.')) >= rate,
      1,
      { timeout: STATE_MS },
    );
    await page.waitForFunction(
      (text) => [...document.querySelectorAll('#outcomes tbody tr')].some((row) => row.textContent.includes(text)),
      'Không nhận dạng được',
    );
    const deadline = Date.now() + STATE_MS;
    while ((await count(page, 'Không nhận dạng được')) !== before + 30) {
      assert.ok(Date.now() < deadline, `${before} became ${await count(page, 'Không nhận dạng được')}`);
      await page.waitForTimeout(100);
    }
    assert.match(await page.locator('#latency tbody tr').first().textContent(), /ms/);
    assert.match(await page.textContent('#summary'), /lượt quét mỗi giây/);
    await page.waitForTimeout(2_000);
    await picture(page, folder, 'status-ready', { all: true });
    assert.deepEqual([abroad, errors], [[], []]);
    await context.close();
  },

  async 'the language follows the browser and is remembered'({ browser, gateway }) {
    for (const [locale, heading] of [['vi-VN', 'Tình trạng cổng scangate'], ['en-GB', 'scangate gateway status'], ['fr-FR', 'Tình trạng cổng scangate']]) {
      const { context, page } = await visit(browser, gateway.adminOrigin, { locale });
      await page.goto(`${gateway.adminOrigin}/`);
      await state(page, 'ready');
      assert.equal(await page.textContent('h1'), heading, locale);
      if (locale === 'vi-VN') {
        await page.click('[data-language="en"]');
        assert.equal(await page.textContent('h1'), 'scangate gateway status');
        await page.reload();
        await state(page, 'ready');
        assert.equal(await page.getAttribute('html', 'lang'), 'en');
        assert.equal(await page.textContent('#state-title'), 'Ready');
      }
      await context.close();
    }
  },

  async 'a lost connection is told, and mended'({ browser, gateway, folder }) {
    const { context, page } = await visit(browser, gateway.adminOrigin);
    await page.goto(`${gateway.adminOrigin}/`);
    await state(page, 'ready');
    await gateway.down();
    await state(page, 'lost');
    assert.match(await page.textContent('#summary'), /Mất kết nối/);
    assert.deepEqual(await broken(page), []);
    await picture(page, folder, 'status-lost');
    await gateway.up();
    await state(page, 'ready');
    await context.close();
  },

  async 'a gateway that takes nothing says why'({ browser, full, folder }) {
    const { context, page } = await visit(browser, full.adminOrigin);
    await page.goto(`${full.adminOrigin}/`);
    await state(page, 'ready');
    await full.fill();
    await state(page, 'unready');
    await page.waitForFunction(() => document.getElementById('state-detail').textContent === 'Đĩa hoặc nhật ký đã đầy.');
    await picture(page, folder, 'status-unready');
    await context.close();
  },

  async 'keyboard, both languages, accessible'({ browser, gateway, code }) {
    // The gateway may have been started anew; without a scan there is no table of outcomes.
    await gateway.scan(await gateway.token('status'), code);
    const { context, page, abroad, errors } = await visit(browser, gateway.adminOrigin);
    await page.goto(`${gateway.adminOrigin}/`);
    await state(page, 'ready');
    for (const language of ['vi', 'en']) {
      for (const colorScheme of ['light', 'dark']) {
        await page.click(`[data-language="${language}"]`);
        await page.emulateMedia({ colorScheme });
        assert.deepEqual(await broken(page), [], `${language}, ${colorScheme}`);
      }
    }
    assert.deepEqual(await tabOrder(page), ['skip', 'vi', 'en', 'outcomes-title', 'latency-title']);
    assert.deepEqual([abroad, errors], [[], []]);
    await context.close();
  },
};
