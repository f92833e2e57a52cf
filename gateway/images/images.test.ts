import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  utimesSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { crc32, deflateSync } from "node:zlib";
import sharp, { type Sharp } from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeLog } from "../../base/log.ts";
import { makeRegistry } from "../../base/metrics.ts";
import { seededRandom } from "../../base/random.ts";
import type { ImageFacts } from "./facts.ts";
import { Handover } from "./handover.ts";
import { Images, type RenderedImage } from "./images.ts";
import { planTransform, type RenderPlan, readTransform } from "./transform.ts";

const registry = makeRegistry("test");
let images: Images;

beforeAll(async () => {
  images = await Images.start({ log: makeLog("test", "silent"), registry });
});
afterAll(async () => {
  await images.close();
});

const red = { r: 230, g: 20, b: 20 };
const blue = { r: 20, g: 20, b: 230 };

/** Blue, with a red upper left quarter: what shows which way up a picture is. */
function paint(width = 600, height = 400): Sharp {
  const corner = { width: width / 2, height: height / 2, channels: 3, background: red } as const;
  return sharp({ create: { width, height, channels: 3, background: blue } }).composite([
    { input: { create: corner }, left: 0, top: 0 },
  ]);
}

/** Noise, which no encoder makes small. */
function paintNoise(width: number, height: number): Sharp {
  const bytes = seededRandom(1).bytes(width * height * 3);
  return sharp(bytes, { raw: { width, height, channels: 3 } });
}

function plan(query: string, facts: ImageFacts | undefined): RenderPlan {
  const transform = readTransform(new URLSearchParams(query));
  if (transform === undefined) throw new Error(`no transform in ${query}`);
  return planTransform(transform, facts, { policy: "open", accept: undefined });
}

async function render(source: Buffer, query: string): Promise<RenderedImage> {
  return await images.render({ source, plan: plan(query, await images.facts(source)) });
}

/** The colour at a place that is given in fractions of the sides. */
async function colourAt(bytes: Buffer, x: number, y: number): Promise<number[]> {
  const { data, info } = await sharp(bytes).raw().toBuffer({ resolveWithObject: true });
  const column = Math.min(info.width - 1, Math.floor(x * info.width));
  const row = Math.min(info.height - 1, Math.floor(y * info.height));
  const at = (row * info.width + column) * info.channels;
  return [...data.subarray(at, at + info.channels)];
}

function expectColour([r = -1, g = -1, b = -1]: number[], expected: typeof red): void {
  const distance = Math.abs(r - expected.r) + Math.abs(g - expected.g) + Math.abs(b - expected.b);
  expect(distance, `rgb(${r}, ${g}, ${b})`).toBeLessThan(40);
}

describe("facts", () => {
  test.each(["jpeg", "png", "webp", "avif", "gif"] as const)(
    "A %s tells its facts",
    async (format) => {
      const facts = await images.facts(await paint(300, 200)[format]().toBuffer());
      expect(facts).toMatchObject({ width: 300, height: 200, orientation: 1, format, pages: 1 });
    },
  );

  test("Orientation, frames and transparency are told", async () => {
    const turned = await paint(300, 200).jpeg().withMetadata({ orientation: 6 }).toBuffer();
    expect(await images.facts(turned)).toMatchObject({ width: 300, height: 200, orientation: 6 });

    const frames = await Promise.all(
      [red, blue, red].map((background) =>
        sharp({ create: { width: 20, height: 10, channels: 3, background } })
          .png()
          .toBuffer(),
      ),
    );
    const animation = await sharp(frames, { join: { animated: true } })
      .gif()
      .toBuffer();
    expect(await images.facts(animation)).toMatchObject({ width: 20, height: 10, pages: 3 });

    const background = { ...red, alpha: 0.5 };
    const clear = await sharp({ create: { width: 9, height: 9, channels: 4, background } })
      .png()
      .toBuffer();
    expect(await images.facts(clear)).toMatchObject({ hasAlpha: true });
  });

  test("The first part of a big file is enough", async () => {
    const noise = paintNoise(1_500, 1_000);
    for (const format of ["jpeg", "png", "webp"] as const) {
      const bytes = await noise.clone()[format]({ quality: 100 }).toBuffer();
      const facts = await images.facts(bytes.subarray(0, bytes.length / 3));
      expect(facts, format).toMatchObject({ width: 1_500, height: 1_000, format });
    }
  });

  test("What is no picture has no facts, and nothing is thrown for it", async () => {
    const jpeg = await paint().jpeg().toBuffer();
    for (const bytes of [
      Buffer.alloc(0),
      randomBytes(10_000),
      Buffer.from("%PDF-1.7 and so on"),
      jpeg.subarray(0, 20),
      Buffer.concat([jpeg.subarray(0, 4), randomBytes(1_000)]),
      Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), randomBytes(300_000)]),
    ]) {
      expect(await images.facts(bytes)).toBeUndefined();
    }
  });

  test("SVG and TIFF are known and never decoded", async () => {
    const svg = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>');
    expect(await images.facts(svg)).toMatchObject({ format: "svg", width: 0, height: 0 });
    const tiff = await paint().tiff().toBuffer();
    expect(await images.facts(tiff)).toMatchObject({ format: "tiff", width: 0, height: 0 });
    const jpegPlan = plan("w=10", await images.facts(await paint().jpeg().toBuffer()));
    for (const source of [svg, tiff]) {
      await expect(images.render({ source, plan: jpegPlan })).rejects.toMatchObject({
        kind: "unprocessable",
      });
    }
  });
});

