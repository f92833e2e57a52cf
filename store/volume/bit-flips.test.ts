/**
 * One bit turned over, anywhere in the files of a volume: it is told somewhere, or it lies where nothing
 * does. No wrong byte is ever handed out, and nothing is missing or back again with nobody saying so.
 */

import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import { encodeContent } from "./codec.ts";
import { footerBytes } from "./needle.ts";
import { scan } from "./scrub.ts";
import {
  blobOf,
  createOn,
  environmentOn,
  openOn,
  readContent,
  simulatedFolder,
  simulatedVolume,
} from "./simulated-volume.ts";
import { superblockBytes } from "./superblock.ts";
import type { Volume } from "./volume.ts";

/** `FLIPS=100000 npx vitest run store/volume/bit-flips` tries more of them. */
const flipCount = Number(process.env.FLIPS ?? 10_000);

/** Of the last blob: two blocks. */
const largeBytes = 17_000;

interface Kept {
  fid: Fid;
  data: Buffer;
  isDeleted: boolean;
}

interface Prepared {
  name: string;
  files: SimulatedFiles;
  kept: Kept[];
  /** By file: where its bytes mean nothing, as [start, end). */
  unused: Map<string, [number, number][]>;
}

const order = { generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: true };
const deleteLog = `${simulatedFolder}/${simulatedVolume}.deleted`;
/** Where it is zero behind its header (delete-log.ts). */
const deleteLogUnused: [number, number] = [36, 48];

async function prepare(
  name: string,
  {
    isNative = false,
    isKilled = false,
    act = async () => undefined,
  }: { isNative?: boolean; isKilled?: boolean; act?: (volume: Volume) => Promise<unknown> },
): Promise<Prepared> {
  const random = seededRandom(11);
  const files = new SimulatedFiles();
  const volume = await createOn(environmentOn(files), isNative ? { class: "native" } : {});
  const kept: Kept[] = [];
  const keep = (fid: Fid, data: Buffer) => kept.push({ fid, data, isDeleted: false });
  for (const size of [0, 100, 333]) {
    const data = random.bytes(size);
    keep(await volume.append(blobOf(data)), data);
  }
  const batch = [random.bytes(17), random.bytes(64), random.bytes(205)];
  const fids = await volume.appendAll(batch.map((data) => blobOf(data)));
  for (const [at, fid] of fids.entries()) keep(fid, batch[at] ?? Buffer.alloc(0));
  if (isNative) {
    const first = await volume.reserve(8);
    for (const at of [5, 2, 7, 1]) {
      const data = random.bytes(50 + at);
      keep(await volume.put({ ordinal: first + at, cookie: 7 }, blobOf(data)), data);
    }
  }
  const text = Buffer.from("hay, hay, more hay. ".repeat(100));
  const encoded = await encodeContent(text, "text/plain");
  expect(encoded.data.length).toBeLessThan(text.length);
  const compressed = { ...blobOf(encoded.data), ...encoded, contentLength: text.length };
  keep(await volume.append(compressed), text);
  const large = random.bytes(largeBytes);
  keep(await volume.append(blobOf(large)), large);
  for (const at of isNative ? [1, 4, 8] : [1, 4, 5]) {
    const deleted = kept[at];
    if (deleted === undefined) continue;
    await volume.delete(deleted.fid.ordinal, deleted.fid.cookie);
    deleted.isDeleted = true;
  }
  await volume.settled();
  await act(volume);
  await volume.settled();
  const unused = new Map([[deleteLog, [deleteLogUnused]]]);
  await volume.read(async ({ superblock }, end) => {
    const paddings: [number, number][] = [];
    await volume.read(async (generation) => {
      for await (const slice of scan(generation, end)) {
        for (const each of slice) {
          if (each.kind !== "record") throw new Error("all is well yet");
          const { dataOffset, dataLength, offset, length } = each.record.head;
          paddings.push([dataOffset + dataLength + footerBytes, offset + length]);
        }
      }
    });
    unused.set(`${simulatedFolder}/${simulatedVolume}.g${superblock.generation}.volume`, paddings);
  });
  if (isKilled) return { name, files: files.restart({ lose: "none" }), kept, unused };
  await volume.close();
  return { name, files: files.clone(), kept, unused };
}

