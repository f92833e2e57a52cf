/**
 * Every fault at every file operation: what was acknowledged is there afterwards, what was deleted is not,
 * and nothing is read that nobody sent.
 */

import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import { seededRandom } from "../../base/random.ts";
import { enumerateFaults, type FaultOptions } from "../../base/simulated-faults.ts";
import { SimulatedFiles, type SimulationOptions } from "../../base/simulated-files.ts";
import {
  attempt,
  createOn,
  environmentOn,
  openOn,
  Promises,
  readContent,
  simulatedFolder,
} from "./simulated-volume.ts";
import type { Superblock } from "./superblock.ts";
import type { Volume } from "./volume.ts";

const random = seededRandom(5);
const small = () => random.bytes(20 + (random.u32() % 200));
const contents = {
  first: [small()],
  batch: [small(), small(), small()],
  large: [random.bytes(40_000)],
  later: [small(), small()],
};

interface Scenario {
  /** What is there before. */
  before?: (volume: Volume, promises: Promises) => Promise<void>;
  superblock?: Partial<Superblock>;
  /** The work: each step may fail by itself, and the next ones are tried all the same. */
  steps: ((volume: Volume, promises: Promises) => Promise<unknown>)[];
}

/** More seeds tear more writes in other places: `SEEDS=20 npx vitest run store/volume/volume-faults`. */
const seedCount = Number(process.env.SEEDS ?? 1);

/** Runs the scenario with every fault; returns how many checks that were. */
async function enumerate(
  { before, superblock = {}, steps }: Scenario,
  options: FaultOptions & { files?: SimulationOptions } = {},
): Promise<number> {
  const past = new Promises();
  const { checkCount } = await enumerateFaults<Promises>(
    {
      async prepare() {
        const files = new SimulatedFiles(options.files ?? {});
        if (before === undefined) return files;
        const volume = await createOn(environmentOn(files), superblock);
        past.isCreated = true;
        await before(volume, past);
        await volume.close();
        return files;
      },
      begin: () => copyOf(past),
      async act(files, promises) {
        const environment = environmentOn(files, { seed: 2 });
        let volume: Volume | undefined;
        const failure = await attempt(async () => {
          volume =
            before === undefined
              ? await createOn(environment, superblock)
              : await openOn(environment);
          promises.isCreated = true;
          if (before !== undefined) await volume.beginEpoch(2);
        });
        if (volume === undefined) return expect(failure).toBeDefined();
        const opened = volume;
        for (const step of steps) {
          await attempt(() => step(opened, promises));
          await promises.check(opened, { mayFail: true });
        }
        await attempt(() => opened.close());
      },
      async check(files, outcome, { fault }) {
        // The same outcome is held against several states of the disk.
        const promises = copyOf(outcome);
        const environment = environmentOn(files, { seed: 3 });
        let volume: Volume;
        try {
          volume = await openOn(environment);
        } catch (error) {
          // A volume that was never acknowledged, or was dropped, may not be there; made again it is whole.
          if (!(error instanceof Failure) || error.kind !== "not-found") throw error;
          expect(promises.isCreated && !promises.maybeDropped).toBe(false);
          if (promises.maybeDropped) {
            expect(
              (await files.list(simulatedFolder)).filter((name) => /^3[.]/.test(name)),
            ).toEqual([]);
            return;
          }
          volume = await createOn(environment, superblock);
        }
        expect(promises.isDropped, "a dropped volume stays dropped").toBe(false);
        await promises.check(volume);
        await promises.checkAll(volume);
        const report = volume.report();
        expect(report.damagedBytes).toBe(0);
        expect(report.closedBecause, JSON.stringify(fault)).toBeUndefined();
        // And it goes on from there.
        if (report.state === "open") {
          await volume.beginEpoch(report.epoch + 1);
          await promises.append(volume, [Buffer.from("afterwards")]);
        }
        // What was told once is told again after the next power cut, even if a failed sync had left it
        // in the page cache alone when it was found.
        const told = await promises.readable(volume);
        await volume.close();
        files.cutPower();
        const disk = files.restart({ lose: "all" });
        const again = await openOn(environmentOn(disk, { seed: 4 }));
        await promises.check(again);
        expect((await promises.readable(again)).join(" ")).toBe(told.join(" "));
        await again.close();
        const isKnown = /^3\.(json|deleted|g\d+\.(volume|index|aside\.\d+\.\d+))$/;
        for (const name of await disk.list(simulatedFolder)) expect(name).toMatch(isKnown);
      },
    },
    { seedCount, ...options },
  );
  return checkCount;
}

function copyOf(past: Promises): Promises {
  const copy = new Promises();
  copy.isCreated = past.isCreated;
  for (const [ordinal, kept] of past.stored) copy.stored.set(ordinal, kept);
  for (const hex of past.sent) copy.sent.add(hex);
  for (const ordinal of past.deleted) copy.deleted.add(ordinal);
  for (const ordinal of past.doubtful) copy.doubtful.add(ordinal);
  copy.isDropped = past.isDropped;
  copy.maybeDropped = past.maybeDropped;
  return copy;
}

const filled = async (volume: Volume, promises: Promises) => {
  await promises.append(volume, contents.first);
  await promises.append(volume, contents.batch);
  await promises.append(volume, contents.large);
  await promises.delete(volume, 1);
};

test("Creating, appending, batches, checkpoints and deletes survive every fault", {
  timeout: 300_000,
}, async () => {
  const checks = await enumerate({
    steps: [
      (volume, promises) => promises.append(volume, contents.first),
      (volume, promises) => promises.append(volume, contents.batch),
      (volume, promises) => promises.delete(volume, 1),
      (volume) => volume.settled(),
      (volume, promises) => promises.append(volume, contents.large),
      (volume, promises) => promises.delete(volume, 3),
      (volume, promises) => promises.append(volume, contents.later),
    ],
  });
  expect(checks).toBeGreaterThan(300);
});

