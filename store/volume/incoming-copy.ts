/**
 * A copy of a sealed volume while it is being made, under a name of its own beside whatever is there.
 *
 * Invariants:
 * - A MiB is written only if it is what its leaf says; what an earlier run left is held against the leaves
 *   too, and written once more: its bytes may be in the page cache alone.
 * - After a failed write or sync the file is no evidence of anything, and is removed.
 * - It becomes a volume only once all of it is synced, read again and found well (`finish`), by a
 *   descriptor that names it (copy-switch.ts).
 */

import assert from "node:assert/strict";
import { systemClock } from "../../base/clock.ts";
import { Failure, messageOf, systemErrorCode } from "../../base/failure.ts";
import type { FileHandle } from "../../base/files.ts";
import { RateLimit } from "../../base/rate-limit.ts";
import { systemRuntime } from "../../base/runtime.ts";
import { encodeCheckpoint } from "./checkpoint.ts";
import { Generation } from "./generation.ts";
import type { KeyIndex } from "./key-index.ts";
import { ChecksumSeeds } from "./needle.ts";
import type { NeedleIndex } from "./needle-index.ts";
import type { OffsetIndex } from "./offset-index.ts";
import { recoverVolume, type VolumeTail } from "./recovery.ts";
import { scrubVolume } from "./scrub.ts";
import { SealedIndex } from "./sealed-index.ts";
import { readKeys } from "./sparse-keys.ts";
import { decodeSuperblock, type Superblock, superblockBytes } from "./superblock.ts";
import { hashBytes, leafBytes, leafOf, rootOfLeaves } from "./volume-digest.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";
import { copyingFile, copyingIndexFile, listGenerationFiles } from "./volume-files.ts";

export interface CopyTarget {
  volume: number;
  /** 32 hex digits. */
  uuid: string;
  generation: number;
  lengthBytes: number;
  /** SHA-256 of each MiB, 32 bytes each. */
  leaves: Buffer;
  /** Bytes a second that are read again and verified, 0 for no limit. */
  rateBytes: number;
  signal: AbortSignal;
  /** Told how many of the bytes are there. */
  progress: (doneBytes: number, totalBytes: number) => void;
}

/** A copy that is all there, verified and synced, with its checkpoint beside it. */
export interface FinishedCopy {
  superblock: Superblock;
  file: FileHandle;
  index: NeedleIndex;
  keys: KeyIndex | undefined;
  end: VolumeTail;
  /** Hex. */
  digest: string;
}

/** So much is lost at most when the process ends, and so long a sync may take. */
const syncBytes = 64 * 1_048_576;

export class IncomingCopy {
  readonly #environment: VolumeEnvironment;
  readonly #target: CopyTarget;
  readonly #file: FileHandle;
  readonly #limit: RateLimit;
  readonly #isThere: Uint8Array;
  #doneBytes = 0;
  #unsyncedBytes = 0;