/**
 * Who tells of a flip, the first of them that does: nobody can open the volume, its report counts damage,
 * a read is refused, a note was given at the start, a scrub finds it. Or nobody has to.
 */
const classes = ["refused", "damage told", "read refused", "note", "scrub", "harmless"] as const;
type Class = (typeof classes)[number];

interface Outcome {
  kind: Class;
  /** What must not be: it has no excuse. */
  harm: string[];
}

/** Opens the volume and looks at all that it ever promised. */
async function examine({ kept }: Prepared, files: SimulatedFiles): Promise<Outcome> {
  const notes: string[] = [];
  const environment = { ...environmentOn(files), note: (message: string) => notes.push(message) };
  let volume: Volume;
  try {
    volume = await openOn(environment);
  } catch (error) {
    if (error instanceof Failure && error.kind === "corrupt") return { kind: "refused", harm: [] };
    throw error;
  }
  const harm: string[] = [];
  const absent: string[] = [];
  let isRefused = false;
  // As it was opened: what a read comes upon is told by the read itself, and counted from then on.
  const report = volume.report();
  const isNoted = notes.length > 0;
  for (const { fid, data, isDeleted } of kept) {
    const read = await readOrRefusal(volume, fid);
    if (read === "refused") isRefused = true;
    else if (read === undefined && !isDeleted) absent.push(`${fid.ordinal} is missing`);
    else if (read !== undefined && isDeleted) absent.push(`${fid.ordinal} is back`);
    if (Buffer.isBuffer(read) && !read.equals(data)) harm.push(`${fid.ordinal} is another`);
  }
  if (isRefused && volume.report().damagedBytes === 0) harm.push("a refused read is not counted");
  const isTold = report.damagedBytes > 0 || /damaged/.test(report.closedBecause ?? "");
  let kind: Class = "harmless";
  if (isTold) kind = "damage told";
  else if (isRefused) kind = "read refused";
  else if (isNoted) kind = "note";
  else if ((await volume.scrub({ rateBytes: 0 })).length > 0) kind = "scrub";
  // A refused read tells of its own blob alone.
  if (!isTold && !isNoted && kind !== "scrub") harm.push(...absent);
  await volume.close();
  return { kind, harm };
}

async function readOrRefusal(volume: Volume, fid: Fid): Promise<Buffer | undefined | "refused"> {
  try {
    return await readContent(volume, fid);
  } catch (error) {
    if (error instanceof Failure && error.kind === "corrupt") return "refused";
    throw error;
  }
}

/** What is appended over the damage is there after a power cut, and so is all that was before. */
async function goOn(prepared: Prepared, files: SimulatedFiles): Promise<string[]> {
  const volume = await openOn(environmentOn(files));
  const before: (Buffer | undefined | "refused")[] = [];
  for (const { fid } of prepared.kept) before.push(await readOrRefusal(volume, fid));
  await volume.beginEpoch(volume.report().epoch + 1);
  let fid: Fid;
  try {
    fid = await volume.append(blobOf(Buffer.from("afterwards")));
  } catch (error) {
    if (error instanceof Failure && error.kind === "unavailable") return [];
    throw error;
  }
  const left = files.restart({ lose: "all" });
  await left.remove(`${simulatedFolder}/${simulatedVolume}.g0.index`);
  const again = await openOn(environmentOn(left));
  const harm: string[] = [];
  const afterwards = await readOrRefusal(again, fid);
  if (afterwards?.toString() !== "afterwards") harm.push("what was appended is lost");
  for (const [at, { fid }] of prepared.kept.entries()) {
    const read = await readOrRefusal(again, fid);
    const was = before[at];
    const isSame = Buffer.isBuffer(read) && Buffer.isBuffer(was) ? read.equals(was) : read === was;
    // What the checkpoint had led to is gone without it if header or footer does not verify, which is told.
    const isTold = read === undefined && again.report().damagedBytes > 0;
    if (!isSame && !isTold) harm.push(`${fid.ordinal} changed over an append`);
  }
  await again.close();
  return harm;
}

