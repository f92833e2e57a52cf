/**
 * What tests of the engine share: a volume on a simulated disk, and a model of what it promised.
 */

import { expect } from "vitest";
import type { Clock } from "../../base/clock.ts";
import { Failure } from "../../base/failure.ts";
import type { Fid } from "../../base/fid.ts";
import type { FileSystem } from "../../base/files.ts";
import { seededRandom } from "../../base/random.ts";
import { scan } from "./scrub.ts";
import type { Superblock } from "./superblock.ts";
import { type Blob, Volume } from "./volume.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";

export const simulatedFolder = "/store";
export const simulatedVolume = 3;
export const simulatedLimitBytes = 1_073_741_824;

/** Stands still, so that two runs make the same names and bytes; tests move it by hand. */
export class HandClock implements Clock {
  ms: number = 1_790_000_000_000;

  nowMs(): number {
    return this.ms;
  }

  monotonicMs(): number {
    return this.ms;
  }
}

export function environmentOn(
  files: FileSystem,
  { clock = new HandClock(), seed = 1 }: { clock?: Clock; seed?: number } = {},
): VolumeEnvironment {
  return {
    files,
    clock,
    random: seededRandom(seed),
    folder: simulatedFolder,
    refusal: () => undefined,
    spend: () => undefined,
    checkpointNeedles: 3,
  };
}

/** The same for all copies of a volume. */
export function simulatedSuperblock(change: Partial<Superblock> = {}): Superblock {
  const random = seededRandom(99);
  return {
    volume: simulatedVolume,
    uuid: random.bytes(16),
    generation: 0,
    class: "original",
    recordMagic: random.bytes(8),
    createdMs: 1_790_000_000_000,
    firstFree: 0,
    ttlSeconds: 0,
    hasSparseKeys: false,
    ...change,
  };
}

export async function createOn(
  environment: VolumeEnvironment,
  change: Partial<Superblock> = {},
): Promise<Volume> {
  const volume = await Volume.create(environment, simulatedSuperblock(change), {
    members: ["a".repeat(16)],
    limitBytes: simulatedLimitBytes,
  });
  await volume.beginEpoch(1);
  return volume;
}

export async function openOn(environment: VolumeEnvironment): Promise<Volume> {
  return await Volume.open(environment, simulatedVolume, simulatedLimitBytes);
}

export function blobOf(data: Buffer, ttlSeconds = 0): Blob {
  return { data, metadata: Buffer.from("{}"), owner: undefined, ttlSeconds };
}

/** The content, or undefined if there is none. */
export async function readContent(volume: Volume, fid: Fid): Promise<Buffer | undefined> {
  const needle = await volume.find(fid.ordinal, fid.cookie);
  if (needle === undefined) return undefined;
  try {
    return Buffer.from(await needle.content());
  } finally {
    needle.close();
  }
}

/** What was asked of a volume, and what it said. */
export class Promises {
  /** Whether the volume itself was acknowledged. */
  isCreated: boolean = false;
  /** By ordinal. */
  readonly stored: Map<number, { fid: Fid; data: Buffer }> = new Map<
    number,
    { fid: Fid; data: Buffer }
  >();
  /** Hex of all that was ever sent: nothing else may be read. */
  readonly sent: Set<string> = new Set<string>();
  readonly deleted: Set<number> = new Set<number>();
  /** Deletes that were not answered: they may have happened. */
  readonly doubtful: Set<number> = new Set<number>();
  isDropped: boolean = false;
  maybeDropped: boolean = false;

  async append(volume: Volume, contents: readonly Buffer[]): Promise<void> {
    for (const data of contents) this.sent.add(data.toString("hex"));
    const fids = await volume.appendAll(contents.map((data) => blobOf(data)));
    for (const [at, fid] of fids.entries()) {
      expect(fid.ordinal).toBe((fids[0]?.ordinal ?? 0) + at);
      this.#keep(fid, contents[at] ?? Buffer.alloc(0));
    }
  }

  async put(volume: Volume, ordinal: number, data: Buffer): Promise<void> {
    this.sent.add(data.toString("hex"));
    this.#keep(await volume.put({ ordinal, cookie: 7 }, blobOf(data)), data);
  }

  async delete(volume: Volume, ordinal: number): Promise<void> {
    const kept = this.stored.get(ordinal);
    if (kept === undefined) return;
    this.doubtful.add(ordinal);
    await volume.delete(ordinal, kept.fid.cookie);
    this.doubtful.delete(ordinal);
    this.deleted.add(ordinal);
  }

  #keep(fid: Fid, data: Buffer): void {
    expect(this.stored.has(fid.ordinal), "no ordinal is given out twice").toBe(false);
    this.stored.set(fid.ordinal, { fid, data });
  }

  /** Whether the volume keeps what it promised. With `mayFail` a read may fail, but never say another thing. */
  async check(volume: Volume, { mayFail = false }: { mayFail?: boolean } = {}): Promise<void> {
    for (const { fid, data } of this.stored.values()) {
      let read: Buffer | undefined;
      try {
        read = await readContent(volume, fid);
      } catch (error) {
        if (!mayFail) throw error;
        continue;
      }
      if (this.deleted.has(fid.ordinal)) expect(read, `ghost ${fid.ordinal}`).toBeUndefined();
      // Not toEqual, which looks at each byte as a property and takes longer than all the rest.
      else if (read !== undefined) expect(read.equals(data), `${fid.ordinal} as it was`).toBe(true);
      else expect(this.doubtful.has(fid.ordinal), `lost ${fid.ordinal}`).toBe(true);
    }
  }

  /** Hex of all that can be read, sorted, whether or not it was promised. */
  async readable(volume: Volume): Promise<string[]> {
    const found: string[] = [];
    await volume.read(async (generation, end) => {
      for await (const slice of scan(generation, end)) {
        for (const each of slice) {
          if (each.kind !== "record" || each.record.head.isReservation) continue;
          const { ordinal, cookie } = each.record.head;
          const read = await readContent(volume, { volume: simulatedVolume, ordinal, cookie });
          if (read !== undefined) found.push(read.toString("hex"));
        }
      }
    });
    return found.sort();
  }

  /** Whether all that can be read was sent, and the whole volume verifies. */
  async checkAll(volume: Volume): Promise<void> {
    const findings = await volume.scrub({ rateBytes: 0 });
    expect(findings).toEqual([]);
    for (const hex of await this.readable(volume)) expect(this.sent.has(hex)).toBe(true);
  }
}

/** What a step failed with, if it did: the engine refuses with sentences, the disk with its codes. */
export async function attempt(step: () => Promise<unknown>): Promise<unknown> {
  try {
    await step();
    return undefined;
  } catch (error) {
    const isTold = error instanceof Failure || (error instanceof Error && "code" in error);
    if (!isTold) throw error;
    return error;
  }
}
