/**
 * Opens the files of a volume: finds what counts among them, what lies in it, and what a crash left over.
 *
 * Invariants:
 * - The descriptor decides which generation counts. What it does not name was left by an operation that was
 *   cut short, and is removed.
 * - What was acknowledged is in the index afterwards, or the volume is said to be damaged.
 */

import path from "node:path";
import { Failure, messageOf, systemErrorCode } from "../../base/failure.ts";
import type { FileHandle, FileSystem } from "../../base/files.ts";
import { type Checkpoint, readCheckpoint } from "./checkpoint.ts";
import { finishSwitch } from "./copy-switch.ts";
import { DeleteLog } from "./delete-log.ts";
import { type Descriptor, decodeDescriptor } from "./descriptor.ts";
import { Generation } from "./generation.ts";
import type { KeyIndex } from "./key-index.ts";
import { ChecksumSeeds } from "./needle.ts";
import type { OffsetIndex } from "./offset-index.ts";
import { type RecoveredVolume, recoverVolume, settleTail, type VolumeTail } from "./recovery.ts";
import { SealedIndex } from "./sealed-index.ts";
import { readKeys } from "./sparse-keys.ts";
import { decodeSuperblock, type Superblock, superblockBytes } from "./superblock.ts";
import type { VolumeEnvironment } from "./volume-environment.ts";
import {
  asideFile,
  checkpointFile,
  copyingFile,
  deleteLogFile,
  descriptorFile,
  listGenerationFiles,
  volumeFile,
} from "./volume-files.ts";

export interface OpenedFiles {
  generation: Generation;
  descriptor: Descriptor;
  deletes: DeleteLog;
  keys: KeyIndex | undefined;
  end: VolumeTail;
  damagedBytes: number;
  /** Where the last checkpoint ends, in bytes and in ordinals. */
  checkpointed: { tail: number; count: number };
  /** Whether the checkpoint has the leaves of the volume's digest. */
  hasLeaves: boolean;
  /** Whether something that was acknowledged is missing: then nothing may be appended. */
  isDamaged: boolean;
  /** Bytes of generations that are kept for a while. */
  trashBytes: number;
}

/**
 * Fails with `not-found` if there is no such volume, only what was left of one that was dropped, or one in
 * the trash; with `corrupt` if it can't be read.
 */
export async function openVolumeFiles(
  environment: VolumeEnvironment,
  volume: number,
): Promise<OpenedFiles> {
  const { files, folder } = environment;
  let descriptor = await readDescriptor(files, folder, volume);
  if (descriptor.state === "dropped") {
    await removeVolume(files, folder, volume);
    throw new Failure("not-found", `Cannot open volume ${volume}: it was dropped`);
  }
  if (descriptor.state === "trashed") {
    throw new Failure("not-found", `Cannot open volume ${volume}: it is in the trash`);
  }
  const isSwitching = descriptor.switching !== undefined;
  descriptor = await finishSwitch(files, folder, descriptor);
  await removeLeftovers(files, folder, descriptor);
  const name = await nameOf(files, folder, { ...descriptor, isSwitching });
  const file = await files.open(name, "write");
  let deletes: DeleteLog | undefined;
  try {
    const superblock = await readSuperblock(file, name, descriptor);
    deletes = await DeleteLog.open(files, deleteLogFile(folder, volume), {
      ...superblock,
      recordsMin: descriptor.deleteRecords ?? 0,
    });
    const found = await findNeedles(environment, { file, descriptor, superblock });
    const { recovered, index, keys, end, checkpointed } = found;
    // Only what was acknowledged can have been deleted: a lost tail shows here if nowhere else. Of a sealed
    // volume the length is known, and other copies' deletes may name what was decided to be beyond it.
    const isShort = descriptor.state === "open" && deletes.highest >= index.count;
    const isDamaged = isShort || found.damage.length > 0;
    if (descriptor.state === "open" && !isDamaged && recovered !== undefined) {
      const sizeBytes = await file.sizeBytes();
      await setAside(environment, { file, descriptor, from: recovered.tail, to: sizeBytes });
      await settleTail(file, recovered, sizeBytes);
    }
    if (descriptor.state === "sealed") await endAt(environment, file, descriptor);
    return {
      generation: new Generation(superblock, file, index),
      descriptor: { ...descriptor, epoch: Math.max(descriptor.epoch, end.epoch) },
      deletes,
      keys,
      end,
      // What was found before may lie where a start does not look.
      damagedBytes: Math.max(
        found.damage.reduce((sum, { length }) => sum + length, 0) + deletes.damagedBytes,
        descriptor.damagedBytes ?? 0,
      ),
      hasLeaves: found.hasLeaves,
      checkpointed,
      isDamaged,
      trashBytes: await measureTrash(files, folder, descriptor),
    };
  } catch (error) {
    await deletes?.close();
    await file.close();
    throw error;
  }
}

