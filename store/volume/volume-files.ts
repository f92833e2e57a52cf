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

/** A copy of a sealed volume for as long as it is being made. */
export function copyingFile(
  folder: string,
  { volume, generation }: { volume: number; generation: number },
): string {
  return path.join(folder, `${volume}.g${generation}.copying`);
}

/** The checkpoint of that copy. */
export function copyingIndexFile(
  folder: string,
  { volume, generation }: { volume: number; generation: number },
): string {
  return path.join(folder, `${volume}.g${generation}.copying-index`);
}

/**
 * What was set aside of a volume's file from `offset` on, and is kept for a while: what recovery cut off,
 * never acknowledged, or, from 0 on, the whole of one that a copy took the place of.
 */
export function asideFile(
  folder: string,
  { volume, generation }: { volume: number; generation: number },
  { offset, timeMs }: { offset: number; timeMs: number },
): string {
  return path.join(folder, `${volume}.g${generation}.aside.${offset}.${timeMs}`);
}

export interface GenerationFile {
  volume: number;
  generation: number;
  kind: "volume" | "index" | "copying" | "copying-index" | "aside";
  /** Of what was set aside: when, and from where on. */
  asideMs: number;
  asideOffset: number;
  /** A file that was being replaced when the process ended. */
  isHalf: boolean;
}

const generationPattern =
  /^([0-9]+)\.g([0-9]+)\.(volume|index|copying|copying-index|aside)(?:\.([0-9]+)\.([0-9]+))?(\.new)?$/;

/** A name in the folder taken apart, if it belongs to a generation of a volume. */
export function parseGenerationFile(name: string): GenerationFile | undefined {
  const match = generationPattern.exec(name);
  if (match === null) return undefined;
  return {
    volume: Number(match[1]),
    generation: Number(match[2]),
    kind: match[3] as GenerationFile["kind"],
    asideOffset: Number(match[4] ?? 0),
    asideMs: Number(match[5] ?? 0),
    isHalf: match[6] !== undefined,
  };
}

/** The files in the folder that belong to generations of `volume`. */
export async function listGenerationFiles(
  files: FileSystem,
  folder: string,
  volume: number,
): Promise<(GenerationFile & { file: string })[]> {
  return (await files.list(folder)).flatMap((name) => {
    const parsed = parseGenerationFile(name);
    return parsed?.volume === volume ? [{ ...parsed, file: path.join(folder, name) }] : [];
  });
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
