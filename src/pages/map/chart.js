// The drawing: districts as areas, places as dots. Each says by number and sign what it says by colour.

const { L } = window;

const SIGNS = { hidden: '', none: '', exposed: ' ▲', cluster: ' ■' };
const PLAIN = { weight: 1.5, dashArray: null };
const EDGES = { hidden: { weight: 1, dashArray: '2 4' }, none: PLAIN, exposed: { weight: 4, dashArray: '8 6' }, cluster: { weight: 4, dashArray: null } };
// A label's size in pixels, by its text: near enough to keep labels apart.
const LETTER_WIDTH = 7.6;
const LINE_HEIGHT = 16;
const LABEL_MARGIN = 8;

export class Chart {
  // `describe`: what a feature is called and says, as lines of text.
  constructor(element, describe, chosen) {
    this.describe = describe;
    this.chosen = chosen;
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.map = L.map(element, {
      zoomControl: false,
      attributionControl: false,
      zoomSnap: 0.25,
      zoomDelta: 0.5,
      // Over the page the wheel scrolls the page.
      scrollWheelZoom: false,
      zoomAnimation: !still,
      fadeAnimation: !still,
      inertia: !still,
    });
    this.map.setView([16, 106], 6);
    this.map.on('zoomend', () => this.label());
    new ResizeObserver(() => {
      this.map.invalidateSize({ animate: false });
      this.whole();
    }).observe(element);
    this.areas = new Map();
  }

  draw(districts, places) {
    this.layer?.remove();
    this.dots?.remove();
    this.areas.clear();
    const drawn = (features) => ({ type: 'FeatureCollection', features: features.filter(({ geometry }) => geometry) });
    this.layer = L.geoJSON(drawn(districts), {
      style: ({ properties: { level, class: number } }) => ({ ...EDGES[level], className: `area class-${number} level-${level}`, fillOpacity: 1 }),
      onEachFeature: (feature, area) => {
        this.areas.set(feature.id, area);
        area.bindTooltip(() => this.card(feature), { sticky: true, opacity: 1, className: 'card-tip' });
        area.on('click', () => this.chosen(feature));
      },
    }).addTo(this.map);
    this.dots = L.geoJSON(drawn(places), {
      pointToLayer: ({ properties: { level } }, at) => L.circleMarker(at, { ...PLAIN, radius: level === 'none' ? 4 : 6, className: `dot level-${level}`, fillOpacity: 1 }),
      onEachFeature: (feature, dot) => dot.bindTooltip(() => this.card(feature), { opacity: 1, className: 'card-tip' }),
    }).addTo(this.map);
    // Marked edges lie above plain ones.
    for (const area of this.areas.values()) {
      if (['exposed', 'cluster'].includes(area.feature.properties.level)) area.bringToFront();
    }
    this.dots.bringToFront();
    this.whole();
    this.label();
  }

  card(feature) {
    const card = document.createElement('div');
    for (const line of this.describe(feature)) {
      const text = document.createElement('p');
      text.textContent = line;
      card.append(text);
    }
    return card;
  }

  whole() {
    for (const area of this.areas.values()) area.closeTooltip();
    const bounds = this.layer?.getBounds();
    if (bounds?.isValid()) this.map.fitBounds(bounds, { animate: false, padding: [4, 4] });
  }

  show(code) {
    const area = this.areas.get(code);
    if (!area) return;
    this.map.fitBounds(area.getBounds(), { maxZoom: 13, padding: [30, 30], animate: false });
    area.openTooltip(area.getBounds().getCenter());
  }

  in() {
    this.map.zoomIn();
  }

  out() {
    this.map.zoomOut();
  }

  // What stands in a district, as far as it has room there: its name and figure, its figure, or its sign. The marked and
  // the large ones choose first, and no label covers another.
  label() {
    this.labels?.remove();
    const wishes = [...this.areas.values()].map((area) => {
      const { feature } = area;
      const [low, high] = ['getSouthWest', 'getNorthEast'].map((corner) => this.map.latLngToLayerPoint(area.getBounds()[corner]()));
      const at = centre(feature);
      return { properties: feature.properties, at, middle: this.map.latLngToLayerPoint(at), width: high.x - low.x, height: low.y - high.y };
    });
    const rank = ({ properties: { level }, width, height }) => (SIGNS[level] ? 1e9 : 0) + width * height;
    const taken = [];
    const labels = [];
    for (const wish of wishes.sort((a, b) => rank(b) - rank(a))) {
      const { name, level } = wish.properties;
      const figure = this.short(wish.properties);
      const lines = [[name, figure], [figure], [SIGNS[level].trim()]].find((lines) => lines.at(-1) && fits(lines, wish, taken));
      if (lines) labels.push(mark(lines, wish.at));
    }
    this.labels = L.layerGroup(labels).addTo(this.map);
  }

  short({ persons, level }) {
    const figure = persons === null ? '–' : `${this.number(persons)}+`;
    return figure + SIGNS[level];
  }

  // Figures of five digits and more in their short form.
  number(value) {
    const compact = value >= 10_000 ? { notation: 'compact', maximumFractionDigits: 1 } : {};
    return new Intl.NumberFormat(document.documentElement.lang, compact).format(value);
  }
}

// Whether a label has room in its district and beside those that are taken, to which it then belongs.
function fits(lines, { middle, width, height }, taken) {
  const [wide, high] = [Math.max(...lines.map((line) => line.length)) * LETTER_WIDTH + LABEL_MARGIN, lines.length * LINE_HEIGHT];
  if (wide > width * 1.1 || high > height) return false;
  const box = { left: middle.x - wide / 2, right: middle.x + wide / 2, top: middle.y - high / 2, bottom: middle.y + high / 2 };
  const apart = (other) => box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom;
  if (!taken.every(apart)) return false;
  taken.push(box);
  return true;
}

function mark(lines, at) {
  const label = document.createElement('div');
  for (const line of lines) {
    const text = document.createElement('span');
    text.textContent = line;
    label.append(text);
  }
  const icon = L.divIcon({ html: label, className: 'label', iconSize: null });
  return L.marker(at, { icon, interactive: false, keyboard: false });
}

// The middle of an outline, weighed by area, so that a label stands inside.
function centre({ geometry }) {
  const [ring] = geometry.coordinates;
  let [area, x, y] = [0, 0, 0];
  for (let at = 1; at < ring.length; at += 1) {
    const [[ax, ay], [bx, by]] = [ring[at - 1], ring[at]];
    const [ox, oy] = ring[0];
    const cross = (ax - ox) * (by - oy) - (bx - ox) * (ay - oy);
    area += cross;
    x += cross * (ax + bx + ox);
    y += cross * (ay + by + oy);
  }
  return [y / (3 * area), x / (3 * area)];
}
