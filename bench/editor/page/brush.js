// Painting on a map: size x size values from 0 to 255 in a Float32Array, rows first.

// How much a round brush covers at a distance from its middle: 1 inside, 0 outside, smooth over the soft edge (a share
// of the radius) or over one pixel, whichever is wider.
export function coverage(distance, radius, soft) {
  const band = Math.max(1, soft * radius);
  const t = Math.min(1, Math.max(0, (radius + 0.5 - distance) / band));
  return t * t * (3 - 2 * t);
}

// One stroke. It keeps how far it has covered each pixel, so that going over a place twice changes nothing more.
export class Stroke {
  constructor(values, size, { radius, soft, strength, remove }) {
    Object.assign(this, { values, size, radius, soft, strength, remove });
    this.before = values.slice();
    this.covered = new Float32Array(values.length);
  }

  // Paint from one point to another, in pixels of the map.
  line(x0, y0, x1, y1) {
    const { size, radius } = this;
    const reach = radius + 1;
    const left = Math.max(0, Math.floor(Math.min(x0, x1) - reach));
    const right = Math.min(size - 1, Math.ceil(Math.max(x0, x1) + reach));
    const top = Math.max(0, Math.floor(Math.min(y0, y1) - reach));
    const bottom = Math.min(size - 1, Math.ceil(Math.max(y0, y1) + reach));
    const dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const px = x + 0.5 - x0, py = y + 0.5 - y0;
        const along = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
        this.cover(y * size + x, coverage(Math.hypot(px - along * dx, py - along * dy), radius, this.soft));
      }
    }
  }

  cover(i, amount) {
    if (amount <= this.covered[i]) return;
    this.covered[i] = amount;
    const goal = this.remove ? 0 : 255;
    this.values[i] = this.before[i] + amount * this.strength * (goal - this.before[i]);
  }
}

// The path of a shape: a box between its two points, or the outline through all of them.
export function shapePath({ kind, points }) {
  const path = new Path2D();
  if (kind === "box") {
    const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)];
    path.rect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
  } else {
    points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}

// Return the map with a shape filled in: bytes. A pixel on the outline counts by its share inside.
export function fillShape(values, size, shape, { strength, remove }) {
  const context = new OffscreenCanvas(size, size).getContext("2d", { willReadFrequently: true });
  context.fill(shapePath(shape), "evenodd");
  const { data } = context.getImageData(0, 0, size, size);
  const goal = remove ? 0 : 255;
  return bytesOf(values.map((v, i) => v + data[4 * i + 3] / 255 * strength * (goal - v)));
}

export const bytesOf = (values) => Uint8Array.from(values, Math.round);
export const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
export const same = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);
