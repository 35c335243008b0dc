// A small curve without axes: the figure beside it says what it ends at. For eyes only.

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 240;
const HEIGHT = 48;

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export class Sparkline {
  // `points`: how many values fill its width.
  constructor(points) {
    this.points = points;
    this.element = element('svg', {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: 'none',
      'aria-hidden': 'true',
    });
    this.area = element('polygon', {});
    this.line = element('polyline', {});
    this.element.append(this.area, this.line);
  }

  // The newest value stands at the right end; the scale begins at zero.
  draw(values) {
    const top = Math.max(...values, Number.MIN_VALUE);
    const step = WIDTH / (this.points - 1);
    const left = WIDTH - (values.length - 1) * step;
    const at = (value, index) => `${(left + index * step).toFixed(1)},${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`;
    const line = values.map(at).join(' ');
    this.line.setAttribute('points', line);
    this.area.setAttribute('points', values.length > 1 ? `${left.toFixed(1)},${HEIGHT} ${line} ${WIDTH},${HEIGHT}` : '');
  }
}
