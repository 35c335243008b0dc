// What a camera sees of a printed code: tilted, unevenly lit, a little out of focus, noisy, and away now and then.

import { readFile, writeFile } from 'node:fs/promises';

const FRAMES = 40;
// The frames without the code, at the beginning of each turn.
const EMPTY = 6;

// Draws the code of a PNG file into a Motion JPEG file, which Chromium's fake camera plays in a loop.
export async function film(browser, png, file) {
  const page = await browser.newPage();
  const source = `data:image/png;base64,${(await readFile(png)).toString('base64')}`;
  const frames = await page.evaluate(draw, { source, count: FRAMES, empty: EMPTY });
  await page.close();
  await writeFile(file, Buffer.concat(frames.map((frame) => Buffer.from(frame, 'base64'))));
}

// Runs in the page.
async function draw({ source, count, empty }) {
  const code = new Image();
  code.src = source;
  await code.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [640, 480];
  const context = canvas.getContext('2d');
  let seed = 1;
  const random = () => (seed = (seed * 48_271) % 2_147_483_647) / 2_147_483_647;
  const frames = [];
  for (let index = 0; index < count; index += 1) {
    context.resetTransform();
    context.filter = 'none';
    const light = context.createLinearGradient(0, 0, 640, 480);
    light.addColorStop(0, '#8d8a80');
    light.addColorStop(1, '#4b4944');
    context.fillStyle = light;
    context.fillRect(0, 0, 640, 480);
    if (index >= empty) {
      const sway = Math.sin((index / count) * 2 * Math.PI);
      context.translate(320 + 25 * sway, 240 + 12 * sway);
      context.rotate(0.12 + 0.05 * sway);
      context.transform(1, 0.04, -0.06, 1, 0, 0);
      context.filter = 'blur(0.7px) brightness(0.85) contrast(0.8)';
      context.drawImage(code, -170, -170, 340, 340);
    }
    context.resetTransform();
    const picture = context.getImageData(0, 0, 640, 480);
    for (let at = 0; at < picture.data.length; at += 4) {
      const noise = (random() - 0.5) * 28;
      for (let channel = 0; channel < 3; channel += 1) picture.data[at + channel] += noise;
    }
    context.putImageData(picture, 0, 0);
    frames.push(canvas.toDataURL('image/jpeg', 0.85).split(',')[1]);
  }
  return frames;
}
