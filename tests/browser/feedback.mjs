// The form of feedback and the officers' queue, on the services' listener.

import assert from 'node:assert/strict';
import { join } from 'node:path';

import { broken, picture, tabOrder, visit } from './browser.mjs';

const WAIT = { timeout: 20_000 };

const send = (gateway, id, text) =>
  fetch(`${gateway.servicesOrigin}/v1/feedback`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ id, category: 'suggestion', language: 'vi', text }),
  });

let officer;
async function token(gateway) {
  officer ??= await gateway.command('keys', 'admin', 'officer', '--scope', 'services');
  await fetch(`${gateway.adminOrigin}/v1/reload`, { method: 'POST' });
  return officer;
}

async function enter(page, gateway) {
  await page.goto(`${gateway.servicesOrigin}/feedback`);
  await page.fill('#token', await token(gateway));
  await page.press('#token', 'Enter');
  await page.waitForSelector('#queue:not([hidden])', WAIT);
}

const told = (page, text) =>
  page.waitForFunction((text) => document.getElementById('notice').textContent.includes(text), text, WAIT);

export const CASES = {
  async 'sent with a photo, answered, and read by its receipt'({ browser, gateway, folder }) {
    const { context, page, abroad, errors } = await visit(browser, gateway.servicesOrigin);
    await page.goto(`${gateway.servicesOrigin}/feedback/new`);
    await page.selectOption('#category', 'place_problem');
    await page.fill('#text', 'Mã ở cổng sau chợ bị mờ, quét nhiều lần không được.\nGọi tôi theo số 0123 232 422.');
    await page.fill('#place', 'https://qr.pccovid.gov.vn/Xa3bK9pQ');
    await page.setInputFiles('#photo', join(folder, 'code.png'));
    await picture(page, folder, 'feedback-form', { all: true });
    await page.click('#send');
    await page.waitForSelector('#sent:not([hidden])', WAIT);
    assert.equal(await page.evaluate(() => document.activeElement.id), 'sent');
    assert.deepEqual(await broken(page), []);
    const receipt = await page.textContent('#receipt');
    assert.match(receipt, /^[0-9a-f]{32}$/);
    await picture(page, folder, 'feedback-sent');

    const { context: office, page: desk, abroad: away, errors: wrong } = await visit(browser, gateway.servicesOrigin);
    await enter(desk, gateway);
    await desk.click('#items button:has-text("cổng sau")');
    await desk.waitForSelector('#piece:not([hidden])', WAIT);
    assert.match(await desk.textContent('#text'), /số \*{4} \*{3} \*{3}\.$/);
    await desk.click('#show-photo');
    await desk.waitForFunction(() => document.getElementById('photo').naturalWidth > 100, null, WAIT);
    await desk.click('[data-to="triaged"]');
    await told(desk, 'Đã chuyển sang: Đang xử lý');
    await desk.fill('#answer', 'Cảm ơn bạn. Mã mới đã được dán ở cổng sau.');
    await desk.click('#show-photo');
    await desk.waitForFunction(() => document.getElementById('photo').naturalWidth > 100, null, WAIT);
    await send(gateway, 'another', 'Nên có thêm lối ra dành cho người cao tuổi.');
    await desk.selectOption('#state', '');
    await told(desk, 'Đã tải');
    await picture(desk, folder, 'feedback-queue', { all: true });
    assert.deepEqual(await broken(desk), []);
    await desk.click('#answering button');
    await told(desk, 'Đã chuyển sang: Đã trả lời');
    await desk.click('[data-to="closed"]');
    await told(desk, 'Đã chuyển sang: Đã đóng');
    assert.equal(await desk.textContent('#answer-text'), 'Cảm ơn bạn. Mã mới đã được dán ở cổng sau.');
    // A tab that is opened again still has the token, another browser profile never had it.
    await desk.reload();
    await desk.waitForSelector('#queue:not([hidden])', WAIT);
    assert.equal(await desk.evaluate(() => JSON.stringify({ ...localStorage }).includes(sessionStorage.getItem('scangate.officer'))), false);
    await desk.click('#leave');
    assert.equal(await desk.evaluate(() => sessionStorage.length), 0);

    await page.fill('#secret', receipt);
    await page.press('#secret', 'Enter');
    await page.waitForSelector('#answer:not([hidden])', WAIT);
    assert.equal(await page.textContent('#answer'), 'Cảm ơn bạn. Mã mới đã được dán ở cổng sau.');
    assert.match(await page.textContent('#progress'), /Đã đóng/);
    assert.deepEqual(await broken(page), []);
    assert.deepEqual([abroad, errors, away, wrong], [[], [], [], []]);
    await office.close();
    await context.close();
  },

  async 'a wrong token, a lost race and a lost connection are told'({ browser, gateway }) {
    const { context, page } = await visit(browser, gateway.servicesOrigin, { locale: 'en-GB' });
    await page.goto(`${gateway.servicesOrigin}/feedback`);
    await page.fill('#token', 'nonsense');
    await page.press('#token', 'Enter');
    await told(page, 'may not do this');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'token');
    const { id } = await (await send(gateway, 'race', 'Hai cán bộ cùng mở một phản ánh.')).json();
    await enter(page, gateway);
    await page.click(`[data-id="${id}"]`);
    await page.waitForSelector('[data-to="triaged"]', WAIT);
    const taken = await fetch(`${gateway.servicesOrigin}/v1/feedback/${id}/state`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${officer}` },
      body: JSON.stringify({ to: 'rejected', revision: 0 }),
    });
    assert.equal(taken.status, 200);
    await page.click('[data-to="triaged"]');
    await told(page, 'Somebody else changed this');
    assert.match(await page.textContent('#piece-title'), /Rejected as spam/);
    await context.setOffline(true);
    await page.selectOption('#state', 'closed');
    await told(page, 'can’t be reached');
    await context.close();
  },

  async 'keyboard, both languages, accessible'({ browser, gateway }) {
    await send(gateway, 'keyboard', 'Phản ánh để thử bàn phím.');
    const { context, page, abroad, errors } = await visit(browser, gateway.servicesOrigin);
    await page.goto(`${gateway.servicesOrigin}/feedback/new`);
    const both = async (page) => {
      for (const language of ['vi', 'en']) {
        for (const colorScheme of ['light', 'dark']) {
          await page.click(`[data-language="${language}"]`);
          await page.emulateMedia({ colorScheme });
          assert.deepEqual(await broken(page), [], `${language}, ${colorScheme}`);
        }
      }
    };
    await both(page);
    const form = ['skip', 'vi', 'en', 'category', 'text', 'place', 'photo', 'send', 'secret', 'button'];
    assert.deepEqual(await tabOrder(page), form);
    await page.goto(`${gateway.servicesOrigin}/feedback`);
    await both(page);
    assert.deepEqual(await tabOrder(page), ['skip', 'a', 'vi', 'en', 'token', 'primary']);
    await enter(page, gateway);
    // The first piece, opened and read without a mouse.
    await page.focus('#state');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.waitForSelector('#piece:not([hidden])', WAIT);
    assert.equal(await page.evaluate(() => document.activeElement.id), 'piece');
    await both(page);
    assert.deepEqual([abroad, errors], [[], []]);
    await context.close();
  },
};
