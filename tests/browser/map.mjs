// The risk map, with the figures of a day that was full of people. They come by the API as the page asks for it, so that a
// page can be shown many of them; that the gateway tells them so is `tests/services_risk_map.rs`.

import assert from 'node:assert/strict';

import { broken, picture, tabOrder, visit } from './browser.mjs';

const DAYS = {
  k: 10,
  classes: [10, 100, 500, 2_000, 10_000],
  days: ['2021-11-24', '2021-11-23'].map((day) => ({ day, k: 10, districts: 50, places: 60 })),
};
const MARKED = { '002': 'exposed', '007': 'cluster', 250: 'exposed', 760: 'exposed' };

// Figures for the outlines that the gateway has: every class, some hidden, some marked.
function figures(outlines, day) {
  const features = outlines.features.map((feature, index) => {
    const persons = index % 7 === 3 ? null : [40, 230, 870, 3_140, 21_560][(index + Number(day.slice(-1))) % 5];
    const number = persons === null ? 0 : DAYS.classes.filter((least) => persons >= least).length;
    const level = persons === null ? 'hidden' : (MARKED[feature.id] ?? 'none');
    return { ...feature, properties: { ...feature.properties, persons, class: number, level } };
  });
  return { ...outlines, day, k: 10, features };
}

function placesOf(districts) {
  const features = districts.features.filter(({ properties }) => properties.persons !== null).map((feature, index) => {
    const [lon, lat] = feature.geometry.coordinates[0][0];
    const [east, north] = feature.geometry.coordinates[0][2];
    const properties = { ...feature.properties, place: feature.id.padStart(32, '0'), name: `Chợ số ${index + 1}`, persons: 40, checkins: 70, class: 1 };
    return { type: 'Feature', id: properties.place, geometry: { type: 'Point', coordinates: [(lon + east) / 2, (lat + north) / 2] }, properties };
  });
  return { ...districts, features };
}

// A day without a figure still has its outlines; the services' gateway tells one a minute after its start at the latest.
async function outlines(gateway) {
  for (const deadline = Date.now() + 20_000; Date.now() < deadline; ) {
    const { days } = await (await fetch(`${gateway.servicesOrigin}/v1/map/days`)).json();
    if (days.length > 0) return (await fetch(`${gateway.servicesOrigin}/v1/map/${days[0].day}/districts.geojson`)).json();
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error('the gateway tells no day');
}

async function open(browser, gateway, options) {
  const drawn = await outlines(gateway);
  const visited = await visit(browser, gateway.servicesOrigin, options);
  const { context, page } = visited;
  await context.route('**/v1/map/**', (route) => {
    const [, day, what] = /\/v1\/map\/([^/]+)(?:\/(\w+)\.geojson)?$/.exec(new URL(route.request().url()).pathname);
    if (what === undefined) return route.fulfill({ json: DAYS });
    const districts = figures(drawn, day);
    return route.fulfill({ json: what === 'districts' ? districts : placesOf(districts) });
  });
  await page.goto(`${gateway.servicesOrigin}/map`);
  await page.waitForSelector('#districts tbody tr');
  return visited;
}

export const CASES = {
  async 'table and map tell the same, and a day is chosen'({ browser, gateway, folder }) {
    const { context, page, abroad, errors } = await open(browser, gateway);
    assert.equal(await page.locator('#districts tbody tr').count(), 30);
    assert.equal(await page.locator('path.area').count(), 30);
    const marked = await page.locator('path.area.level-exposed, path.area.level-cluster').count();
    assert.equal(marked, await page.locator('#districts tr.level-exposed, #districts tr.level-cluster').count());
    assert.ok(marked >= 2, `${marked}`);
    assert.match(await page.textContent('#summary'), /24 tháng 11, 2021/);
    await picture(page, folder, 'map', { all: true });
    await page.setViewportSize({ width: 375, height: 667 });
    await page.screenshot({ path: `${folder}/map-375.png`, fullPage: true });
    await page.setViewportSize({ width: 1280, height: 900 });
    const before = await page.textContent('#districts tbody');
    await page.click('#earlier');
    await page.waitForFunction((text) => document.querySelector('#districts tbody').textContent !== text, before);
    assert.ok(await page.isDisabled('#earlier'));
    await page.selectOption('#province', '79');
    assert.equal(await page.locator('path.area').count(), 22);
    await page.click('[data-district="769"]');
    assert.match(await page.textContent('.card-tip'), /Thủ Đức/);
    assert.match(await page.textContent('#places-title'), /Thủ Đức/);
    assert.equal(await page.locator('#places tbody tr').count(), 1);
    await picture(page, folder, 'map-district');
    assert.deepEqual([abroad, errors], [[], []]);
    await context.close();
  },

  async 'keyboard, both languages, accessible'({ browser, gateway }) {
    const { context, page, abroad, errors } = await open(browser, gateway);
    for (const language of ['vi', 'en']) {
      for (const colorScheme of ['light', 'dark']) {
        await page.click(`[data-language="${language}"]`);
        await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
        assert.deepEqual(await broken(page), [], `${language}, ${colorScheme}`);
      }
    }
    const order = await tabOrder(page);
    assert.deepEqual(order.slice(0, 10), ['skip', 'vi', 'en', 'province', 'earlier', 'day', 'in', 'out', 'whole', 'map']);
    const where = () => page.evaluate(() => document.querySelector('.leaflet-map-pane').style.transform);
    const before = await where();
    await page.focus('#map');
    await page.keyboard.press('ArrowRight');
    await page.waitForFunction((was) => document.querySelector('.leaflet-map-pane').style.transform !== was, before);
    await page.focus('[data-district="001"]');
    await page.keyboard.press('Enter');
    assert.equal(await page.getAttribute('[data-district="001"]', 'aria-pressed'), 'true');
    assert.deepEqual([abroad, errors], [[], []]);
    await context.close();
  },

  async 'a gateway that tells nothing yet says so'({ browser, gateway }) {
    const { context, page } = await visit(browser, gateway.servicesOrigin, { locale: 'en-GB' });
    await context.route('**/v1/map/days', (route) => route.fulfill({ json: { ...DAYS, days: [] } }));
    await page.goto(`${gateway.servicesOrigin}/map`);
    await page.waitForFunction(() => document.getElementById('summary').textContent.startsWith('No day is shown yet'));
    assert.deepEqual(await broken(page), []);
    await context.close();
  },
};
