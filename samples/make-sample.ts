/**
 * Paints the sample picture: a hayloft at sunset, of 2400x1600, the same bytes for the same seed and
 * the same sharp.
 *
 *     node samples/make-sample.ts [target.jpg]
 *
 * It is the first thing that a new user uploads, so it has what photos have: smooth skies, fine
 * texture, grain. All of it is computed here; nothing is taken from elsewhere.
 */

import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { type Random, seededRandom } from "../base/random.ts";

const width = 2_400;
const height = 1_600;
const horizon = 1_010;
const sun = { x: 1_640, y: 905, radius: 74 };
const random = seededRandom(1888);

type Colour = readonly [r: number, g: number, b: number];

/** Smooth noise in 0 … 1: random values on a grid, blended between its points. */
class Noise {
  readonly #values: Float32Array;

  constructor(source: Random) {
    this.#values = Float32Array.from({ length: 256 * 256 }, () => source.fraction());
  }

  at(x: number, y: number): number {
    const [column, row] = [Math.floor(x), Math.floor(y)];
    const [u, v] = [smooth(x - column), smooth(y - row)];
    const upper = mix(this.#value(column, row), this.#value(column + 1, row), u);
    const lower = mix(this.#value(column, row + 1), this.#value(column + 1, row + 1), u);
    return mix(upper, lower, v);
  }

  /** Several sizes of noise on top of each other, as clouds and fields have. */
  layered(x: number, y: number, layers: number): number {
    let [sum, weight, total] = [0, 1, 0];
    for (let layer = 0; layer < layers; layer++) {
      const scale = 2 ** layer;
      sum += this.at(x * scale + layer * 17, y * scale + layer * 31) * weight;
      total += weight;
      weight *= 0.55;
    }
    return sum / total;
  }

  #value(column: number, row: number): number {
    return this.#values[(row & 255) * 256 + (column & 255)] ?? 0;
  }
}

function smooth(fraction: number): number {
  return fraction * fraction * (3 - 2 * fraction);
}

function mix(from: number, to: number, part: number): number {
  return from + (to - from) * part;
}

function clamp(value: number, min = 0, max = 1): number {
  return Math.min(max, Math.max(min, value));
}

function step(from: number, to: number, value: number): number {
  return smooth(clamp((value - from) / (to - from)));
}

function blend(from: Colour, to: Colour, part: number): Colour {
  return [mix(from[0], to[0], part), mix(from[1], to[1], part), mix(from[2], to[2], part)];
}

/** The colour at `part` of a run of colours that stand at their own places. */
function gradient(stops: readonly (readonly [number, Colour])[], part: number): Colour {
  let before = stops[0];
  for (const stop of stops) {
    if (before !== undefined && part <= stop[0]) {
      const span = stop[0] - before[0] || 1;
      return blend(before[1], stop[1], clamp((part - before[0]) / span));
    }
    before = stop;
  }
  return before?.[1] ?? [0, 0, 0];
}

const clouds = new Noise(random);
const ground = new Noise(random);
const grain = new Noise(random);

const skyStops = [
  [0, [38, 52, 96]],
  [0.3, [86, 84, 136]],
  [0.55, [186, 116, 128]],
  [0.76, [240, 152, 98]],
  [0.92, [255, 196, 112]],
  [1, [255, 214, 140]],
] as const satisfies readonly (readonly [number, Colour])[];

function sky(x: number, y: number): Colour {
  const part = y / horizon;
  let colour = gradient(skyStops, part);
  const distance = Math.hypot(x - sun.x, (y - sun.y) * 1.15);
  colour = blend(colour, [255, 226, 160], 0.75 * Math.exp(-distance / 330));

  // Clouds lie flatter toward the horizon, dark above and lit from below.
  const stretch = 1 + 3.2 * part;
  const shape = clouds.layered(x / 420, (y * stretch) / 330 + 7, 6);
  const below = clouds.layered(x / 420, ((y - 26) * stretch) / 330 + 7, 6);
  const cover = step(0.5, 0.74, shape) * (1 - 0.45 * part);
  const light = clamp((shape - below) * 5 + 0.55 * part + 0.25);
  const shade = blend([84, 68, 106], [255, 178, 120], light);
  colour = blend(colour, shade, 0.82 * cover);

  const disc = step(sun.radius + 5, sun.radius - 5, Math.hypot(x - sun.x, y - sun.y));
  return blend(colour, [255, 244, 206], disc * (1 - 0.4 * cover));
}

/** How high the far hills stand at a column, for each range from the farthest to the nearest. */
const ranges = [
  { base: 950, rise: 150, scale: 520, shift: 3, colour: [176, 122, 128] },
  { base: 985, rise: 120, scale: 380, shift: 40, colour: [132, 90, 98] },
  { base: 1_012, rise: 84, scale: 260, shift: 90, colour: [82, 62, 66] },
] as const;

function field(x: number, y: number): Colour {
  const depth = clamp((y - horizon) / (height - horizon));
  // A field mown in rows that run to a point on the horizon.
  const perspective = (y - horizon + 26) / 90;
  const across = (x - 1_180) / perspective;
  const row = 0.5 + 0.5 * Math.sin(across / 13 + 2.2 * ground.at(across / 60, depth * 9));
  const tuft = ground.layered(across / 9, Math.log(perspective) * 26, 4);
  const blade = grain.layered(x / (2.5 + 7 * depth), y / (7 + 26 * depth), 3);
  const far: Colour = [214, 150, 84];
  const near: Colour = [112, 80, 34];
  let colour = blend(far, near, depth ** 0.8);
  colour = blend(colour, [70, 52, 26], 0.42 * row * (0.3 + 0.7 * depth));
  const lightness = 0.62 + 0.5 * tuft + 0.36 * (blade - 0.5) * (0.3 + depth);
  const glow = Math.exp(-Math.abs(x - sun.x) / 520) * Math.exp(-depth * 2.6);
  colour = [colour[0] * lightness, colour[1] * lightness, colour[2] * lightness];
  return blend(colour, [255, 196, 110], 0.46 * glow);
}

function background(x: number, y: number): Colour {
  let colour = sky(x, y);
  for (const { base, rise, scale, shift, colour: hill } of ranges) {
    const top = base - rise * (clouds.layered(x / scale + shift, shift, 4) - 0.35);
    const leaves = 9 * (grain.at(x / 6, shift) - 0.5);
    const glow = Math.exp(-Math.hypot(x - sun.x, y - sun.y) / 420);
    const lit = blend(hill, [255, 186, 112], 0.62 * glow);
    if (y > top + leaves) colour = blend(lit, [226, 160, 116], 0.35 * step(top, base + 60, y));
  }
  return y > horizon + 8 * (ground.at(x / 90, 5) - 0.5) ? field(x, y) : colour;
}

// The barn, in the picture's own pixels: its gable faces us, its long side runs away to the right,
// toward the sun.
const barn = { left: 330, right: 880, far: 1_290, floor: 1_236, eaves: 850, ridge: 560, knee: 668 };
/** How thick the roof is. */
const rim = 12;
const gable = (barn.left + barn.right) / 2;

/** The height of the gambrel roof's edge over a column of the gable, and on beyond its eaves. */
function roofAt(x: number): number {
  const half = (barn.right - barn.left) / 2;
  const part = Math.abs(x - gable) / half;
  return part < 0.58
    ? mix(barn.ridge, barn.knee, part / 0.58)
    : mix(barn.knee, barn.eaves, (part - 0.58) / 0.42);
}

function planks(x: number, y: number, pitch: number): number {
  const plank = Math.floor(x / pitch);
  const within = x / pitch - plank;
  const gap = step(0, 0.07, within) * step(1, 0.93, within);
  const tone = 0.8 + 0.32 * grain.at(plank * 7.3, 3);
  const fibre = 0.88 + 0.24 * grain.layered(x / 3.1, y / 64 + plank * 5, 3);
  return tone * fibre * mix(0.42, 1, gap);
}

function shade(colour: Colour, light: number): Colour {
  return [colour[0] * light, colour[1] * light, colour[2] * light];
}

const trim: Colour = [216, 190, 166];

function isNear(value: number, target: number, distance: number): boolean {
  return Math.abs(value - target) < distance;
}

/** The gable with its hayloft door, wide open and full of hay; undefined beside it. */
function gableAt(x: number, y: number): Colour | undefined {
  const rise = y - roofAt(x);
  if (rise > -rim && rise <= 0 && y < barn.eaves + 20) {
    return shade([96, 70, 68], 0.8 + 0.3 * grain.at(x / 9, y / 3));
  }
  if (x < barn.left || x > barn.right || y > barn.floor || rise < 0) return undefined;
  if (rise < 17 || x < barn.left + 13 || x > barn.right - 13) {
    return shade(trim, 0.62 + 0.16 * grain.at(x / 5, y / 5));
  }

  const loft = { half: 92, top: 672, sill: 838 };
  const [dx, arch] = [x - gable, 40];
  const top = loft.top + arch * (1 - Math.sqrt(Math.max(0, 1 - (dx / loft.half) ** 2)));
  if (Math.abs(dx) < loft.half && y > top && y < loft.sill) {
    const heap = 760 + 0.004 * dx * dx + 30 * (ground.layered(x / 34, 2, 3) - 0.5);
    const lamp = Math.exp(-Math.hypot(dx, y - 705) / 105);
    if (y < heap) return blend([38, 22, 18], [236, 150, 66], 0.9 * lamp);
    const straw = grain.layered((x + 0.8 * y) / 5, (y - 0.5 * x) / 17, 4);
    return shade(blend([196, 140, 58], [255, 206, 110], lamp), 0.5 + 0.85 * straw);
  }
  if (Math.abs(dx) < loft.half + 15 && y > top - 17 && y < loft.sill + 17) {
    return shade(trim, 0.78 + 0.2 * grain.at(x / 4, y / 4));
  }

  const gate = { half: 140, top: 948 };
  if (Math.abs(dx) < gate.half && y > gate.top) {
    const isFrame =
      isNear(Math.abs(dx), gate.half, 13) || isNear(y, gate.top, 13) || isNear(dx, 0, 9);
    const side = dx < 0 ? dx + gate.half : dx;
    const brace = ((y - gate.top) / (barn.floor - gate.top)) * gate.half;
    const isBrace = isNear(side, brace, 12) || isNear(side, gate.half - brace, 12);
    if (isFrame || isBrace) return shade(trim, 0.68 + 0.2 * grain.at(x / 4, y / 4));
    return shade([120, 40, 32], planks(x, y, 23) * 0.86);
  }

  const sunlit = 0.74 + 0.2 * step(barn.left, barn.right, x);
  return shade([158, 52, 40], planks(x, y, 27) * sunlit);
}

/** The long side and the roof over it, both narrowing with the distance. */
function sideAt(x: number, y: number): Colour | undefined {
  const part = (x - barn.right) / (barn.far - barn.right);
  const narrow = (near: number) => mix(near, 1_010 + (near - 1_010) * 0.7, part);
  if (x >= barn.right && part <= 1 && y > narrow(barn.eaves) && y < narrow(barn.floor)) {
    const along = part / (1.45 - 0.45 * part);
    const window = (along * 5.2) % 1;
    const level = (y - narrow(barn.eaves)) / (narrow(barn.floor) - narrow(barn.eaves));
    if (window > 0.34 && window < 0.68 && level > 0.3 && level < 0.56) {
      const isBar = isNear(window, 0.51, 0.018) || isNear(level, 0.43, 0.012);
      const isEdge = window < 0.37 || window > 0.65 || level < 0.325 || level > 0.535;
      return isBar || isEdge ? shade(trim, 0.96) : blend([255, 190, 104], [150, 84, 66], level);
    }
    const warm = blend([186, 66, 46], [226, 108, 62], part);
    return shade(warm, planks(along * 640, y, 25) * (0.98 + 0.14 * part));
  }

  // The roof is a strip from the gable's edge to the same edge, shrunk, at the far end.
  const shift = barn.far - barn.right + 0.3 * (barn.right - gable);
  for (let away = 0; away <= 1; away += 1 / 256) {
    const size = 1 - 0.3 * away;
    const nearX = gable + (x - gable - shift * away) / size;
    if (nearX < gable || nearX > barn.right + 15) continue;
    const edgeY = 1_010 + (roofAt(nearX) - rim - 1_010) * size;
    if (Math.abs(y - edgeY) > 3.2) continue;
    const isSteep = (nearX - gable) / (barn.right - gable) > 0.58;
    const shingle = 0.78 + 0.4 * grain.layered(away * 130, nearX / 7, 3);
    const rowLine = (nearX / 13) % 1 < 0.16 ? 0.72 : 1;
    const tone: Colour = isSteep ? [150, 104, 88] : [112, 86, 88];
    return shade(blend(tone, [250, 178, 118], 0.26 + 0.16 * away), shingle * rowLine);
  }
  return undefined;
}

/** Rolled bales in the field, each with the light on its right and its shadow on the left. */
const bales = [
  { x: 1_500, y: 1_120, radius: 40 },
  { x: 1_905, y: 1_150, radius: 52 },
  { x: 2_160, y: 1_292, radius: 104 },
  { x: 1_420, y: 1_348, radius: 128 },
] as const;

function baleAt(x: number, y: number): Colour | undefined {
  let found: Colour | undefined;
  for (const { x: centre, y: middle, radius } of bales) {
    const body = radius * 1.05;
    const isBody = x > centre && x < centre + body && Math.abs(y - middle) < radius;
    const cap = Math.hypot((x - centre - body) / 0.42, y - middle) < radius;
    const face = Math.hypot((x - centre) / 0.5, y - middle) / radius;
    if (face < 1) {
      const angle = Math.atan2(y - middle, (x - centre) / 0.5);
      const spiral = 0.5 + 0.5 * Math.sin(face * 34 + angle);
      const straw = grain.layered(x / 3.4, y / 3.4, 3);
      found = shade([150, 100, 46], 0.46 + 0.3 * spiral + 0.5 * straw);
    } else if (isBody || (x > centre && cap)) {
      const turn = (y - middle) / radius;
      const round = Math.sqrt(Math.max(0, 1 - turn * turn));
      const straw = grain.layered(x / 16, y / 2.6, 3);
      const toSun = clamp(0.72 - 0.5 * turn);
      const colour = blend([138, 92, 40], [255, 196, 104], toSun);
      found = shade(colour, (0.5 + 0.5 * round) * (0.66 + 0.62 * straw));
    }
  }
  return found;
}

/** How much of the light reaches the ground: the barn and the bales throw shadows to the left. */
function shadowAt(x: number, y: number): number {
  let light = 1;
  for (const { x: centre, y: middle, radius } of bales) {
    const down = (y - middle - radius * 0.82) / (radius * 0.34);
    const along = (x - centre + radius * 1.5) / (radius * 2.4);
    light -= 0.5 * Math.exp(-(down ** 2) * 1.6 - Math.max(0, Math.abs(along) - 0.4) ** 2 * 9);
  }
  const down = (y - barn.floor - 12) / 62;
  const under = step(-1, 0.1, down) * step(2.6, 0.5, down) * step(1_260, 1_100, x);
  return clamp(light - 0.46 * under, 0.3);
}

/** Straw right before the lens: long bright blades, out of the lower edge. */
interface Blade {
  foot: number;
  lean: number;
  length: number;
  width: number;
  light: number;
}

const blades: Blade[] = Array.from({ length: 900 }, () => ({
  foot: random.fraction() * (width + 200) - 100,
  lean: (random.fraction() - 0.42) * 150,
  length: 60 + 240 * random.fraction() ** 2.2,
  width: 1.6 + 3.4 * random.fraction(),
  light: random.fraction(),
}));

function paintBlades(pixels: Float32Array): void {
  for (const { foot, lean, length, width: thickness, light } of blades) {
    const colour = blend([74, 50, 20], [246, 190, 98], light ** 1.5);
    for (let rise = 0; rise < length; rise += 0.5) {
      const part = rise / length;
      const y = Math.round(height + 8 - rise);
      const x = foot + lean * part ** 1.9;
      const half = thickness * (1 - part) ** 0.6;
      if (y < 0 || y >= height) continue;
      for (let column = Math.ceil(x - half); column <= x + half; column++) {
        if (column < 0 || column >= width) continue;
        const lit = 0.7 + 0.5 * part;
        set(pixels, column, y, shade(colour, lit));
      }
    }
  }
}

function set(pixels: Float32Array, x: number, y: number, colour: Colour): void {
  pixels.set(colour, (y * width + x) * 3);
}

function paint(): Float32Array {
  const pixels = new Float32Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const bale = baleAt(x, y);
      const house = bale ?? gableAt(x, y) ?? sideAt(x, y);
      const light = house === undefined && y > horizon ? shadowAt(x, y) : 1;
      set(pixels, x, y, shade(house ?? background(x, y), light));
    }
  }
  paintBlades(pixels);
  return pixels;
}

/** What a lens and a sensor add: haze toward the sun, darker corners, grain. */
function develop(pixels: Float32Array): Buffer {
  const bytes = Buffer.alloc(pixels.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const haze = 0.2 * Math.exp(-Math.hypot(x - sun.x, y - sun.y) / 380);
      const corner = Math.hypot((x - width / 2) / width, (y - height / 2) / height);
      const vignette = 1 - 0.42 * corner ** 2.2;
      const noise = (random.fraction() + random.fraction() - 1) * 4.2;
      const at = (y * width + x) * 3;
      const seen: Colour = [pixels[at] ?? 0, pixels[at + 1] ?? 0, pixels[at + 2] ?? 0];
      blend(seen, [255, 206, 140], haze).forEach((value, channel) => {
        bytes[at + channel] = clamp(Math.round(value * vignette + noise), 0, 255);
      });
    }
  }
  return bytes;
}

const target = process.argv[2] ?? fileURLToPath(new URL("hayloft.jpg", import.meta.url));
const raw = { width, height, channels: 3 } as const;
await sharp(develop(paint()), { raw })
  .withExif({ IFD0: { Orientation: "1", ImageDescription: "A hayloft at sunset" } })
  .jpeg({ quality: 80 })
  .toFile(target);