async function readDescriptor(
  files: FileSystem,
  folder: string,
  volume: number,
): Promise<Descriptor> {
  const name = descriptorFile(folder, volume);
  const bytes = await files.readWhole(name);
  if (bytes === undefined) {
    throw new Failure("not-found", `Cannot open volume ${volume}: it has no descriptor`);
  }
  return decodeDescriptor(bytes, name);
}

async function readSuperblock(
  file: FileHandle,
  name: string,
  { volume, uuid, generation }: Descriptor,
): Promise<Superblock> {
  const start = Buffer.alloc(superblockBytes);
  await file.read(start, 0);
  const superblock = decodeSuperblock(start, name);
  if (
    superblock.volume !== volume ||
    superblock.uuid.toString("hex") !== uuid ||
    superblock.generation !== generation
  ) {
    throw new Failure(
      "corrupt",
      `Cannot open volume ${volume}: ${name} belongs to another volume or generation`,
    );
  }
  return superblock;
}

/** What the descriptor does not name was left by an operation that a crash cut short. */
async function removeLeftovers(
  files: FileSystem,
  folder: string,
  { volume, generation, trash = [] }: Descriptor,
): Promise<void> {
  for (const { kind, isHalf, file, ...found } of await listGenerationFiles(files, folder, volume)) {
    if (kind === "aside") continue;
    // Gone on with by the order that began it, or removed when none comes (copies.ts).
    if ((kind === "copying" || kind === "copying-index") && !isHalf) continue;
    const isKept = trash.some((entry) => entry.generation === found.generation);
    const isCurrent = found.generation === generation && !isHalf;
    if (isCurrent || (isKept && kind === "volume" && !isHalf)) continue;
    await files.remove(file);
  }
}

/** Where the volume's file lies: only who looks without changing anything meets a switch that is not finished. */
async function nameOf(
  files: FileSystem,
  folder: string,
  { isSwitching, ...place }: { volume: number; generation: number; isSwitching: boolean },
): Promise<string> {
  const copying = copyingFile(folder, place);
  const isUnnamed = isSwitching && (await files.list(folder)).includes(path.basename(copying));
  return isUnnamed ? copying : volumeFile(folder, place);
}

/** Removes all files of a volume, the descriptor last: until then it says that the volume was dropped. */
export async function removeVolume(
  files: FileSystem,
  folder: string,
  volume: number,
): Promise<void> {
  for (const { file } of await listGenerationFiles(files, folder, volume)) await files.remove(file);
  await files.remove(deleteLogFile(folder, volume));
  await files.remove(descriptorFile(folder, volume));
}

/** Cuts off what a seal left beyond the end, when a crash came between; the volume is as good with it. */
async function endAt(
  environment: VolumeEnvironment,
  file: FileHandle,
  descriptor: Descriptor,
): Promise<void> {
  const { volume, sealedLength } = descriptor;
  if (sealedLength === undefined || (await file.sizeBytes()) <= sealedLength) return;
  try {
    await (await cutExcess(environment, { file, descriptor, from: sealedLength })).cut();
  } catch (error) {
    const reason = messageOf(error);
    environment.note?.("what is beyond a volume's end could not be cut off", { volume, reason });
  }
}

export interface FoundNeedles {
  index: OffsetIndex | SealedIndex;
  keys: KeyIndex | undefined;
  end: VolumeTail;
  damage: { offset: number; length: number }[];
  checkpointed: { tail: number; count: number };
  hasLeaves: boolean;
  /** If the volume itself was read: what was found beyond the checkpoint. */
  recovered: RecoveredVolume | undefined;
}

