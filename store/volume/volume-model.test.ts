/**
 * A volume beside the obvious model of it, a map: whatever is done to both, in any order, with power cuts
 * in between, the volume gives what the map has.
 */

import { createHash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { seededRandom } from "../../base/random.ts";
import { type Loss, SimulatedFiles } from "../../base/simulated-files.ts";
import { needleLength } from "./needle.ts";
import { scan } from "./scrub.ts";
import {
  createOn,
  environmentOn,
  HandClock,
  openOn,
  simulatedFolder,
  simulatedVolume,
} from "./simulated-volume.ts";
import { superblockBytes } from "./superblock.ts";
import type { Blob, Durability, Volume } from "./volume.ts";

/** `RUNS=10000 SEED=$RANDOM npx vitest run store/volume/volume-model` tries others. */
const runCount = Number(process.env.RUNS ?? 100);
const seed = Number(process.env.SEED ?? 1);

interface Entry {
  fid: Fid;
  blob: Blob;
  timeMs: number;
  isDeleted: boolean;
  /** Whether a power cut can't take it any more. */
  isSynced: boolean;
  /** Of all that came in one call: stored together, or lost together. */
  call: number;
}

/** What the volume has promised. */
class Model {
  readonly isNative: boolean;
  readonly entries: Map<number, Entry> = new Map<number, Entry>();
  /** In the order in which they were written. */
  written: number[] = [];
  /** Reserved and not stored yet. */
  readonly free: Set<number> = new Set<number>();
  /** Not in the file any more. */
  readonly compacted: Set<number> = new Set<number>();
  nextOrdinal: number = 0;
  callCount: number = 0;
  isSealed: boolean = false;
  generation: number = 0;
  epoch: number = 1;
  lengthBytes: number = 0;
  trash: number[] = [];

  constructor(isNative: boolean) {
    this.isNative = isNative;
  }

  keep(fid: Fid, blob: Blob, timeMs: number, call: number): void {
    expect(this.entries.has(fid.ordinal), `ordinal ${fid.ordinal} is given out once`).toBe(false);
    this.entries.set(fid.ordinal, {
      fid,
      blob,
      timeMs,
      isDeleted: false,
      isSynced: false,
      call,
    });
    this.written.push(fid.ordinal);
  }

  syncUpTo(ordinal: number | undefined): void {
    if (ordinal === undefined) return;
    for (const each of this.written) {
      const entry = this.entries.get(each);
      if (entry !== undefined) entry.isSynced = true;
      if (each === ordinal) return;
    }
  }

  sync(): void {
    this.syncUpTo(this.written.at(-1));
  }

  isThere({ isDeleted, timeMs, blob: { ttlSeconds } }: Entry, nowMs: number): boolean {
    return !isDeleted && (ttlSeconds === 0 || nowMs <= timeMs + ttlSeconds * 1_000);
  }

  /** One of the ordinals that were ever given out, or the next one. */
  pick(fraction: number): number {
    return Math.floor(fraction * (this.nextOrdinal + 1));
  }
}

/** The volume under test with the disk and the clock below it. */
class Real {
  files: SimulatedFiles = new SimulatedFiles();
  readonly clock: HandClock = new HandClock();
  volume: Volume;
  #lives = 1;

  private constructor(files: SimulatedFiles, clock: HandClock, volume: Volume) {
    this.files = files;
    this.clock = clock;
    this.volume = volume;
  }

  static async create(isNative: boolean): Promise<Real> {
    const files = new SimulatedFiles();
    const clock = new HandClock();
    const volume = await createOn(
      environmentOn(files, { clock }),
      isNative ? { class: "native" } : {},
    );
    return new Real(files, clock, volume);
  }

  async openOn(files: SimulatedFiles): Promise<void> {
    this.#lives += 1;
    this.files = files;
    this.volume = await openOn(environmentOn(files, { clock: this.clock, seed: this.#lives }));
  }

  /** The generation's file as it is on the disk now. */
  digestOf(generation: number): string {
    const name = `${simulatedFolder}/${simulatedVolume}.g${generation}.volume`;
    const bytes = this.files.visible(name) ?? Buffer.alloc(0);
    return createHash("sha256").update(bytes).digest("hex");
  }
}

type Command = fc.AsyncCommand<Model, Real>;

function command(
  text: string,
  run: (model: Model, real: Real) => Promise<void>,
  check: (model: Readonly<Model>) => boolean = () => true,
): Command {
  return {
    check,
    async run(model, real) {
      await run(model, real);
      await compare(model, real);
    },
    toString: () => text,
  };
}

async function compare(model: Model, { volume, clock }: Real): Promise<void> {
  for (const entry of model.entries.values()) {
    const { fid, blob } = entry;
    const needle = await volume.find(fid.ordinal, fid.cookie);
    const isThere = model.isThere(entry, clock.ms);
    expect(needle !== undefined, `needle ${fid.ordinal} is ${isThere ? "" : "not "}there`).toBe(
      isThere,
    );
    if (needle === undefined) continue;
    expect((await needle.content()).equals(blob.data), `needle ${fid.ordinal} is as sent`).toBe(
      true,
    );
    expect(needle.metadata.equals(blob.metadata)).toBe(true);
    needle.close();
    const other = (fid.cookie ^ 1) >>> 0;
    expect(await volume.find(fid.ordinal, other), "a wrong cookie finds nothing").toBeUndefined();
  }
  const report = volume.report();
  const entries = [...model.entries.values()];
  const isInFile = ({ fid }: Entry) => !model.compacted.has(fid.ordinal);
  const deadBytes = entries
    .filter((entry) => entry.isDeleted && isInFile(entry))
    .reduce((sum, { blob }) => sum + lengthOf(blob), 0);
  expect(report).toMatchObject({
    needleCount: model.nextOrdinal,
    deletedCount: entries.filter(({ isDeleted }) => isDeleted).length,
    dataBytes: entries.filter(isInFile).reduce((sum, { blob }) => sum + blob.data.length, 0),
    state: model.isSealed ? "sealed" : "open",
    isWritable: !model.isSealed,
    closedBecause: undefined,
    damagedBytes: 0,
    generation: model.generation,
    epoch: model.epoch,
  });
  // Where ordinals were put out of order, what a deleted needle takes is known by the next one only.
  if (model.isNative) {
    expect(report.deadBytes).toBeGreaterThanOrEqual(deadBytes);
    expect(report.deadBytes).toBeLessThanOrEqual(report.lengthBytes - superblockBytes);
  } else {
    expect(report.deadBytes).toBe(deadBytes);
  }
  expect(report.lengthBytes).toBeGreaterThanOrEqual(model.lengthBytes);
  model.lengthBytes = report.lengthBytes;
}

function lengthOf({ data, metadata }: Blob): number {
  return needleLength({ dataLength: data.length, metadataLength: metadata.length });
}

async function failureOf(work: Promise<unknown>): Promise<string | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    if (error instanceof Failure) return error.kind;
    throw error;
  }
}

const fraction = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const durability = fc.constantFrom<Durability>("disk", "disk", "memory");
const blob: fc.Arbitrary<Blob> = fc
  .record({
    length: fc.oneof(
      { weight: 8, arbitrary: fc.integer({ min: 0, max: 300 }) },
      { weight: 1, arbitrary: fc.integer({ min: 16_380, max: 40_000 }) },
    ),
    metadataLength: fc.integer({ min: 0, max: 40 }),
    ttlSeconds: fc.constantFrom(0, 0, 0, 60, 3_600),
    content: fc.integer(),
  })
  .map(({ length, metadataLength, ttlSeconds, content }) => {
    const random = seededRandom(content);
    return {
      data: random.bytes(length),
      metadata: random.bytes(metadataLength),
      owner: undefined,
      ttlSeconds,
    };
  });

const append = fc.tuple(fc.array(blob, { minLength: 1, maxLength: 4 }), durability).map(
  ([blobs, how]): Command =>
    command(`append ${blobs.map(({ data }) => data.length)} to ${how}`, async (model, real) => {
      const appending = real.volume.appendAll(blobs, how);
      if (model.isSealed) return expect(await failureOf(appending)).toBe("unavailable");
      const fids = await appending;
      model.callCount += 1;
      for (const [at, fid] of fids.entries()) {
        expect(fid.ordinal).toBe(model.nextOrdinal);
        model.keep(fid, blobs[at] ?? blobs[0] ?? fail(), real.clock.ms, model.callCount);
        model.nextOrdinal += 1;
      }
      if (how === "disk") model.sync();
    }),
);

const burst = fc.array(fc.tuple(blob, durability), { minLength: 2, maxLength: 8 }).map(
  (calls): Command =>
    command(
      `append ${calls.map(([{ data }, how]) => `${data.length} to ${how}`)} all at once`,
      async (model, real) => {
        const made = await Promise.all(
          calls.map(async ([each, how]) => ({
            fid: await real.volume.append(each, how),
            each,
            how,
          })),
        );
        made.sort((one, other) => one.fid.ordinal - other.fid.ordinal);
        for (const { fid, each, how } of made) {
          expect(fid.ordinal).toBe(model.nextOrdinal);
          model.callCount += 1;
          model.keep(fid, each, real.clock.ms, model.callCount);
          model.nextOrdinal += 1;
          if (how === "disk") model.sync();
        }
      },
      (model) => !model.isSealed,
    ),
);

const reserve = fc.integer({ min: 1, max: 6 }).map(
  (count): Command =>
    command(
      `reserve ${count}`,
      async (model, real) => {
        const reserving = real.volume.reserve(count);
        if (model.isSealed) return expect(await failureOf(reserving)).toBe("unavailable");
        expect(await reserving).toBe(model.nextOrdinal);
        for (let at = 0; at < count; at++) model.free.add(model.nextOrdinal + at);
        model.nextOrdinal += count;
        model.sync();
      },
      (model) => model.isNative,
    ),
);

const put = fc.tuple(fraction, fc.constantFrom("free", "any", "same"), blob, durability).map(
  ([where, kind, sent, how]): Command =>
    command(
      `put ${kind} ${where}, ${sent.data.length} to ${how}`,
      async (model, real) => {
        const free = [...model.free];
        const ordinal =
          kind === "free" && free.length > 0
            ? (free[Math.floor(where * free.length)] ?? 0)
            : model.pick(where);
        const entry = model.entries.get(ordinal);
        const isSame = kind === "same" && entry !== undefined;
        const cookie = entry?.fid.cookie ?? ordinal * 7 + 1;
        const wanted = isSame ? entry.blob : sent;
        const putting = real.volume.put({ ordinal, cookie }, wanted, how);
        if (entry !== undefined && !model.compacted.has(ordinal)) {
          const holds = model.isThere(entry, real.clock.ms) && wanted.data.equals(entry.blob.data);
          expect(await failureOf(putting)).toBe(holds ? undefined : "conflict");
        } else if (ordinal >= model.nextOrdinal) {
          expect(await failureOf(putting)).toBe("not-found");
        } else if (model.isSealed) {
          expect(await failureOf(putting)).toBe("unavailable");
        } else {
          expect(model.free.delete(ordinal)).toBe(true);
          model.callCount += 1;
          model.keep(await putting, wanted, real.clock.ms, model.callCount);
          if (how === "disk") model.sync();
        }
      },
      (model) => model.isNative,
    ),
);

const remove = fc.tuple(fraction, fc.boolean()).map(
  ([where, isRight]): Command =>
    command(`delete ${where} with ${isRight ? "its" : "a wrong"} cookie`, async (model, real) => {
      const ordinal = model.pick(where);
      const entry = model.entries.get(ordinal);
      const { cookie } = entry?.fid ?? { cookie: 5 };
      const deleted = await real.volume.delete(ordinal, isRight ? cookie : (cookie ^ 0x100) >>> 0);
      const isThere = entry !== undefined && isRight && model.isThere(entry, real.clock.ms);
      expect(deleted).toBe(isThere ? entry.blob.data.length : undefined);
      if (isThere) {
        // Only what is synced can be deleted for ever.
        if (!entry.isSynced) model.sync();
        entry.isDeleted = true;
      }
      expect(real.volume.isDeleted(ordinal)).toBe(entry?.isDeleted ?? false);
    }),
);

const wait = fc.constantFrom(1, 59, 61, 3_600).map(
  (seconds): Command =>
    command(`wait ${seconds} s`, async (_, { clock }) => {
      clock.ms += seconds * 1_000;
    }),
);

const seal = fc.constant(
  command("seal", async (model, { volume }) => {
    await volume.seal();
    model.isSealed = true;
    model.sync();
  }),
);

const compact = fc.record({ purge: fc.boolean(), doesExpire: fc.boolean() }).map(
  ({ purge, doesExpire }): Command =>
    command(
      `compact${purge ? ", purge" : ""}${doesExpire ? ", expire" : ""}`,
      async (model, real) => {
        const { volume, clock, files } = real;
        const generation = model.generation + 1;
        const ttlCutoffMs = doesExpire ? clock.ms : 0;
        const order = { generation, ttlCutoffMs, rateBytes: 0, purge };
        if (!model.isSealed) {
          return expect(await failureOf(volume.compact(order))).toBe("conflict");
        }
        await volume.settled();
        const twin = await Real.create(false);
        await twin.openOn(files.clone());
        await twin.volume.compact({ ...order, purge: !purge });
        await volume.compact(order);
        expect(real.digestOf(generation)).toBe(twin.digestOf(generation));
        await twin.volume.close();

        for (const [ordinal, { isDeleted, timeMs, blob: sent }] of model.entries) {
          const isExpired = sent.ttlSeconds > 0 && timeMs + sent.ttlSeconds * 1_000 < ttlCutoffMs;
          if (isDeleted || isExpired) model.compacted.add(ordinal);
        }
        if (!purge) model.trash.push(model.generation);
        model.generation = generation;
        model.lengthBytes = 0;
        expect(volume.superblock.firstFree).toBe(model.nextOrdinal);
        expect(await volume.compact(order), "once done, done").toMatchObject({ copiedBytes: 0 });
      },
    ),
);

const scrub = fc.constant(
  command("scrub", async (model, { volume }) => {
    expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
    model.sync();
  }),
);

const emptyTrash = fc.boolean().map(
  (isAll): Command =>
    command(`empty the trash of ${isAll ? "all" : "nothing"}`, async (model, real) => {
      await real.volume.emptyTrash(isAll ? real.clock.ms + 1 : 0);
      if (isAll) model.trash = [];
      const { trashBytes } = real.volume.report();
      expect(trashBytes > 0).toBe(model.trash.length > 0);
      const names = real.files.names("visible").filter((name) => name.endsWith(".volume"));
      expect(names).toHaveLength(1 + model.trash.length);
    }),
);

async function beginLife(model: Model, { volume }: Real): Promise<void> {
  if (model.isSealed) return;
  model.epoch += 1;
  await volume.beginEpoch(model.epoch);
}

const reopen = fc.boolean().map(
  (isPowerCut): Command =>
    command(`close and reopen${isPowerCut ? " after a power cut" : ""}`, async (model, real) => {
      await real.volume.close();
      model.sync();
      await real.openOn(isPowerCut ? real.files.restart({ lose: "all" }) : real.files);
      await beginLife(model, real);
    }),
);

interface Reboot {
  lose: Loss;
  chance: number;
  /** Sent right before, and never answered. */
  unanswered: Blob[];
  isCheckpointLost: boolean;
}

const reboot = fc
  .record<Reboot>({
    lose: fc.constantFrom<Loss>("all", "some", "some", "none"),
    chance: fc.integer(),
    unanswered: fc.array(blob, { maxLength: 3 }),
    isCheckpointLost: fc.boolean(),
  })
  .map(
    ({ lose, chance, unanswered, isCheckpointLost }): Command =>
      command(
        `cut the power and lose ${lose} (${chance}) over ${unanswered.map(({ data }) => data.length)}`,
        async (model, real) => {
          real.volume.appendAll(unanswered).catch(() => undefined);
          for (let turn = 0; turn < chance % 8; turn++) await Promise.resolve();
          real.files.cutPower();
          const files = real.files.restart({ lose, random: seededRandom(chance) });
          const index = `${simulatedFolder}/${simulatedVolume}.g${model.generation}.index`;
          if (isCheckpointLost) await files.remove(index);
          await real.openOn(files);
          await reconcile(model, real, unanswered);
          await beginLife(model, real);
          model.lengthBytes = 0;
        },
      ),
  );

/** Takes over what a power cut decided of what was promised to nobody. */
async function reconcile(model: Model, { volume, clock }: Real, unanswered: Blob[]): Promise<void> {
  const found = new Map<number, Fid>();
  await volume.read(async (generation, end) => {
    for await (const slice of scan(generation, end)) {
      for (const each of slice) {
        if (each.kind !== "record") throw new Error("Cannot go on: there is damage");
        const { ordinal, cookie, isReservation } = each.record.head;
        if (!isReservation) found.set(ordinal, { volume: simulatedVolume, ordinal, cookie });
      }
    }
  });
  let lostCall: number | undefined;
  for (const ordinal of model.written) {
    const entry = model.entries.get(ordinal);
    if (entry === undefined || model.compacted.has(ordinal)) continue;
    if (found.has(ordinal)) {
      expect(lostCall, `needle ${ordinal} is there, what came before it is not`).toBeUndefined();
      continue;
    }
    expect(entry.isSynced, `needle ${ordinal} is lost`).toBe(false);
    const isWhole = model.written.every(
      (other) => model.entries.get(other)?.call !== entry.call || !found.has(other),
    );
    expect(isWhole, `of the call of needle ${ordinal} a part is there`).toBe(true);
    lostCall = entry.call;
  }
  for (const ordinal of model.written) {
    if (found.has(ordinal) || model.compacted.has(ordinal)) continue;
    model.entries.delete(ordinal);
    if (ordinal < volume.report().needleCount) model.free.add(ordinal);
  }
  model.written = model.written.filter((ordinal) => model.entries.has(ordinal));
  const isPromised = (ordinal: number) => model.entries.has(ordinal) || model.free.has(ordinal);
  const extra = [...found.keys()].filter((ordinal) => !model.entries.has(ordinal));
  if (extra.length > 0) {
    expect(lostCall, "what was never answered is there, what was is not").toBeUndefined();
    expect(extra).toHaveLength(unanswered.length);
    model.callCount += 1;
    for (const [at, ordinal] of extra.entries()) {
      const sent = unanswered[at];
      const fid = found.get(ordinal);
      expect(ordinal).toBe(model.nextOrdinal + at);
      if (sent !== undefined && fid !== undefined) {
        model.keep(fid, sent, clock.ms, model.callCount);
      }
    }
  }
  model.sync(); // what was found is on the disk before anything is said of it
  const { needleCount } = volume.report();
  for (let ordinal = 0; ordinal < needleCount; ordinal++) {
    expect(isPromised(ordinal), `ordinal ${ordinal} was given out`).toBe(true);
  }
  for (const ordinal of [...model.entries.keys(), ...model.free]) {
    expect(ordinal).toBeLessThan(needleCount);
  }
  model.nextOrdinal = needleCount;
}

const every: fc.Arbitrary<Command>[] = [
  append,
  append,
  burst,
  reserve,
  put,
  put,
  put,
  remove,
  remove,
  wait,
  reopen,
  reboot,
  reboot,
  scrub,
  emptyTrash,
];
const late: fc.Arbitrary<Command>[] = [
  compact,
  compact,
  remove,
  wait,
  reopen,
  reboot,
  emptyTrash,
  scrub,
  put,
];

for (const isNative of [false, true]) {
  test(`A volume does what a map does, and a power cut takes nothing that was promised (${isNative ? "native" : "original"})`, {
    timeout: 3_600_000,
  }, async () => {
    // Once it is sealed little more can be done to it: two parts, so that each is worth its time.
    const life = fc.tuple(
      fc.commands(every, { maxCommands: 30, size: "max" }),
      seal,
      fc.commands(late, { maxCommands: 12, size: "max" }),
    );
    await fc.assert(
      fc.asyncProperty(life, async ([open, sealing, sealed]) => {
        const model = new Model(isNative);
        const real = await Real.create(isNative);
        const setup = () => ({ model, real });
        await fc.asyncModelRun(async () => setup(), open);
        await sealing.run(model, real);
        await fc.asyncModelRun(async () => setup(), sealed);
        await real.volume.close();
      }),
      { numRuns: runCount, seed },
    );
  });
}

function fail(): never {
  throw new Error("there is one");
}
