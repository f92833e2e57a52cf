/**
 * How a finished copy becomes the volume: the descriptor that names it is the switch, and what it takes the
 * place of is set aside afterwards.
 *
 * Invariants:
 * - Before that descriptor is on the disk everything is as it was; after it a start finishes what is left
 *   to do, however often it is cut short.
 * - Nothing is removed: a file in the way gets another name, and is kept for as long as the trash is.
 */

import path from "node:path";
import type { FileSystem } from "../../base/files.ts";
import { type Descriptor, writeDescriptor } from "./descriptor.ts";
import {
  asideFile,
  checkpointFile,
  copyingFile,
  copyingIndexFile,
  descriptorFile,
  listGenerationFiles,
  volumeFile,
} from "./volume-files.ts";

/** Of what was sealed elsewhere, and is here now. */
export interface SwitchTerms {
  generation: number;
  /** Ids of the stores with a copy. */
  members: string[];
  epoch: number;
  lengthBytes: number;
  digest: string;
  nowMs: number;
}

/** The descriptor that makes a finished copy the volume, in the place of `before` if there was one. */
export function switchedDescriptor(
  before: Descriptor,
  { generation, members, epoch, lengthBytes, digest, nowMs }: SwitchTerms,
  sinceMs: number,
): Descriptor {
  const { trash = [] } = before;
  const replaced =
    before.generation === generation ? [] : [{ generation: before.generation, sinceMs }];
  return {
    ...before,
    generation,
    members,
    epoch: Math.max(before.epoch, epoch),
    state: "sealed",
    trashedMs: undefined,
    sealedLength: lengthBytes,
    sealedDigest: digest,
    closedLength: undefined,
    scrubbedMs: Math.floor(nowMs),
    damagedBytes: undefined,
    trash: [...trash.filter((each) => each.generation !== generation), ...replaced],
    switching: { sinceMs },
  };
}

/** A time under which nothing of this generation was set aside yet. */
export async function unusedAsideMs(
  files: FileSystem,
  folder: string,
  { volume, nowMs }: { volume: number; nowMs: number },
): Promise<number> {
  const found = await listGenerationFiles(files, folder, volume);
  const used = found.flatMap(({ kind, asideMs }) => (kind === "aside" ? [asideMs] : []));
  return Math.max(Math.floor(nowMs), ...used.map((asideMs) => asideMs + 1));
}

/** Gives a copy that the descriptor names the volume's name. Returns the descriptor as it is then. */
export async function finishSwitch(
  files: FileSystem,
  folder: string,
  descriptor: Descriptor,
): Promise<Descriptor> {
  const { switching, ...settled } = descriptor;
  if (switching === undefined) return descriptor;
  const names = new Set(await files.list(folder));
  const isThere = (file: string) => names.has(path.basename(file));
  const copying = copyingFile(folder, descriptor);
  // The copy's own name goes last: as long as it has its temporary one, the rest is not done.
  if (isThere(copying)) {
    const target = volumeFile(folder, descriptor);
    const index = checkpointFile(folder, descriptor);
    const copyingIndex = copyingIndexFile(folder, descriptor);
    if (isThere(target)) {
      const place = { offset: 0, timeMs: switching.sinceMs };
      await files.rename({ source: target, target: asideFile(folder, descriptor, place) });
    }
    if (isThere(copyingIndex)) await files.rename({ source: copyingIndex, target: index });
    else await files.remove(index);
    await files.rename({ source: copying, target });
  }
  await writeDescriptor(files, descriptorFile(folder, descriptor.volume), settled);
  return settled;
}