test("A second life, on a checkpoint and what came after it, survives every fault", {
  timeout: 300_000,
}, async () => {
  const checks = await enumerate({
    before: async (volume, promises) => {
      await filled(volume, promises);
      await volume.settled();
      await promises.append(volume, contents.later);
    },
    steps: [
      (volume, promises) => promises.append(volume, contents.batch),
      (volume, promises) => promises.delete(volume, 5),
      (volume) => volume.settled(),
    ],
  });
  expect(checks).toBeGreaterThan(100);
});

test("Sealing survives every fault", { timeout: 300_000 }, async () => {
  const checks = await enumerate({
    before: filled,
    steps: [
      (volume, promises) => promises.append(volume, contents.later),
      (volume) => volume.seal(),
      (volume) => volume.settled(),
      (volume, promises) => promises.delete(volume, 2),
      (volume) => volume.scrub({ rateBytes: 0 }),
    ],
  });
  expect(checks).toBeGreaterThan(100);
});

for (const purge of [true, false]) {
  test(`Compaction survives every fault, the old file ${purge ? "purged" : "kept for a while"}`, {
    timeout: 300_000,
  }, async () => {
    const order = { ttlCutoffMs: 0, rateBytes: 0, purge };
    const checks = await enumerate({
      before: async (volume, promises) => {
        await filled(volume, promises);
        await volume.seal();
        await volume.settled();
      },
      steps: [
        async (volume, promises) => {
          const compacting = volume.compact({ ...order, generation: 1 });
          await Promise.allSettled([compacting, promises.delete(volume, 2)]);
          await compacting;
        },
        // Done, or tried once more.
        (volume) => volume.compact({ ...order, generation: 1 }),
        (volume, promises) => promises.delete(volume, 0),
        (volume) => volume.compact({ ...order, generation: 2 }),
        (volume) => volume.emptyTrash(Number.POSITIVE_INFINITY),
      ],
    });
    expect(checks).toBeGreaterThan(200);
  });
}

test("Reservations and what is put in their place, in any order, survive every fault", {
  timeout: 300_000,
}, async () => {
  const [one = Buffer.alloc(1), two = Buffer.alloc(2)] = contents.later;
  const checks = await enumerate({
    superblock: { class: "native" },
    steps: [
      (volume) => volume.reserve(5),
      (volume, promises) => promises.put(volume, 3, one),
      (volume, promises) => promises.put(volume, 1, two),
      (volume, promises) => promises.append(volume, contents.batch),
      (volume) => volume.settled(),
      (volume, promises) => promises.put(volume, 0, Buffer.from("zero")),
      (volume, promises) => promises.delete(volume, 3),
      (volume) => volume.seal(),
      (volume) => volume.settled(),
      (volume) => volume.compact({ generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: true }),
    ],
  });
  expect(checks).toBeGreaterThan(300);
});

test("A dropped volume is gone or all there, whatever happens on the way", {
  timeout: 300_000,
}, async () => {
  const checks = await enumerate({
    before: filled,
    steps: [
      async (volume, promises) => {
        promises.maybeDropped = true;
        await volume.drop();
        promises.isDropped = true;
      },
    ],
  });
  expect(checks).toBeGreaterThan(50);
});

test("Reads that fail or fall short never make a wrong answer", { timeout: 300_000 }, async () => {
  await enumerate(
    {
      before: filled,
      steps: [
        async (volume, promises) => {
          for (const { fid, data } of promises.stored.values()) {
            const read = await readContent(volume, fid).catch(() => undefined);
            if (read !== undefined) expect(read.equals(data)).toBe(true);
          }
        },
        (volume, promises) => promises.append(volume, contents.later),
        (volume) => volume.seal(),
        (volume) => volume.settled(),
        (volume) => volume.compact({ generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: true }),
      ],
    },
    { files: { numbersReads: true }, seedCount: 1 },
  );
});

test("A compaction that is tried again after its switch failed halfway survives a crash anywhere", async () => {
  const before = new SimulatedFiles();
  const past = new Promises();
  const made = await createOn(environmentOn(before));
  await filled(made, past);
  await made.seal();
  await made.close();
  const order = { generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: true };

  /** Two tries, the first of which fails when the descriptor is on the disk and nobody can tell. */
  const run = async (crashAt: number | undefined): Promise<SimulatedFiles> => {
    const files = before.clone({ afterCut: "hang" });
    let switched = 0;
    files.plan = ({ number, kind, file }) => {
      if (number === crashAt) return { kind: "crash", done: "all" };
      if (kind === "rename" && file === `${simulatedFolder}/3.json` && switched === 0) {
        switched = number;
      }
      const isItsSync = kind === "sync-folder" && switched !== 0 && number === switched + 1;
      return isItsSync ? { kind: "error", code: "EIO", done: "all" } : undefined;
    };
    const work = async () => {
      const volume = await openOn(environmentOn(files));
      expect(await attempt(() => volume.compact(order))).toBeDefined();
      await attempt(() => volume.compact(order));
    };
    await Promise.race([work(), files.cut]);
    return files;
  };

  const { operationCount } = await run(undefined);
  for (let crashAt = 1; crashAt <= operationCount; crashAt++) {
    const files = await run(crashAt);
    for (const lose of ["all", "none"] as const) {
      const volume = await openOn(environmentOn(files.clone().restart({ lose })));
      await past.check(volume);
      await past.checkAll(volume);
      await volume.close();
    }
  }
});