describe("rendering", () => {
  for (const format of ["jpeg", "png", "webp", "avif"] as const) {
    for (let orientation = 1; orientation <= 8; orientation++) {
      test(`A ${format} of orientation ${orientation} comes out upright`, async () => {
        const upright = await paint(600, 400).png().toBuffer();
        // Stored the way that the orientation undoes: turned back, then mirrored back.
        const stored = sharp(upright);
        const angle = { 3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90 }[orientation] ?? 0;
        const turned = sharp(await stored.rotate(angle).png().toBuffer());
        if ([2, 4].includes(orientation)) turned.flop();
        if ([5, 7].includes(orientation)) turned.flip();
        const source = await turned[format]().withMetadata({ orientation }).toBuffer();

        const { bytes, width, height } = await render(source, "w=300&f=png");
        expect({ width, height }).toEqual({ width: 300, height: 200 });
        expect(await sharp(bytes).metadata()).toMatchObject({ width: 300, height: 200 });
        expectColour(await colourAt(bytes, 0.1, 0.1), red);
        for (const [x, y] of [
          [0.9, 0.1],
          [0.1, 0.9],
          [0.9, 0.9],
        ] as const) {
          expectColour(await colourAt(bytes, x, y), blue);
        }
      });
    }
  }

  test.each([
    ["w=300", 300, 200],
    ["h=100", 150, 100],
    ["w=200&h=200", 200, 200],
    ["w=200&h=50&fit=cover", 200, 50],
    ["w=200&h=200&fit=contain", 200, 200],
    ["w=200&h=200&fit=inside", 200, 133],
    ["w=123&h=77&fit=fill", 123, 77],
    ["w=5000", 600, 400], // never enlarged
    ["w=5000&h=5000", 400, 400],
    ["q=10", 600, 400],
    ["w=1&h=1", 1, 1],
  ])(
    "%s of 600x400 has exactly the size that was planned, in every format",
    async (query, width, height) => {
      const source = await paint(600, 400).jpeg().toBuffer();
      for (const format of ["jpeg", "png", "webp", "avif"] as const) {
        const image = await render(source, `${query}&f=${format}`);
        expect(image).toMatchObject({ width, height, contentType: `image/${format}` });
        const metadata = await sharp(image.bytes).metadata();
        expect(metadata).toMatchObject({ width, height });
        expect(metadata.format).toBe(format === "avif" ? "heif" : format);
      }
    },
  );

  test("Odd sizes come out as planned, whatever the decoder shrinks", async () => {
    const random = seededRandom(7);
    for (let round = 0; round < 25; round++) {
      const [width, height] = [1 + (random.u32() % 1_500), 1 + (random.u32() % 1_500)];
      const orientation = 1 + (random.u32() % 8);
      const create = { width, height, channels: 3, background: red } as const;
      const source = await sharp({ create }).jpeg().withMetadata({ orientation }).toBuffer();
      const fit = ["cover", "contain", "inside", "fill"][random.u32() % 4];
      const box = `w=${1 + (random.u32() % 1_500)}&h=${1 + (random.u32() % 1_500)}`;
      const image = await render(source, `${box}&fit=${fit}&f=webp`);
      const metadata = await sharp(image.bytes).metadata();
      expect(metadata).toMatchObject({ width: image.width, height: image.height });
    }
  });

  test("contain pads with white where there is no transparency, and with nothing where there is", async () => {
    const source = await paint(600, 400).jpeg().toBuffer();
    const jpeg = await render(source, "w=200&h=200&fit=contain");
    expectColour(await colourAt(jpeg.bytes, 0.5, 0.02), { r: 255, g: 255, b: 255 });
    expectColour(await colourAt(jpeg.bytes, 0.1, 0.3), red);
    const png = await render(source, "w=200&h=200&fit=contain&f=png");
    expect((await colourAt(png.bytes, 0.5, 0.02))[3]).toBe(0);
  });

  test("Transparency becomes white in a jpeg and stays in a webp", async () => {
    const background = { ...red, alpha: 0 };
    const create = { width: 50, height: 50, channels: 4, background } as const;
    const source = await sharp({ create }).png().toBuffer();
    const jpeg = await render(source, "w=20&f=jpeg");
    expectColour(await colourAt(jpeg.bytes, 0.5, 0.5), { r: 255, g: 255, b: 255 });
    const webp = await render(source, "w=20&f=webp");
    expect((await colourAt(webp.bytes, 0.5, 0.5))[3]).toBe(0);
  });

  test("An animation gives its first frame", async () => {
    const frames = await Promise.all(
      [red, blue].map((background) =>
        sharp({ create: { width: 64, height: 32, channels: 3, background } })
          .png()
          .toBuffer(),
      ),
    );
    for (const format of ["gif", "webp"] as const) {
      const source = await sharp(frames, { join: { animated: true } })
        [format]()
        .toBuffer();
      const { bytes } = await render(source, "w=32&f=webp");
      expect(await sharp(bytes).metadata()).toMatchObject({ width: 32, height: 16 });
      expectColour(await colourAt(bytes, 0.5, 0.5), red);
    }
  });

  test("Nothing of the metadata is left", async () => {
    const source = await paint()
      .withExif({
        IFD0: { Copyright: "someone", Make: "CameraMaker" },
        IFD3: { GPSLatitudeRef: "N" },
      })
      .withXmp('<x:xmpmeta xmlns:x="adobe:ns:meta/">secret-place</x:xmpmeta>')
      .withIccProfile("p3")
      .jpeg()
      .toBuffer();
    expect(await sharp(source).metadata()).toHaveProperty("exif");
    for (const format of ["jpeg", "webp", "png", "avif"]) {
      const { bytes } = await render(source, `w=100&f=${format}`);
      const { exif, xmp, icc, iptc } = await sharp(bytes).metadata();
      expect({ exif, xmp, icc, iptc }, format).toEqual({});
      expect(bytes.includes("secret-place") || bytes.includes("CameraMaker")).toBe(false);
    }
  });

  test("A wide-gamut picture and a printer's come out in sRGB", async () => {
    const colour = { r: 200, g: 120, b: 40 };
    const create = { width: 64, height: 64, channels: 3, background: colour } as const;
    const wide = await sharp({ create }).withIccProfile("p3").jpeg({ quality: 100 }).toBuffer();
    // Stored numbers are smaller for the same colour in a wider space: unconverted, this shows.
    const [stored = 0] = await colourAt(
      await sharp(wide, { ignoreIcc: true }).png().toBuffer(),
      0.5,
      0.5,
    );
    expect(stored).toBeLessThan(colour.r - 5);
    expectColour(await colourAt((await render(wide, "w=32&f=png")).bytes, 0.5, 0.5), colour);

    const print = await sharp({ create }).toColourspace("cmyk").jpeg({ quality: 100 }).toBuffer();
    expect(await sharp(print).metadata()).toMatchObject({ space: "cmyk", channels: 4 });
    for (const format of ["jpeg", "webp", "png"]) {
      const { bytes } = await render(print, `w=32&f=${format}`);
      expect(await sharp(bytes).metadata()).toMatchObject({ space: "srgb", channels: 3 });
      expectColour(await colourAt(bytes, 0.5, 0.5), colour);
    }
  });

  test("Grey, palette and 16-bit pictures come out", async () => {
    const sources = {
      grey: await paint().greyscale().jpeg().toBuffer(),
      palette: await paint().png({ palette: true }).toBuffer(),
      deep: await paint().toColourspace("rgb16").png().toBuffer(),
    };
    for (const [name, source] of Object.entries(sources)) {
      for (const format of ["jpeg", "webp", "png", "avif"]) {
        const { bytes } = await render(source, `w=100&f=${format}`);
        expect(await sharp(bytes).metadata(), name).toMatchObject({ width: 100, depth: "uchar" });
      }
    }
  });

  test("A source may come in parts", async () => {
    const source = await paintNoise(900, 600).jpeg().toBuffer();
    async function* parts(): AsyncGenerator<Buffer> {
      for (let at = 0; at < source.length; at += 10_000) yield source.subarray(at, at + 10_000);
    }
    const whole = plan("w=100", await images.facts(source));
    const { bytes } = await images.render({ source: parts(), plan: whole });
    expect(bytes.equals((await images.render({ source, plan: whole })).bytes)).toBe(true);
  });

  test("A source that fails on its way fails the render with its own reason", async () => {
    const source = await paint().jpeg().toBuffer();
    async function* parts(): AsyncGenerator<Buffer> {
      yield source.subarray(0, 100);
      throw new Error("the store is gone");
    }
    const request = { source: parts(), plan: plan("w=100", await images.facts(source)) };
    await expect(images.render(request)).rejects.toThrow("the store is gone");
  });
});

