/**
 * Every fault at every file operation of a volume with two copies: whatever was acknowledged is on both after
 * they were sealed at the same place, and the two are equal to the last byte.
 */

import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { seededRandom } from "../../base/random.ts";
import { enumerateFaults } from "../../base/simulated-faults.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import { Copies } from "./simulated-copies.ts";
import { attempt, blobOf, readContent, simulatedVolume } from "./simulated-volume.ts";
import type { Superblock } from "./superblock.ts";
import type { SealedAt } from "./volume.ts";

/** More seeds tear more writes in other places: `SEEDS=20 npx vitest run store/volume/replication-faults`. */
const seedCount = Number(process.env.SEEDS ?? 1);

/** What was acknowledged. */
class Promised {
  isCreated = false;
  readonly stored: { fid: Fid; data: Buffer }[] = [];
  readonly deleted = new Set<number>();
  /** Begun, and not answered. */
  readonly doubtful = new Set<number>();
  /** Where the directory has decided to end it, if it has. */
  point: SealedAt | undefined;

  copy(): Promised {
    const copy = new Promised();
    copy.isCreated = this.isCreated;
    copy.stored.push(...this.stored);
    for (const ordinal of this.deleted) copy.deleted.add(ordinal);
    for (const ordinal of this.doubtful) copy.doubtful.add(ordinal);
    copy.point = this.point;
    return copy;
  }
}

type Step = (copies: Copies, promised: Promised) => Promise<unknown>;

interface Scenario {
  before?: Step[];
  superblock?: Partial<Superblock>;
  /** Each may fail by itself, and the next ones are tried all the same. */
  steps: Step[];
}

const contents = seededRandom(21);

const append =
  (...lengths: number[]): Step =>
  async (copies, promised) => {
    const sent = lengths.map((length) => contents.bytes(length));
    const fids = await copies.primary.volume.appendAll(sent.map((data) => blobOf(data)));
    for (const [at, fid] of fids.entries()) {
      promised.stored.push({ fid, data: sent[at] ?? Buffer.alloc(0) });
    }
  };

const put =
  (ordinal: number): Step =>
  async ({ primary }, promised) => {
    const data = contents.bytes(50 + ordinal);
    await primary.volume.put({ ordinal, cookie: 7 }, blobOf(data));
    promised.stored.push({ fid: { volume: simulatedVolume, ordinal, cookie: 7 }, data });
  };

const remove =
  (at: number): Step =>
  async ({ all }, promised) => {
    const { fid } = promised.stored[at] ?? {};
    if (fid === undefined) return;
    promised.doubtful.add(fid.ordinal);
    for (const { volume } of all) await volume.delete(fid.ordinal, fid.cookie);
    promised.deleted.add(fid.ordinal);
  };

const fence: Step = (copies) => copies.fence();

/** As the directory does it: only where all copies are equal and nothing is wrong with any. */
const begin: Step = async (copies) => {
  const reports = copies.all.map(({ volume }) => volume.report());
  const ends = new Set(
    reports.map(({ lengthBytes, lastDigest }) => `${lengthBytes} ${lastDigest}`),
  );
  const isFenced = reports.every(({ epoch }) => epoch === copies.epoch);
  const isWell = reports.every(({ closedBecause }) => closedBecause === undefined);
  if (ends.size > 1 || !isFenced || !isWell) throw new Failure("conflict", "not equal");
  await copies.begin();
};

/** Decides where it ended: a live primary's acknowledged length. */
const endAtPrimary: Step = async (copies, promised) => {
  promised.point = copies.pointOf(copies.primary);
};

/** The same where the primary was away: the longest. */
const endAtLongest: Step = async (copies, promised) => {
  await copies.primary.volume.close();
  await copies.primary.open();
  await copies.fence();
  promised.point = copies.pointOf(copies.longest());
};

const seal: Step = async (copies, { point }) => {
  if (point === undefined) return;
  const sources = copies.all.filter(
    ({ volume }) => volume.report().lengthBytes >= point.lengthBytes,
  );
  for (const copy of copies.all) {
    await attempt(() => copies.sealAt(copy, point, sources[0] ?? copy));
    await copy.volume.settled(); // its afterwork comes whenever it may
  }
};

