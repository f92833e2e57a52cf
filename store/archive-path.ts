/**
 * Where blobs go in an archive: names that people know them by, safe to unpack anywhere, each of them once.
 *
 * Invariant: a path is relative, and steps neither up nor to the root; no path is another's folder, and no
 * two are the same on a file system that does not tell cases apart.
 */

import { hash } from "node:crypto";
import path from "node:path";

/** What some file systems take for one name; a cut one is told apart by its fid. */
const nameBytesMax = 200;
/** Objects are cut into chunks of this size, so one that fills it has others after it. */
const chunkBytes = 8 * 1_048_576;
/** For blobs whose own path is in the way of others'. No bucket is called so. */
const fidFolder = "_fid";

/** The path that a blob would like: bucket and key, or the name that it came with, or its fid. */
export function wantedPath({
  fid,
  metadata,
  contentLength,
}: {
  fid: string;
  metadata: unknown;
  contentLength: number;
}): string {
  const { bucket, key, chunk, name } = (metadata ?? {}) as Record<string, unknown>;
  if (typeof bucket === "string" && typeof key === "string") {
    const number = typeof chunk === "number" ? chunk : 0;
    const isPart = number > 0 || contentLength >= chunkBytes;
    const suffix = isPart ? `.chunk-${String(number).padStart(4, "0")}` : "";
    return `${safePath(bucket)}/${safePath(key)}${suffix}`;
  }
  return typeof name === "string" && name !== "" ? safePath(path.posix.basename(name)) : fid;
}

/** `text` as a path whose parts are all names. */
export function safePath(text: string): string {
  return text
    .toWellFormed()
    .split("/")
    .map((part) => {
      const name = cut(part.replace(unsafeCharacters, "_"));
      return name === "" || name === "." || name === ".."
        ? "_".repeat(Math.max(name.length, 1))
        : name;
    })
    .join("/");
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
const unsafeCharacters = /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2028\u2029\u2066-\u2069\\]/g;

function cut(name: string): string {
  if (Buffer.byteLength(name) <= nameBytesMax) return name;
  const { name: stem, ext } = path.posix.parse(name);
  const room = nameBytesMax - Buffer.byteLength(ext.length <= 10 ? ext : "");
  const bytes = Buffer.from(ext.length <= 10 ? stem : name).subarray(0, room);
  // A character that was cut in two becomes one that says so.
  return `${bytes.toString("utf8").replace(/\ufffd+$/, "")}${ext.length <= 10 ? ext : ""}`;
}

/**
 * Paths that are taken, in a few bytes for each: it never takes a used one for free, and now and then a free
 * one for used, which only costs that one a longer name.
 */
export class ArchivePaths {
  readonly #bits: Uint8Array;

  constructor(countMax: number) {
    this.#bits = new Uint8Array(Math.max(countMax * bytesForEach, bytesMin));
    this.#claim(fidFolder, "folder");
  }

  /** Takes a path that nobody has: the wanted one, or one with the fid in it. */
  claim(wanted: string, fid: string): string {
    const choices = isManifest(wanted) ? [] : [wanted, withFid(wanted, fid)];
    const free = choices.find((choice) => this.#isFree(choice)) ?? `${fidFolder}/${fid}`;
    this.#claim(free, "file");
    for (const folder of foldersOf(free)) this.#claim(folder, "folder");
    return free;
  }

  #isFree(choice: string): boolean {
    if (this.#has(choice, "file") || this.#has(choice, "folder")) return false;
    return !foldersOf(choice).some((folder) => this.#has(folder, "file"));
  }

  #has(text: string, kind: "file" | "folder"): boolean {
    return this.#places(text, kind).every((place) => {
      return ((this.#bits[place >>> 3] ?? 0) & (1 << (place & 7))) !== 0;
    });
  }

  #claim(text: string, kind: "file" | "folder"): void {
    for (const place of this.#places(text, kind)) {
      this.#bits[place >>> 3] = (this.#bits[place >>> 3] ?? 0) | (1 << (place & 7));
    }
  }

  #places(text: string, kind: "file" | "folder"): number[] {
    const bitCount = this.#bits.length * 8;
    const digest = hash("sha256", `${kind}:${text.normalize("NFC").toLowerCase()}`, "buffer");
    return [0, 6, 12].map((at) => digest.readUIntLE(at, 6) % bitCount);
  }
}

const bytesForEach = 6;
const bytesMin = 262_144;

/** The names that the archive's own files have. */
function isManifest(wanted: string): boolean {
  return /^manifest(?:-[0-9]+)?\.ndjson$/i.test(wanted);
}

function foldersOf(file: string): string[] {
  const parts = file.split("/");
  return parts.slice(1).map((_, at) => parts.slice(0, at + 1).join("/"));
}

function withFid(file: string, fid: string): string {
  const { dir, name, ext } = path.posix.parse(file);
  return path.posix.join(dir, `${name}.${fid}${ext}`);
}
