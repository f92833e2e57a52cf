/**
 * The one writer of an open volume at a replica: takes the primary's batches as they are, one after the
 * other; and, when the open life is over, what this copy is short of from another one.
 *
 * Invariants:
 * - A batch is taken only at the tail, in the replica's own epoch, on the digest of the batch before, and
 *   if all of it verifies. So the files of two copies are the same up to the shorter one's end.
 * - A copy that was sent what does not go on from it takes nothing more: somebody has lost something, and
 *   where the volume ends is for the directory to decide.
 * - A watermark is true on this disk too: what lies before it is synced before a batch that says so is written.
 */

import { Failure, messageOf } from "../../base/failure.ts";
import { type BatchHead, type BatchPlace, type VerifiedBatch, verifyBatch } from "./batch.ts";
import type { Generation } from "./generation.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";
import type { AdmittedRecord, VolumeLog } from "./volume-log.ts";

/** Reads `length` bytes of a longer copy's file, from `offset` on. */
export type ReadCopy = (offset: number, length: number) => Promise<Buffer>;

// Large enough that a sync and a call to another process are shared by many batches.
const fillBytes = 4 * 1_048_576;

export interface ReplicaWriterOptions {
  environment: VolumeEnvironment;
  generation: Generation;
  log: VolumeLog;
  epoch: () => number;
  /** Why no batch may be taken now, or undefined. */
  refusal: () => Failure | undefined;
}

export class ReplicaWriter {
  readonly #options: ReplicaWriterOptions;
  readonly #log: VolumeLog;
  #taking: Promise<unknown> = Promise.resolve();

  constructor(options: ReplicaWriterOptions) {
    this.#options = options;
    this.#log = options.log;
  }

  /** Takes the primary's next batch; returns once it is as durable as it says. */
  async take(bytes: Buffer, head: BatchHead): Promise<void> {
    const turn = this.#taking.then(() => this.#take(bytes, head));
    this.#taking = turn.catch(() => undefined);
    await turn;
  }

  /** Waits until nothing is being written, and all that was is synced. */
  async settle(): Promise<void> {
    await this.#taking;
    await this.#log.settle();
  }

  /**
   * Takes all up to `lengthBytes` from another copy, where the last batch has `lastDigest`. Fails with
   * `corrupt` if that copy does not go on from this one; what verified until then is kept.
   */
  async fill({
    lengthBytes,
    lastDigest,
    read,
    progress,
  }: {
    lengthBytes: number;
    lastDigest: Buffer;
    read: ReadCopy;
    progress?: ((doneBytes: number) => void) | undefined;
  }): Promise<void> {
    const log = this.#log;
    let wantedBytes = fillBytes;
    while (log.tail.tail < lengthBytes) {
      const left = lengthBytes - log.tail.tail;
      const length = Math.min(wantedBytes, left);
      const bytes = await read(log.tail.tail, length);
      if (bytes.length !== length) {
        throw this.#corrupt(`the other copy has ${bytes.length} of ${length} bytes there`);
      }
      const { batches, doneBytes } = this.#verifyAll(bytes);
      if (doneBytes === 0) {
        if (length === left) throw this.#corrupt("the other copy ends within a batch");
        wantedBytes = length * 4; // a batch that is larger than one read
        continue;
      }
      wantedBytes = fillBytes;
      await log.write([bytes.subarray(0, doneBytes)], doneBytes, true);
      for (const batch of batches) this.#admit(batch, true);
      progress?.(log.tail.tail);
    }
    if (log.tail.tail !== lengthBytes || !log.tail.lastDigest.equals(lastDigest)) {
      throw this.#corrupt("the other copy ends in another batch");
    }
  }

  async #take(bytes: Buffer, head: BatchHead): Promise<void> {
    const { generation, environment, epoch } = this.#options;
    const { uuid, generation: number } = generation.superblock;
    const refusal = this.#refusal(head);
    if (refusal !== undefined) throw refusal;
    if (head.uuid !== uuid.toString("hex") || head.generation !== number) {
      throw this.#conflict("it belongs to another volume or generation");
    }
    const full = environment.refusal();
    if (full !== undefined) throw this.#end(full);