describe("bad pictures", () => {
  test.each(["jpeg", "png", "webp", "avif", "gif"] as const)(
    "A cut-off %s can't be decoded",
    async (format) => {
      const whole = await paintNoise(400, 300)[format]().toBuffer();
      const wholePlan = plan("w=100&f=jpeg", await images.facts(whole));
      for (const part of [0.1, 0.5, 0.9]) {
        const source = whole.subarray(0, Math.floor(whole.length * part));
        await expect(images.render({ source, plan: wholePlan })).rejects.toMatchObject({
          kind: "unprocessable",
          message: expect.stringMatching(/^Cannot decode the picture: [^\n]+$/),
        });
      }
    },
  );

  test("Random bytes can't be decoded", async () => {
    const good = plan("w=100", await images.facts(await paint().jpeg().toBuffer()));
    const begun = (text: string) =>
      Buffer.concat([Buffer.from(text, "latin1"), randomBytes(9_000)]);
    for (const source of [
      Buffer.alloc(0),
      randomBytes(9_000),
      begun("\xff\xd8\xff"),
      begun("\x89PNG\r\n\x1a\n"),
      begun("GIF89a"),
      begun("RIFF\xff\xff\0\0WEBPVP8 "),
      begun("\0\0\0\x18ftypavif\0\0\0\0avifmif1"),
    ]) {
      await expect(images.render({ source, plan: good })).rejects.toMatchObject({
        kind: "unprocessable",
      });
    }
  });

  for (const format of ["jpeg", "png", "webp", "avif", "gif"] as const) {
    test(`A ${format} with flipped bytes is rendered in the planned size, or can't be decoded`, async () => {
      const random = seededRandom(11);
      const whole = await paintNoise(80, 60)[format]().toBuffer();
      const wholePlan = plan("w=40&f=jpeg", await images.facts(whole));
      const { pid } = images;
      for (let round = 0; round < 60; round++) {
        const source = Buffer.from(whole);
        for (let flips = 1 + (random.u32() % 4); flips > 0; flips--) {
          const at =
            random.u32() % (round % 2 === 0 ? Math.min(200, source.length) : source.length);
          source.writeUInt8(random.u32() % 256, at);
        }
        await images.facts(source);
        const image = await images.render({ source, plan: wholePlan }).catch((error) => {
          expect(error).toMatchObject({ kind: "unprocessable" });
        });
        if (image === undefined) continue;
        expect(await sharp(image.bytes).metadata()).toMatchObject({ width: 40, height: 30 });
      }
      expect(images.pid).toBe(pid); // nothing of it ended the process
    });
  }

  /** A tiny PNG whose header says that it is huge. */
  function makeBomb(width: number, height: number): Buffer {
    const chunk = (name: string, data: Buffer) => {
      const body = Buffer.concat([Buffer.from(name, "latin1"), data]);
      const [length, crc] = [Buffer.alloc(4), Buffer.alloc(4)];
      length.writeUInt32BE(data.length);
      crc.writeUInt32BE(crc32(body));
      return Buffer.concat([length, body, crc]);
    };
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width, 0);
    header.writeUInt32BE(height, 4);
    header.set([8, 2, 0, 0, 0], 8);
    const rows = deflateSync(Buffer.alloc(1_000_000));
    const signature = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
    return Buffer.concat([
      signature,
      chunk("IHDR", header),
      chunk("IDAT", rows),
      chunk("IEND", Buffer.alloc(0)),
    ]);
  }

  test("A bomb is refused by its header, and again by the decoder should it get there", async () => {
    const bomb = makeBomb(20_000, 20_000);
    const facts = await images.facts(bomb);
    expect(facts).toMatchObject({ width: 20_000, height: 20_000, format: "png" });
    expect(() => plan("w=100", facts)).toThrow(expect.objectContaining({ kind: "too-large" }));

    const lie = plan("w=100", { ...(facts as ImageFacts), width: 100, height: 100 });
    await expect(images.render({ source: bomb, plan: lie })).rejects.toMatchObject({
      kind: "unprocessable",
    });
  });

  test("A file over 64 MiB is refused before it is read to its end", async () => {
    let yielded = 0;
    async function* endless(): AsyncGenerator<Buffer> {
      for (;;) {
        yielded += 1;
        yield Buffer.alloc(1_024 * 1_024);
      }
    }
    const small = plan("w=100", await images.facts(await paint().jpeg().toBuffer()));
    await expect(images.render({ source: endless(), plan: small })).rejects.toMatchObject({
      kind: "too-large",
    });
    expect(yielded).toBe(65);
  });
});

