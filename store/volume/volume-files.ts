/** Where the files of a volume lie, and what may be done with those that are there. */

import path from "node:path";
import { Failure } from "../../base/failure.ts";
import type { FileSystem } from "../../base/files.ts";
import { decodeSuperblock, type Superblock, superblockBytes } from "./superblock.ts";

export function volumeFile(
  folder: string,
  { volume, generation }: { volume: number; generation: number },
): string {
  return path.join(folder, `${volume}.g${generation}.volume`);
}

/** The checkpoint of a generation's index. */
export function checkpointFile(
  folder: string,
  { volume, generation }: { volume: number; generation: number },
): string {
  return path.join(folder, `${volume}.g${generation}.index`);
}

/** What recovery cut off from `offset` on: never acknowledged, and kept for a while all the same. */
export function asideFile(
  folder: string,
  { volume, generation }: { volume: number; generation: number },
  { offset, timeMs }: { offset: number; timeMs: number },
): string {
  return path.join(folder, `${volume}.g${generation}.aside.${offset}.${timeMs}`);
}

/** A name in the folder taken apart, if it belongs to a generation of `volume`. */
export function parseGenerationFile(
  name: string,
  volume: number,
): { generation: number; kind: "volume" | "index" | "aside"; asideMs: number } | undefined {
  const match = /^([0-9]+)\.g([0-9]+)\.(volume|index|aside)(?:\.[0-9]+\.([0-9]+))?(?:\.new)?$/.exec(
    name,
  );
  if (match === null || Number(match[1]) !== volume) return undefined;
  return {
    generation: Number(match[2]),
    kind: match[3] as "volume" | "index" | "aside",
    asideMs: Number(match[4] ?? 0),
  };
}

/** A volume is made once: what stands where it would go is somebody's photos until shown otherwise. */
export async function refuseToReplace(
  files: FileSystem,
  folder: string,
  superblock: Superblock,
): Promise<void> {
  const { volume, uuid } = superblock;
  const refuse = (file: string) =>
    new Failure("conflict", `Cannot create volume ${volume}: ${file} is there already`);
  const descriptor = descriptorFile(folder, volume);
  if ((await files.readWhole(descriptor)) !== undefined) throw refuse(descriptor);
  // Without a descriptor only a creation that was cut short is harmless: an empty file of this uuid.
  const names = await files.list(folder);
  const isVolume = (name: string) => name.startsWith(`${volume}.g`) && name.endsWith(".volume");
  for (const name of names.filter(isVolume)) {
    const file = path.join(folder, name);
    const handle = await files.open(file, "read");
    try {
      const start = Buffer.alloc(superblockBytes);
      await handle.read(start, 0);
      const isEmpty = (await handle.sizeBytes()) <= superblockBytes;
      if (!isEmpty || !decodeSuperblock(start, file).uuid.equals(uuid)) throw refuse(file);
    } finally {
      await handle.close();
    }
  }
}

export function deleteLogFile(folder: string, volume: number): string {
  return path.join(folder, `${volume}.deleted`);
}

export function descriptorFile(folder: string, volume: number): string {
  return path.join(folder, `${volume}.json`);
}

/** The ids of the volumes in a folder: those with a descriptor. */
export async function listVolumes(files: FileSystem, folder: string): Promise<number[]> {
  const names = await files.list(folder);
  const ids = names.map((name) => /^([1-9][0-9]*)\.json$/.exec(name)?.[1]);
  return ids.filter((id) => id !== undefined).map(Number);
}