function pickBit(files: SimulatedFiles, random: Random): { file: string; bit: number } {
  const names = files.names("visible");
  const volumeName = names.find((name) => name.endsWith(".volume")) ?? "";
  const choice = random.fraction();
  const others = names.filter((name) => name !== volumeName);
  const isVolume = choice < 0.6;
  const file = isVolume ? volumeName : (others[random.u32() % others.length] ?? "");
  const length = files.visible(file)?.length ?? 0;
  const [from, to] = !isVolume
    ? [0, length]
    : choice < 0.1
      ? [0, superblockBytes]
      : choice < 0.45
        ? [superblockBytes, length - largeBytes] // all but the large one
        : [superblockBytes, length];
  return { file, bit: from * 8 + (random.u32() % ((to - from) * 8)) };
}

const statesOf: (() => Promise<Prepared>)[] = [
  () => prepare("open, closed in good order", {}),
  () => prepare("open, killed", { isKilled: true }),
  () => prepare("sealed", { act: (volume) => volume.seal() }),
  () =>
    prepare("compacted", {
      act: async (volume) => {
        await volume.seal();
        await volume.compact(order);
      },
    }),
  () => prepare("native, closed in good order", { isNative: true }),
  () => prepare("native, killed", { isNative: true, isKilled: true }),
  () => prepare("native and sealed", { isNative: true, act: (volume) => volume.seal() }),
];

const allCounts = new Map<Class, number>();

for (const [at, make] of statesOf.entries()) {
  test(`Of the flips of one bit in the files of a volume none does harm (state ${at + 1} of ${statesOf.length})`, {
    timeout: 600_000,
  }, async () => {
    const prepared = await make();
    const random = seededRandom(1_000 + at);
    const counts = new Map<Class, number>();
    const harmful: string[] = [];
    const total = Math.ceil(flipCount / statesOf.length);
    for (let flip = 0; flip < total; flip++) {
      const { file, bit } = pickBit(prepared.files, random);
      const byte = Math.floor(bit / 8);
      const files = prepared.files.clone();
      files.flipBit(file, bit);
      const place = `${prepared.name}: bit ${bit % 8} of byte ${byte} of ${file}`;
      const { kind, harm } = await examine(prepared, files.clone()).catch((error: unknown) => {
        throw new Error(`Cannot stand ${place}`, { cause: error });
      });
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
      harmful.push(...harm.map((each) => `${place}: ${each}`));
      const ranges = prepared.unused.get(file) ?? [];
      const isUnused = ranges.some(([start, end]) => byte >= start && byte < end);
      if (kind === "harmless" && !isUnused && harm.length === 0)
        harmful.push(`${place}: nobody tells`);
      // The digest of the whole is over them too, where it is known.
      if (isUnused && kind !== "harmless" && kind !== "scrub")
        harmful.push(`${place}: it means nothing, and is told`);
      if (flip % 5 === 0 && kind !== "refused") {
        const changed = await goOn(prepared, files);
        harmful.push(...changed.map((each) => `${place}: ${each}`));
      }
    }
    for (const [kind, count] of counts) allCounts.set(kind, (allCounts.get(kind) ?? 0) + count);
    expect(harmful.slice(0, 20), `${harmful.length} of ${total} flips`).toEqual([]);
  });
}

test("The flips were of all kinds, most of them were told, and the rest lay where nothing does", () => {
  const countOf = (kind: Class) => allCounts.get(kind) ?? 0;
  const told = classes.filter((kind) => kind !== "harmless").map(countOf);
  expect(told.every((count) => count > flipCount / 1_000)).toBe(true);
  const toldCount = told.reduce((sum, count) => sum + count, 0);
  expect(toldCount + countOf("harmless")).toBeGreaterThanOrEqual(flipCount);
  expect(countOf("harmless")).toBeGreaterThan(0);
  expect(countOf("harmless")).toBeLessThan(flipCount / 20);
});