async function enumerate({ before, superblock = {}, steps }: Scenario): Promise<number> {
  const past = new Promised();
  let epoch = 0;
  const { checkCount } = await enumerateFaults<Promised>(
    {
      async prepare() {
        const files = new SimulatedFiles();
        if (before === undefined) return files;
        const copies = new Copies([files, files]);
        await copies.create(superblock);
        past.isCreated = true;
        for (const step of before) await step(copies, past);
        for (const { volume } of copies.all) await volume.close();
        ({ epoch } = copies);
        return files;
      },
      begin: () => past.copy(),
      async act(files, promised) {
        const copies = new Copies([files, files]);
        const failure = await attempt(async () => {
          if (before === undefined) {
            await copies.create(superblock);
          } else {
            for (const copy of copies.all) await copy.open();
            copies.epoch = epoch;
            await copies.begin();
          }
          promised.isCreated = true;
        });
        if (failure !== undefined) return;
        for (const step of steps) await attempt(() => step(copies, promised));
        for (const { volume } of copies.all) await attempt(() => volume.close());
      },
      async check(files, outcome, { fault }) {
        // The same outcome is held against several states of the disk.
        const promised = outcome.copy();
        const copies = new Copies([files, files]);
        for (const copy of copies.all) {
          try {
            await copy.open();
          } catch (error) {
            // A copy that was never acknowledged may not be there.
            if (!(error instanceof Failure) || error.kind !== "not-found") throw error;
            expect(promised.isCreated).toBe(false);
            return;
          }
          const { damagedBytes, closedBecause } = copy.volume.report();
          expect({ damagedBytes, closedBecause }, JSON.stringify(fault)).toEqual({
            damagedBytes: 0,
            closedBecause: undefined,
          });
        }
        const seen = copies.all.map(({ volume }) => volume.report());
        const sealed = seen.find(({ state }) => state === "sealed");
        if (sealed === undefined || promised.point === undefined) {
          expect(sealed).toBeUndefined();
          copies.epoch = Math.max(...seen.map((report) => report.epoch));
          await copies.fence();
          promised.point = copies.pointOf(copies.longest());
        }
        const { point } = promised;
        const source = copies.longest();
        for (const copy of copies.all) await copies.sealAt(copy, point, source);
        for (const copy of copies.all) {
          for (const other of copies.all) {
            await copy.volume.mergeDeletes(other.volume.deleted());
          }
        }
        await checkSealed(copies, promised);
        // And once more after a power cut: what was sealed is on the disk.
        for (const { volume } of copies.all) await volume.close();
        files.cutPower();
        const disk = files.restart({ lose: "all" });
        const again = new Copies([disk, disk]);
        for (const copy of again.all) {
          await copy.open();
          copy.volume.serve();
        }
        await checkSealed(again, promised);
        for (const { volume } of again.all)
          expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
        const isKnown = /^3\.(json|deleted|g0\.(volume|index|aside\.\d+\.\d+))$/;
        for (const { folder } of again.all) {
          for (const name of await disk.list(folder)) expect(name).toMatch(isKnown);
        }
      },
    },
    { seedCount, settleTimeoutMs: 60_000 },
  );
  return checkCount;
}

async function checkSealed(copies: Copies, promised: Promised): Promise<void> {
  copies.expectEqual();
  expect(copies.primary.volume.report().lengthBytes).toBe(promised.point?.lengthBytes);
  for (const { volume } of copies.all) {
    for (const { fid, data } of promised.stored) {
      const read = await readContent(volume, fid);
      if (promised.deleted.has(fid.ordinal)) expect(read, `ghost ${fid.ordinal}`).toBeUndefined();
      else if (read !== undefined) expect(read.equals(data), `${fid.ordinal} as it was`).toBe(true);
      else expect(promised.doubtful.has(fid.ordinal), `lost ${fid.ordinal}`).toBe(true);
    }
  }
}

test("Creating, appending and taking batches survive every fault", {
  timeout: 300_000,
}, async () => {
  const checks = await enumerate({
    steps: [append(100), append(20, 40_000, 30), remove(1), append(60)],
  });
  expect(checks).toBeGreaterThan(300);
});

test("Reservations and puts out of order survive every fault", { timeout: 300_000 }, async () => {
  const checks = await enumerate({
    superblock: { class: "native" },
    steps: [({ primary }) => primary.volume.reserve(4), put(2), put(0), append(10)],
  });
  expect(checks).toBeGreaterThan(300);
});

test("Fencing, another epoch and what was excess in the one before survive every fault", {
  timeout: 300_000,
}, async () => {
  const checks = await enumerate({
    before: [append(100)],
    steps: [
      async (copies, promised) => {
        const replica = copies.at(1);
        replica.line = () => Promise.reject(new Error("it was lost"));
        await attempt(() => append(700)(copies, promised));
        replica.line = (_, take) => take();
      },
      fence,
      begin,
      append(60, 10),
    ],
  });
  expect(checks).toBeGreaterThan(100);
});

for (const isLonger of [false, true]) {
  test(`Sealing with one copy ${isLonger ? "longer than" : "short of"} where it ends survives every fault`, {
    timeout: 300_000,
  }, async () => {
    const checks = await enumerate({
      before: [append(100), append(20, 30, 40)],
      steps: [
        async (copies, promised) => {
          const replica = copies.at(1);
          replica.line = isLonger
            ? async (_, take) => {
                await take();
                throw new Error("it was lost");
              }
            : () => Promise.reject(new Error("it was lost"));
          await attempt(() => append(700, 20)(copies, promised));
        },
        fence,
        isLonger ? endAtPrimary : endAtLongest,
        seal,
        remove(2),
      ],
    });
    expect(checks).toBeGreaterThan(100);
  });
}
