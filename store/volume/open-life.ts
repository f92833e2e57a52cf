/**
 * The open life of a volume's copy: whether it is written, by whom, and under which epoch.
 *
 * Invariants:
 * - It is written only under an epoch that the directory gave to this run of the process: as the primary, by
 *   those who append; as a replica, by the primary's batches. Never by both.
 * - Once it was halted nothing more is written or acknowledged until another epoch begins.
 */

import { Failure } from "../../base/failure.ts";
import type { BatchHead } from "./batch.ts";
import type { Generation } from "./generation.ts";
import type { OffsetIndex } from "./offset-index.ts";
import type { VolumeTail } from "./recovery.ts";
import { type ReadCopy, ReplicaWriter } from "./replica-writer.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";
import { VolumeLog, type VolumeLogOptions } from "./volume-log.ts";
import { type Replicate, VolumeWriter } from "./volume-writer.ts";

/** What a copy is under an epoch. */
export type VolumePart =
  /** Takes appends; `replicate` brings its batches to the others, where there are others. */
  { kind: "primary"; replicate?: Replicate | undefined } | { kind: "replica" };

export interface OpenLifeOptions extends Omit<VolumeLogOptions, "index" | "tail"> {
  environment: VolumeEnvironment;
  generation: Generation;
  index: OffsetIndex;
  tail: VolumeTail;
  limitBytes: number;
  /** The highest that was obeyed. */
  epoch: () => number;
}

export class OpenLife {
  readonly #options: OpenLifeOptions;
  #log: VolumeLog;
  readonly #writer: VolumeWriter;
  readonly #replica: ReplicaWriter;
  /** Under the epoch that the directory gave to this run. */
  #part: VolumePart["kind"] | undefined;

  constructor(options: OpenLifeOptions) {
    const { environment, generation, limitBytes, epoch } = options;
    this.#options = options;
    const log = new VolumeLog(options);
    this.#log = log;
    this.#writer = new VolumeWriter({
      environment,
      generation,
      log,
      limitBytes,
      epoch,
      refusal: () => this.#refusal("primary") ?? environment.refusal(),
    });
    this.#replica = new ReplicaWriter({
      environment,
      generation,
      log,
      epoch,
      refusal: () => this.#refusal("replica"),
    });
  }

  get tail(): VolumeTail {
    return this.#log.tail;
  }

  get index(): OffsetIndex {
    return this.#log.index;
  }

  get isSynced(): boolean {
    return this.#log.isSynced;
  }

  /** Whether the file may have bytes beyond the tail, which nobody acknowledged. */
  get hasExcess(): boolean {
    return this.#log.hasExcess;
  }

  /** Whether the disk failed under it. */
  get hasFailed(): boolean {
    return this.#log.hasFailed;
  }

  get queueBytes(): number {
    return this.#writer.queueBytes;
  }

  get counts(): { syncs: number; appends: number } {
    return this.#log.counts;
  }

  /** Whether it is written under an epoch of this run. */
  get hasPart(): boolean {
    return this.#part !== undefined;
  }

  /** Why it ended, for good or until another epoch begins. */
  get closedBecause(): string | undefined {
    // What ended with the epoch says nothing of the next one.
    const failure = this.hasPart ? this.#writer.failure : this.#log.failure;
    return failure?.message;
  }

  /** Whether what ended it says nothing of this copy or its disk: under another epoch it may go on. */
  get canReopen(): boolean {
    return this.hasPart && this.#writer.failure !== undefined && this.#log.failure === undefined;
  }

  /** Why nothing can be appended here now, or undefined. */
  get appendRefusal(): Failure | undefined {
    const { environment } = this.#options;
    return this.#writer.failure ?? this.#refusal("primary") ?? environment.refusal();
  }

  /** Takes appends, where this is the primary. */
  get writer(): VolumeWriter {
    return this.#writer;
  }

  /** Takes a batch of the primary. */
  async take(bytes: Buffer, head: BatchHead): Promise<void> {
    await this.#replica.take(bytes, head);
  }

  /** Is written from now on, under the epoch that was just made durable. */
  begin(part: VolumePart): void {
    this.#writer.begin(part.kind === "primary" ? part.replicate : undefined);
    this.#part = part.kind;
  }

  /** Ends the epoch; returns when nothing more of it can be written or acknowledged. */
  async halt(): Promise<void> {
    this.#part = undefined;
    await this.#writer.halt();
    await this.#replica.settle();
  }

  /** Waits until nothing is being written, and all that was is synced. */
  async settle(): Promise<void> {
    await this.#writer.settle();
    await this.#replica.settle();
  }

  /** Returns once the needle at `offset` is on the disk; if it does not get there it can't be read any more. */
  async sync(offset: number): Promise<void> {
    await this.#log.sync(offset);
  }

  /** Takes nothing more, for good. */
  end(failure: Failure): void {
    this.#log.end(failure);
  }

  /** The file was cut at the tail. */
  noteCut(): void {
    this.#log.noteCut();
  }

  /** Takes from another copy what this one is short of; it has to be halted. */
  async fill(wanted: {
    lengthBytes: number;
    lastDigest: Buffer;
    read: ReadCopy;
    progress?: (doneBytes: number) => void;
  }): Promise<void> {
    const { generation } = this.#options;
    const before = this.#log;
    // Whatever ended the log before: what is written now comes from another disk, and is synced anew.
    this.#log = new VolumeLog({ ...this.#options, index: before.index, tail: before.tail });
    const { volume } = generation.superblock;
    const why = before.failure ?? this.#unavailable(volume, "it is about to be sealed");
    before.end(why);
    const filler = new ReplicaWriter({
      ...this.#options,
      log: this.#log,
      refusal: () => why,
    });
    try {
      await filler.fill(wanted);
    } finally {
      this.#log.end(why);
    }
  }

  #refusal(part: VolumePart["kind"]): Failure | undefined {
    if (this.#part === part) return undefined;
    const { volume } = this.#options.generation.superblock;
    const why =
      this.#part === undefined
        ? "it waits for an epoch of its own"
        : `this copy is not its ${part}`;
    return this.#unavailable(volume, why);
  }

  #unavailable(volume: number, why: string): Failure {
    return new Failure("unavailable", `Cannot append to volume ${volume}: ${why}`, {
      retryAfterSeconds: 1,
    });
  }
}