describe("the image process", () => {
  test("The gateway's side never loads sharp, and the revision is known", () => {
    expect(images.revision).toMatch(/^[0-9a-f]{16}$/);
    for (const name of ["images.ts", "transform.ts", "facts.ts", "handover.ts", "wire.ts"]) {
      const text = readFileSync(new URL(name, import.meta.url), "utf8");
      expect(text, name).not.toMatch(/from "(?:sharp|\.\/codec\.ts|piscina)"/);
    }
  });

  test("One who is gone is not waited for", async () => {
    const source = await paint().jpeg().toBuffer();
    const gone = new AbortController();
    const request = {
      source,
      plan: plan("w=100", await images.facts(source)),
      signal: gone.signal,
    };
    const rendering = images.render(request);
    gone.abort(new Error("gone"));
    await expect(rendering).rejects.toThrow("gone");
  });

  test("More than can wait is refused, and what was let in is answered", async () => {
    const source = await paintNoise(600, 400).jpeg().toBuffer();
    const small = plan("w=16&f=jpeg", await images.facts(source));
    const results = await Promise.allSettled(
      Array.from({ length: 400 }, () => images.render({ source, plan: small })),
    );
    const reasons = results.flatMap((result) =>
      result.status === "rejected" ? [result.reason] : [],
    );
    expect(reasons.length).toBeGreaterThan(0);
    expect(reasons.length).toBeLessThan(400);
    for (const reason of reasons) {
      expect(reason).toMatchObject({ kind: "busy", retryAfterSeconds: 1 });
    }
  });

  test("Killed in the middle of a job, it comes back, and the job is done", async () => {
    const source = await paintNoise(4_000, 3_000).jpeg({ quality: 95 }).toBuffer();
    const slow = plan("w=2000&f=webp&q=90", await images.facts(source));
    const pidBefore = images.pid;
    const jobs = [1, 2, 3].map(() => images.render({ source, plan: slow }));
    await sleep(150);
    process.kill(pidBefore as number, "SIGKILL");
    for (const { width, height } of await Promise.all(jobs)) {
      expect({ width, height }).toEqual({ width: 2_000, height: 1_500 });
    }
    expect(images.isReady).toBe(true);
    expect(images.pid).not.toBe(pidBefore);
    expect(await registry.metrics()).toMatch(/hayloft_image_process_restarts_total\{[^}]*\} 1\n/);
  });

  test("A job that ends the process twice is refused, and the next one is served", async () => {
    const source = await paintNoise(4_000, 3_000).jpeg({ quality: 95 }).toBuffer();
    const slow = plan("w=2000&f=webp&q=90", await images.facts(source));
    const job = images.render({ source, plan: slow });
    const refused = expect(job).rejects.toMatchObject({ kind: "unprocessable" });
    for (let kills = 0, before: number | undefined; kills < 2; kills++) {
      while (!images.isReady || images.pid === before) await sleep(10);
      before = images.pid;
      await sleep(200); // long enough to have begun
      process.kill(before as number, "SIGKILL");
    }
    await refused;
    const { bytes } = await render(await paint().jpeg().toBuffer(), "w=100");
    expect(bytes.length).toBeGreaterThan(0);
  });

  test("A folder that was swept away is made again", async () => {
    const folder = mkdtempSync(join(tmpdir(), "hayloft-test-"));
    const other = await Images.start({
      log: makeLog("test", "silent"),
      registry: makeRegistry("other"),
      folder,
    });
    const source = await paint().jpeg().toBuffer();
    const small = plan("w=10", await other.facts(source));
    for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true });
    expect(await other.render({ source, plan: small })).toMatchObject({ width: 10 });
    expect(await other.render({ source, plan: small })).toMatchObject({ width: 10 });
    expect(readdirSync(folder)).toHaveLength(1);
    await other.close();
    expect(readdirSync(folder)).toEqual([]);
    rmdirSync(folder);
  });

  test("What a killed gateway left is removed when it is old, and not before", async () => {
    const folder = mkdtempSync(join(tmpdir(), "hayloft-test-"));
    const dead = spawnSync(process.execPath, ["-e", "0"]).pid;
    const long = new Date(Date.now() - 3_600_000);
    const names = {
      old: `hayloft-images-${dead}-aaaaaa`,
      fresh: `hayloft-images-${dead}-bbbbbb`,
      running: `hayloft-images-${process.pid}-cccccc`,
      other: "hayloft-data",
    };
    for (const name of Object.values(names)) mkdirSync(join(folder, name));
    for (const name of [names.old, names.running, names.other]) {
      utimesSync(join(folder, name), long, long);
    }
    new Handover(folder, () => {}).close();
    expect(readdirSync(folder)).toEqual([names.other, names.fresh, names.running].sort());
    rmSync(folder, { recursive: true });
  });

  test("Renders are counted by format", async () => {
    const text = await registry.metrics();
    expect(text).toMatch(/hayloft_image_renders_total\{format="webp",[^}]*\} [1-9]/);
    expect(text).toMatch(/hayloft_image_render_seconds_count\{[^}]*\} [1-9]/);
    expect(text).toMatch(/hayloft_image_queue\{[^}]*\} 0\n/);
  });

  test("Closed, it leaves no process and answers no more", async () => {
    const other = await Images.start({
      log: makeLog("test", "silent"),
      registry: makeRegistry("other"),
    });
    const { pid } = other;
    const source = await paint().jpeg().toBuffer();
    const facts = await other.facts(source);
    await other.close();
    expect(() => process.kill(pid as number, 0)).toThrow();
    expect(other.isReady).toBe(false);
    await expect(other.render({ source, plan: plan("w=10", facts) })).rejects.toMatchObject({
      kind: "unavailable",
    });
  });
});

const photos = process.env.PHOTOS ?? "";
const hasPhotos = photos !== "" && existsSync(photos);
describe.skipIf(!hasPhotos)("real photos (skipped without a folder in PHOTOS)", () => {
  const names = hasPhotos
    ? readdirSync(photos).filter((name) => /\.(?:jpe?g|png)$/.test(name))
    : [];
  test.each(names)("%s is rendered in every format", async (name) => {
    const source = readFileSync(join(photos, name));
    for (const format of ["jpeg", "webp", "png", "avif"]) {
      const { bytes, width, height } = await render(source, `w=512&f=${format}`);
      expect(await sharp(bytes).metadata()).toMatchObject({ width: 512, height });
      expect(width).toBe(512);
    }
  });
});