/** What lies in the volume: from its checkpoint as far as that reaches, from the volume itself beyond. */
export async function findNeedles(
  environment: VolumeEnvironment,
  {
    file,
    descriptor,
    superblock,
  }: { file: FileHandle; descriptor: Descriptor; superblock: Superblock },
): Promise<FoundNeedles> {
  const { files, folder, note } = environment;
  const { volume, sealedLength } = descriptor;
  const fileBytes = await file.sizeBytes();
  let checkpoint: Checkpoint | undefined;
  try {
    checkpoint = await readCheckpoint(files, checkpointFile(folder, superblock), superblock);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    note?.("a checkpoint is damaged and made anew", { volume, reason: error.message });
  }
  // Where a volume was sealed is what counts: what was decided to be beyond it may have been synced here.
  const acknowledgedBytes =
    sealedLength ?? Math.max(descriptor.closedLength ?? 0, checkpoint?.tail ?? 0);
  if (
    checkpoint !== undefined &&
    checkpoint.tail > Math.min(fileBytes, sealedLength ?? fileBytes)
  ) {
    note?.("a checkpoint reaches beyond its volume", { volume, tail: checkpoint.tail, fileBytes });
    checkpoint = undefined;
  }
  if (checkpoint?.index instanceof SealedIndex) {
    const { index, keys, leaves, ...end } = checkpoint;
    if (end.tail === sealedLength) {
      const checkpointed = { tail: end.tail, count: index.count };
      const hasLeaves = leaves !== undefined;
      return { index, keys, end, damage: [], checkpointed, hasLeaves, recovered: undefined };
    }
    checkpoint = undefined;
  }
  const from = checkpoint as (VolumeTail & { index: OffsetIndex }) | undefined;
  const checkpointed = { tail: from?.tail ?? superblockBytes, count: from?.index.count ?? 0 };
  const recovered = await recoverVolume({
    file,
    sizeBytes: Math.min(fileBytes, sealedLength ?? fileBytes),
    acknowledgedBytes,
    firstFree: superblock.firstFree,
    hasReservations: superblock.class === "native" && superblock.generation === 0,
    identity: superblock,
    seeds: new ChecksumSeeds(superblock),
    from,
    progress: (doneBytes, totalBytes) =>
      note?.("a volume is being read to find its needles", { volume, doneBytes, totalBytes }),
  });
  recovered.index.skipTo(superblock.firstFree);
  const { index, tail, lastDigest, epoch, dataBytes, lastTimeMs, damage } = recovered;
  const keys = superblock.hasSparseKeys ? await readKeys(file, recovered, superblock) : undefined;
  const end = { tail, lastDigest, epoch, dataBytes, lastTimeMs };
  return { index, keys, end, damage, checkpointed, hasLeaves: false, recovered };
}

/** Bytes of other generations, and of files that copies took the place of, that are kept for a while. */
export async function measureTrash(
  files: FileSystem,
  folder: string,
  { volume, trash = [] }: Descriptor,
): Promise<number> {
  let bytes = 0;
  for (const { kind, generation, asideOffset, isHalf, file } of await listGenerationFiles(
    files,
    folder,
    volume,
  )) {
    const isKept = trash.some((entry) => entry.generation === generation);
    const isOld = kind === "volume" && isKept && !isHalf;
    const isReplaced = kind === "aside" && asideOffset === 0;
    if (!isOld && !isReplaced) continue;
    try {
      const handle = await files.open(file, "read");
      bytes += await handle.sizeBytes();
      await handle.close();
    } catch (error) {
      // Somebody empties it by hand.
      if (systemErrorCode(error) !== "ENOENT") throw error;
    }
  }
  return bytes;
}

/**
 * Sets aside what a file has from `from` on, so that nothing is lost by cutting it off; that is left to be
 * done by `cut`.
 */
export async function cutExcess(
  environment: VolumeEnvironment,
  { file, descriptor, from }: { file: FileHandle; descriptor: Descriptor; from: number },
): Promise<{ cut: () => Promise<void> }> {
  const to = await file.sizeBytes();
  await setAside(environment, { file, descriptor, from, to });
  return {
    async cut() {
      if (to <= from) return;
      await file.truncate(from);
      await file.syncData();
    },
  };
}

/** Keeps what recovery is about to cut off, if it is more than blanks: nobody was told that it was stored. */
async function setAside(
  { files, folder, clock, note }: VolumeEnvironment,
  {
    file,
    descriptor,
    from,
    to,
  }: { file: FileHandle; descriptor: Descriptor; from: number; to: number },
): Promise<void> {
  if (to <= from || (await isBlank(file, from, to))) return;
  const name = asideFile(folder, descriptor, { offset: from, timeMs: Math.floor(clock.nowMs()) });
  await files.remove(name);
  const aside = await files.open(name, "create");
  try {
    for await (const { at, piece } of piecesOf(file, from, to))
      await aside.write([piece], at - from);
    await aside.syncData();
  } finally {
    await aside.close();
  }
  await files.syncFolder(folder);
  note?.("bytes that were never acknowledged are set aside", { file: name, bytes: to - from });
}

async function isBlank(file: FileHandle, from: number, to: number): Promise<boolean> {
  for await (const { piece } of piecesOf(file, from, to)) {
    if (piece.some((byte) => byte !== 0)) return false;
  }
  return true;
}

const pieceBytes = 4 * 1_048_576;

async function* piecesOf(
  file: FileHandle,
  from: number,
  to: number,
): AsyncGenerator<{ at: number; piece: Buffer }> {
  for (let at = from; at < to; at += pieceBytes) {
    const piece = Buffer.alloc(Math.min(pieceBytes, to - at));
    await file.read(piece, at);
    yield { at, piece };
  }
}
