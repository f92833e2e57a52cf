/**
 * What tests of volumes with several copies share: the copies, each on a disk or in a folder of its own, the
 * lines between them, which can be cut, and what a directory would decide.
 */

import { expect } from "vitest";
import { Failure } from "../../base/failure.ts";
import type { FileSystem } from "../../base/files.ts";
import type { SimulatedFiles } from "../../base/simulated-files.ts";
import type { Batch } from "./batch.ts";
import {
  environmentOn,
  HandClock,
  simulatedLimitBytes,
  simulatedSuperblock,
  simulatedVolume,
} from "./simulated-volume.ts";
import type { Superblock } from "./superblock.ts";
import { type SealedAt, Volume } from "./volume.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";
import type { Replicate } from "./volume-writer.ts";

/** What becomes of a batch on its way to a replica. */
export type Line = (batch: Batch, take: () => Promise<void>) => Promise<void>;

export class Copy {
  readonly store: string;
  readonly folder: string;
  readonly clock: HandClock;
  files: SimulatedFiles;
  #volume: Volume | undefined;
  #lives = 0;
  line: Line = (_, take) => take();
  /** What the next life sees the disk through. */
  through: (files: SimulatedFiles) => FileSystem = (files) => files;

  constructor(store: string, folder: string, files: SimulatedFiles, clock: HandClock) {
    this.store = store;
    this.folder = folder;
    this.files = files;
    this.clock = clock;
  }

  get volume(): Volume {
    if (this.#volume === undefined) throw new Error("Cannot use a copy that is not open");
    return this.#volume;
  }

  environment(): VolumeEnvironment {
    this.#lives += 1;
    const seed = this.#lives * 16 + Number.parseInt(this.store[0] ?? "0", 16);
    const { clock, folder } = this;
    return { ...environmentOn(this.through(this.files), { clock, seed }), folder };
  }

  async create(members: string[], change: Partial<Superblock> = {}): Promise<void> {
    const superblock = simulatedSuperblock(change);
    const terms = { members, limitBytes: simulatedLimitBytes };
    this.#volume = await Volume.create(this.environment(), superblock, terms);
  }

  async open(): Promise<void> {
    this.#volume = await Volume.open(this.environment(), simulatedVolume, simulatedLimitBytes);
  }

  async take(batch: Batch): Promise<void> {
    await this.line(batch, () => this.volume.takeBatch(Buffer.concat(batch.buffers), batch));
  }

  /** The volume's file as readers see it. */
  bytes(): Buffer {
    const { generation } = this.volume.superblock;
    const name = `${this.folder}/${simulatedVolume}.g${generation}.volume`;
    return this.files.visible(name) ?? Buffer.alloc(0);
  }

  read(start: number, length: number): Promise<Buffer> {
    return Promise.resolve(this.bytes().subarray(start, start + length));
  }

  async asides(): Promise<string[]> {
    const names = await this.files.list(this.folder);
    return names.filter((name) => name.includes(".aside."));
  }
}

/** A volume's copies, the primary first. */
export class Copies {
  readonly all: Copy[];
  epoch = 0;

  constructor(files: readonly SimulatedFiles[], clock: HandClock = new HandClock()) {
    this.all = files.map(
      (each, at) => new Copy((at + 10).toString(16).repeat(16), `/store${at}`, each, clock),
    );
  }

  get members(): string[] {
    return this.all.map(({ store }) => store);
  }

  get primary(): Copy {
    return this.at(0);
  }

  at(number: number): Copy {
    const copy = this.all[number];
    if (copy === undefined) throw new Error(`Cannot find copy ${number}`);
    return copy;
  }

  get replicas(): Copy[] {
    return this.all.slice(1);
  }

  readonly replicate: Replicate = async (batch) => {
    await Promise.all(
      this.replicas.map(async (copy) => {
        try {
          await copy.take(batch);
        } catch (error) {
          throw new Failure("unavailable", `the copy at ${copy.store} was lost`, { cause: error });
        }
      }),
    );
  };

  async create(change: Partial<Superblock> = {}): Promise<void> {
    for (const copy of this.all) await copy.create(this.members, change);
    await this.begin();
  }

  /** The primary last: then there is nobody yet who would not take its batches. */
  async begin(): Promise<void> {
    this.epoch += 1;
    const { members, replicate, epoch } = this;
    for (const { volume } of this.replicas) {
      await volume.beginEpoch(epoch, { members, part: { kind: "replica" } });
    }
    await this.primary.volume.beginEpoch(epoch, { members, part: { kind: "primary", replicate } });
  }

  async fence(): Promise<void> {
    this.epoch += 1;
    for (const { volume } of this.all) await volume.fence(this.epoch);
  }

  /** Where this copy ends now. */
  pointOf({ volume }: Copy): SealedAt {
    const { lengthBytes, lastDigest } = volume.report();
    return { epoch: this.epoch, lengthBytes, lastDigest, members: this.members };
  }

  longest(among: readonly Copy[] = this.all): Copy {
    const lengthOf = ({ volume }: Copy) => volume.report().lengthBytes;
    return among.reduce((best, copy) => (lengthOf(copy) > lengthOf(best) ? copy : best));
  }

  /** Seals a copy at `point`, filled from `source` where it is short. */
  async sealAt(copy: Copy, point: SealedAt, source: Copy): Promise<void> {
    try {
      await copy.volume.sealAt(point);
    } catch (error) {
      if (!(error instanceof Failure) || error.kind !== "precondition-failed") throw error;
      await copy.volume.fill(point, (start, length) => source.read(start, length));
      await copy.volume.sealAt(point);
    }
    await copy.volume.mergeDeletes(source.volume.deleted());
    copy.volume.serve();
  }

  /** All copies have the same bytes in their files, and say the same of them. */
  expectEqual(): void {
    const [first, ...others] = this.all;
    const facts = ({ volume }: Copy) => {
      const { lengthBytes, lastDigest, needleCount, dataBytes, damagedBytes, state } =
        volume.report();
      return { lengthBytes, lastDigest, needleCount, dataBytes, damagedBytes, state };
    };
    for (const other of others) {
      expect(facts(other)).toEqual(first && facts(first));
      expect(other.bytes().equals(first?.bytes() ?? Buffer.alloc(0)), "same bytes").toBe(true);
    }
    expect(first?.bytes().length).toBe(first?.volume.report().lengthBytes);
  }
}
