/**
 * Three copies and a directory beside the obvious model, a map of what was acknowledged: whatever is lost on
 * the way, in any order, what was acknowledged is on every copy once the volume is sealed, and all are equal.
 */

import { expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import { seededRandom } from "../../base/random.ts";
import { type Loss, SimulatedFiles } from "../../base/simulated-files.ts";
import { Copies, type Copy } from "./simulated-copies.ts";
import { blobOf, readContent } from "./simulated-volume.ts";
import type { SealedAt } from "./volume.ts";

/** `RUNS=1000 SEED=$RANDOM npx vitest run store/volume/replication-model` tries others. */
const runCount = Number(process.env.RUNS ?? 25);
const firstSeed = Number(process.env.SEED ?? 1);
const stepCount = 25;

interface Stored {
  fid: Fid;
  data: Buffer;
  /** Whether every copy said that it is deleted, one or more may have it so, or nobody was asked. */
  deleted: "yes" | "maybe" | "no";
}

class World {
  readonly random: ReturnType<typeof seededRandom>;
  readonly copies: Copies;
  readonly stored = new Map<number, Stored>();
  /** Copies whose process runs. */
  readonly up = new Set<Copy>();
  /** The primary's run that holds the epoch is still the one that is up. */
  isPrimarysRun = true;
  isOpen = true;

  constructor(seed: number) {
    this.random = seededRandom(seed);
    const disks = [1, 2, 3].map((at) => new SimulatedFiles({ seed: seed * 8 + at }));
    this.copies = new Copies(disks);
    for (const copy of this.copies.all) {
      this.up.add(copy);
      copy.line = async (_, take) => {
        if (!this.up.has(copy)) throw new Error("it is down");
        const chance = this.random.fraction();
        if (chance < 0.04) throw new Error("the batch was lost on its way");
        await take();
        if (chance < 0.08) throw new Error("the answer was lost on its way");
      };
    }
  }

  pick<Value>(values: readonly Value[]): Value {
    const value = values[Math.floor(this.random.fraction() * values.length)];
    if (value === undefined) throw new Error("Cannot pick of none");
    return value;
  }

  async append(): Promise<void> {
    const { primary } = this.copies;
    if (!this.up.has(primary)) return;
    const calls = Array.from({ length: 1 + (this.random.u32() % 3) }, () =>
      Array.from({ length: 1 + (this.random.u32() % 2) }, () =>
        this.random.bytes(this.random.u32() % 300),
      ),
    );
    await Promise.all(
      calls.map(async (contents) => {
        try {
          const fids = await primary.volume.appendAll(contents.map((data) => blobOf(data)));
          for (const [at, fid] of fids.entries()) {
            expect(this.stored.has(fid.ordinal), "no ordinal is given out twice").toBe(false);
            const data = contents[at] ?? Buffer.alloc(0);
            this.stored.set(fid.ordinal, { fid, data, deleted: "no" });
          }
        } catch (error) {
          if (!(error instanceof Failure)) throw error;
        }
      }),
    );
  }

  async delete(): Promise<void> {
    if (this.stored.size === 0) return;
    const stored = this.pick([...this.stored.values()]);
    if (stored.deleted !== "yes") stored.deleted = "maybe";
    let isOnAll = true;
    for (const copy of this.copies.all) {
      try {
        if (!this.up.has(copy)) throw new Failure("unavailable", "it is down");
        await copy.volume.delete(stored.fid.ordinal, stored.fid.cookie);
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        isOnAll = false;
      }
    }
    if (isOnAll) stored.deleted = "yes";
  }

  /** With something in flight, now and then. */
  async crash(): Promise<void> {
    const copy = this.pick(this.copies.all);
    if (!this.up.has(copy)) return;
    const inFlight = this.append();
    for (let turn = this.random.u32() % 40; turn > 0; turn--) await Promise.resolve();
    this.up.delete(copy);
    copy.files.cutPower();
    await inFlight;
    const lose = this.pick<Loss>(["all", "some", "none"]);
    copy.files = copy.files.restart({ lose, random: this.random });
    if (copy === this.copies.primary) this.isPrimarysRun = false;
  }

  async failDisk(): Promise<void> {
    const copy = this.pick(this.copies.all);
    const kind = this.pick(["write", "sync"] as const);
    copy.files.plan = (operation) =>
      operation.kind === kind && operation.file.endsWith(".volume")
        ? { kind: "error", code: "EIO", done: this.pick(["none", "some"]) }
        : undefined;
    await this.append();
    copy.files.plan = undefined;
  }

  async start(copy: Copy): Promise<void> {
    if (this.up.has(copy)) return;
    await copy.open();
    expect(copy.volume.report()).toMatchObject({ damagedBytes: 0, isServing: false });
    this.up.add(copy);
  }

  /** What the directory does once something has happened: fence, and go on where all are equal. */
  async direct(): Promise<void> {
    const { copies } = this;
    for (const copy of copies.all) if (this.random.fraction() < 0.8) await this.start(copy);
    const live = copies.all.filter((copy) => this.up.has(copy));
    if (live.length === 0) return;
    copies.epoch += 1;
    const fencing = this.random.fraction() < 0.5 ? this.append() : undefined;
    for (const { volume } of live) await volume.fence(copies.epoch);
    await fencing;
    const reports = live.map(({ volume }) => volume.report());
    const isEqual =
      new Set(reports.map(({ lengthBytes, lastDigest }) => `${lengthBytes} ${lastDigest}`)).size ===
      1;
    const isWell = reports.every(({ closedBecause }) => closedBecause === undefined);
    if (live.length === copies.all.length && isEqual && isWell) {
      await copies.begin();
      this.isPrimarysRun = true;
      return;
    }
    const isPrimaryLive = this.isPrimarysRun && this.up.has(copies.primary);
    await this.seal(copies.pointOf(isPrimaryLive ? copies.primary : copies.longest(live)), live);
  }

  async seal(point: SealedAt, live: readonly Copy[]): Promise<void> {
    const { copies } = this;
    this.isOpen = false;
    const source = copies.longest(live);
    // Those with enough first: a copy is filled from one that was sealed.
    for (const copy of [source, ...live]) await copies.sealAt(copy, point, source);
    for (const copy of copies.all) {
      await this.start(copy);
      await copies.sealAt(copy, point, source);
    }
    for (const copy of copies.all) {
      for (const other of copies.all) await copy.volume.mergeDeletes(other.volume.deleted());
    }
  }

  /** Every copy that serves gives what was acknowledged; once sealed all do, and are equal. */
  async check(): Promise<void> {
    const { all } = this.copies;
    for (const copy of all) {
      if (!this.up.has(copy) || !copy.volume.report().isServing) continue;
      for (const { fid, data, deleted } of this.stored.values()) {
        const read = await readContent(copy.volume, fid);
        if (deleted === "yes") expect(read, `ghost ${fid.ordinal}`).toBeUndefined();
        else if (read !== undefined) expect(read.equals(data)).toBe(true);
        else expect(deleted, `lost ${fid.ordinal} at ${copy.store[0]}`).toBe("maybe");
      }
    }
    if (this.isOpen) return;
    expect(all.every((copy) => copy.volume.report().isServing)).toBe(true);
    this.copies.expectEqual();
    expect(new Set(all.map(({ volume }) => volume.report().deletesDigest)).size).toBe(1);
    for (const { volume } of all) expect(await volume.scrub({ rateBytes: 0 })).toEqual([]);
  }
}

for (let seed = firstSeed; seed < firstSeed + runCount; seed++) {
  test(`What three copies acknowledged is on all of them in the end (seed ${seed})`, {
    timeout: 60_000,
  }, async () => {
    const world = new World(seed);
    await world.copies.create();
    for (let step = 0; step < stepCount && world.isOpen; step++) {
      const chance = world.random.fraction();
      if (chance < 0.5) await world.append();
      else if (chance < 0.65) await world.delete();
      else if (chance < 0.8) await world.crash();
      else if (chance < 0.83) await world.failDisk();
      else await world.direct();
      await world.check();
    }
    while (world.isOpen) {
      await world.crash();
      await world.direct();
    }
    await world.check();
    // And it is so on the disks.
    for (const copy of world.copies.all) {
      await copy.volume.close();
      copy.files = copy.files.restart({ lose: "all" });
      await copy.open();
      copy.volume.serve();
    }
    await world.check();
  });
}