    const log = this.#log;
    const { tail, lastDigest } = log.tail;
    if (head.offset !== tail) {
      throw this.#end(
        this.#conflict(`it goes to ${head.offset}, and the tail of this copy is at ${tail}`),
      );
    }
    if (!head.previousDigest.equals(lastDigest)) {
      throw this.#end(this.#conflict("the batch before it is another one here"));
    }
    const batch = this.#verifyOne(bytes, head);
    if (batch.watermark > log.syncedTail) await log.settle();
    const isSynced = head.durability === "disk";
    await log.write([bytes], bytes.length, isSynced);
    // Fenced meanwhile: the batch is here, and whoever fenced finds it not counted.
    if (epoch() !== head.epoch) throw this.#conflict(`epoch ${head.epoch} is over`);
    this.#admit(batch, isSynced);
  }

  /** What has to be refused and is no fault of this copy: it goes on as it is. */
  #refusal(head: BatchHead): Failure | undefined {
    const epoch = this.#options.epoch();
    const refusal = this.#log.failure ?? this.#options.refusal();
    if (refusal !== undefined) return refusal;
    if (head.epoch === epoch) return undefined;
    return this.#conflict(`it was written in epoch ${head.epoch}, and this copy obeys ${epoch}`);
  }

  #verifyOne(bytes: Buffer, head: BatchHead): VerifiedBatch {
    let batch: VerifiedBatch | undefined;
    try {
      batch = verifyBatch(bytes, this.#place());
    } catch (error) {
      throw this.#end(this.#conflict(messageOf(error)));
    }
    if (
      batch === undefined ||
      batch.lengthBytes !== bytes.length ||
      batch.epoch !== head.epoch ||
      batch.nextOrdinal !== head.nextOrdinal ||
      !batch.digest.equals(head.digest)
    ) {
      throw this.#end(this.#conflict("its bytes are not what its head says"));
    }
    return batch;
  }

  /** All whole batches that `bytes` begin with, each going on from the one before. */
  #verifyAll(bytes: Buffer): { batches: VerifiedBatch[]; doneBytes: number } {
    const batches: VerifiedBatch[] = [];
    const taken = new Set<number>();
    let place = this.#place();
    let doneBytes = 0;
    while (doneBytes < bytes.length) {
      const batch = verifyBatch(bytes.subarray(doneBytes), place);
      if (batch === undefined) break;
      batches.push(batch);
      doneBytes += batch.lengthBytes;
      for (const { ordinal, isReservation } of batch.heads) if (!isReservation) taken.add(ordinal);
      const isFree = place.isFree;
      place = {
        ...place,
        offset: place.offset + batch.lengthBytes,
        previousDigest: batch.digest,
        epochMin: batch.epoch,
        nextOrdinal: batch.nextOrdinal,
        isFree: batches.length > 1 ? isFree : (each) => isFree(each) && !taken.has(each),
      };
    }
    return { batches, doneBytes };
  }

  #place(): BatchPlace {
    const { superblock, seeds } = this.#options.generation;
    const { index, tail } = this.#log;
    const hasReservations = superblock.class === "native" && superblock.generation === 0;
    return {
      identity: superblock,
      seeds,
      offset: tail.tail,
      previousDigest: tail.lastDigest,
      epochMin: tail.epoch,
      nextOrdinal: index.count,
      isFree: (ordinal) => hasReservations && index.get(ordinal) === undefined,
    };
  }

  #admit({ heads, epoch, digest, lengthBytes }: VerifiedBatch, isSynced: boolean): void {
    const { tail, lastTimeMs } = this.#log.tail;
    const last = heads.at(-1);
    this.#log.admit({
      records: heads.map(recordOf),
      tail: {
        tail: tail + lengthBytes,
        lastDigest: digest,
        epoch,
        lastTimeMs: last?.timeMs ?? lastTimeMs,
      },
      isSynced,
    });
  }

  #end(failure: Failure): Failure {
    this.#log.end(failure);
    return failure;
  }

  #conflict(why: string): Failure {
    const { volume } = this.#options.generation.superblock;
    return new Failure("conflict", `Cannot take a batch of volume ${volume}: ${why}`);
  }

  #corrupt(why: string): Failure {
    const { volume } = this.#options.generation.superblock;
    return new Failure("corrupt", `Cannot fill volume ${volume}: ${why}`);
  }
}

function recordOf({
  ordinal,
  offset,
  dataLength,
  isReservation,
  contentLength,
}: {
  ordinal: number;
  offset: number;
  dataLength: number;
  isReservation: boolean;
  contentLength: number;
}): AdmittedRecord {
  return { ordinal, offset, dataLength, reservedCount: isReservation ? contentLength : 0 };
}