  private constructor(environment: VolumeEnvironment, target: CopyTarget, file: FileHandle) {
    const { clock = systemClock, runtime = systemRuntime } = environment;
    this.#environment = environment;
    this.#target = target;
    this.#file = file;
    this.#limit = new RateLimit(clock, target.rateBytes, runtime);
    this.#isThere = new Uint8Array(target.leaves.length / hashBytes);
    assert.equal(this.#isThere.length, Math.ceil(target.lengthBytes / leafBytes));
  }

  /** Begins a copy, or goes on with one that was cut short. Copies of other generations are given up. */
  static async begin(environment: VolumeEnvironment, target: CopyTarget): Promise<IncomingCopy> {
    const { files, folder } = environment;
    const { volume, generation } = target;
    const name = copyingFile(folder, target);
    let isBegun = false;
    for (const found of await listGenerationFiles(files, folder, volume)) {
      if (found.kind !== "copying" && found.kind !== "copying-index") continue;
      if (found.kind === "copying" && found.generation === generation) isBegun = true;
      else await files.remove(found.file);
    }
    const file = await files.open(name, isBegun ? "write" : "create");
    const copy = new IncomingCopy(environment, target, file);
    try {
      if (isBegun) await copy.takeFrom(file);
      else await files.syncFolder(folder);
      return copy;
    } catch (error) {
      await copy.end(error);
      throw error;
    }
  }

  /** The first MiBs in a row that are not there, `count` at most; undefined if all are. */
  missing(from: number, count: number): { first: number; count: number } | undefined {
    const first = this.#isThere.indexOf(0, from);
    if (first < 0) return undefined;
    let end = first + 1;
    while (end < this.#isThere.length && end - first < count && this.#isThere[end] === 0) end += 1;
    return { first, count: end - first };
  }

  /** Where a row of MiBs lies in the file. */
  rangeOf({ first, count }: { first: number; count: number }): { start: number; end: number } {
    const start = first * leafBytes;
    return { start, end: Math.min(start + count * leafBytes, this.#target.lengthBytes) };
  }

  /** Takes in a MiB if it is what its leaf says; returns whether it is. */
  async take(number: number, bytes: Buffer): Promise<boolean> {
    const { signal, leaves, lengthBytes, progress } = this.#target;
    signal.throwIfAborted();
    const { start, end } = this.rangeOf({ first: number, count: 1 });
    if (bytes.length !== end - start) return false;
    const leaf = await leafOf(bytes, this.#environment.runtime);
    if (!leaf.equals(leaves.subarray(number * hashBytes, (number + 1) * hashBytes))) return false;
    if (number === 0) this.#checkSuperblock(bytes);
    const refusal = this.#environment.refusal();
    if (refusal !== undefined) throw refusal;
    await this.#change("write", () => this.#file.write([bytes], start));
    this.#environment.spend(bytes.length);
    this.#unsyncedBytes += bytes.length;
    if (this.#unsyncedBytes >= syncBytes) await this.#sync();
    if (this.#isThere[number] === 0) this.#doneBytes += bytes.length;
    this.#isThere[number] = 1;
    progress(this.#doneBytes, lengthBytes);
    return true;
  }

  /** Takes what is right of another file of this volume, or of this one as it was left. */
  async takeFrom(file: FileHandle): Promise<void> {
    const { signal } = this.#target;
    const sizeBytes = await file.sizeBytes();
    const block = Buffer.allocUnsafe(leafBytes);
    for (let number = 0; number < this.#isThere.length; number++) {
      if (this.#isThere[number] === 1) continue;
      const { start, end } = this.rangeOf({ first: number, count: 1 });
      if (sizeBytes < end) return;
      await this.#limit.spend(end - start, signal);
      const bytes = block.subarray(0, end - start);
      try {
        if ((await file.read(bytes, start)) < bytes.length) continue;
      } catch (error) {
        // A sector that can't be read any more: just what the others are asked for.
        if (file === this.#file || systemErrorCode(error) === undefined) throw error;
        continue;
      }
      await this.take(number, bytes);
    }
  }

  /** Syncs the whole, reads all of it again and writes its checkpoint. Fails with `corrupt` if it is not well. */
  async finish(): Promise<FinishedCopy> {
    const { volume, lengthBytes, leaves, rateBytes, signal, progress } = this.#target;
    const { files, folder, clock, runtime, note } = this.#environment;
    const file = this.#file;
    if ((await file.sizeBytes()) > lengthBytes) {
      await this.#change("truncate", () => file.truncate(lengthBytes));
    }
    await this.#sync();
    const start = Buffer.alloc(superblockBytes);
    await file.read(start, 0);
    const superblock = this.#checkSuperblock(start);
    const { index: array, keys, end } = await this.#findNeedles(superblock);
    const sealed = await SealedIndex.build({
      count: array.count,
      get: (ordinal) => array.get(ordinal),
      endOffset: end.tail,
    });
    const index = sealed.memoryBytes < array.memoryBytes ? sealed : array;
    const { findings, digest } = await scrubVolume({
      generation: new Generation(superblock, file, index),
      end: lengthBytes,
      rateBytes,
      isDeleted: () => false,
      signal,
      clock,
      runtime,
      progress: () => progress(lengthBytes, lengthBytes),
    });
    const [finding] = findings;
    if (finding !== undefined) throw this.#corrupt(`at ${finding.offset}: ${finding.why}`);
    if (digest !== rootOfLeaves(leaves)) throw this.#corrupt("its digest is another");
    try {
      const isFinal = superblock.class !== "native";
      const parts = await encodeCheckpoint(superblock, { ...end, index, keys, leaves }, isFinal);
      await files.replace(copyingIndexFile(folder, superblock), parts);
    } catch (error) {
      if (systemErrorCode(error) === undefined) throw error;
      // It is made anew from the volume, by reading it once more.
      note?.("a checkpoint could not be written", { volume, reason: messageOf(error) });
    }
    return { superblock, file, index, keys, end, digest };
  }

  /** Closes the file after a failure; it is kept for going on with it, unless it is worth nothing. */
  async end(error: unknown): Promise<void> {
    await this.#file.close();
    const isWorthless =
      error instanceof Failure && (error.kind === "full" || error.kind === "corrupt");
    if (isWorthless || error instanceof SpoiledError) await this.discard();
  }

  /** Removes what there is of a copy, as far as the disk lets it. */
  async discard(): Promise<void> {
    const { files, folder, note } = this.#environment;
    const { volume } = this.#target;
    for (const file of [
      copyingIndexFile(folder, this.#target),
      copyingFile(folder, this.#target),
    ]) {
      await files.remove(file).catch((error: unknown) => {
        note?.("half a copy could not be removed", { volume, file, reason: messageOf(error) });
      });
    }
  }

  async #findNeedles(
    superblock: Superblock,
  ): Promise<{ index: OffsetIndex; keys: KeyIndex | undefined; end: VolumeTail }> {
    const { lengthBytes } = this.#target;
    const file = this.#file;
    const recovered = await recoverVolume({
      file,
      sizeBytes: lengthBytes,
      acknowledgedBytes: lengthBytes,
      firstFree: superblock.firstFree,
      hasReservations: superblock.class === "native" && superblock.generation === 0,
      identity: superblock,
      seeds: new ChecksumSeeds(superblock),
    });
    const { index, tail, lastDigest, epoch, dataBytes, lastTimeMs, damage } = recovered;
    if (damage[0] !== undefined) throw this.#corrupt(`nothing verifies at ${damage[0].offset}`);
    if (tail !== lengthBytes) throw this.#corrupt(`its needles end at ${tail}`);
    index.skipTo(superblock.firstFree);
    const keys = superblock.hasSparseKeys ? await readKeys(file, recovered, superblock) : undefined;
    return { index, keys, end: { tail, lastDigest, epoch, dataBytes, lastTimeMs } };
  }

  #checkSuperblock(start: Buffer): Superblock {
    const { volume, uuid, generation } = this.#target;
    const name = copyingFile(this.#environment.folder, this.#target);
    const superblock = decodeSuperblock(start.subarray(0, superblockBytes), name);
    if (
      superblock.volume !== volume ||
      superblock.uuid.toString("hex") !== uuid ||
      superblock.generation !== generation
    ) {
      throw this.#corrupt("it is another volume or generation");
    }
    return superblock;
  }

  #corrupt(why: string): Failure {
    const { volume } = this.#target;
    return new Failure(
      "corrupt",
      `Cannot copy volume ${volume}: what came does not verify, ${why}`,
    );
  }

  async #sync(): Promise<void> {
    await this.#change("sync", () => this.#file.syncData());
    this.#unsyncedBytes = 0;
  }

  async #change(what: string, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      const { volume } = this.#target;
      const code = systemErrorCode(error);
      if (code === undefined) throw error;
      if (code === "ENOSPC") {
        throw new Failure("full", `Cannot copy volume ${volume}: the disk is full`, {
          cause: error,
        });
      }
      throw new SpoiledError(volume, what, error);
    }
  }
}

/** The disk failed under the copy: what is there of it may be anything. */
class SpoiledError extends Failure {
  constructor(volume: number, what: string, cause: unknown) {
    super("unavailable", `Cannot copy volume ${volume}: its file failed to ${what}`, { cause });
  }
}
