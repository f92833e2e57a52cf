/**
 * The folder through which pictures reach the image process: one file for each that is on its way,
 * in memory where the system has such a file system, and the socket that they are told of through.
 *
 * Invariants:
 * - Only this user may enter the folder.
 * - The files together stay under `heldBytesMax`, each under `sourceBytesMax`.
 * - A file is one render's, tries included; the folder lives as long as the gateway.
 */

import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Failure, messageOf, systemErrorCode } from "../../base/failure.ts";

const sourceBytesMax = 64 * 1_024 * 1_024;
const heldBytesMax = 512 * 1_024 * 1_024;
/** Files that are kept to be used again: together at most 32 MiB. */
const spareBytesMax = 2 * 1_024 * 1_024;
const sparesMax = 16;
/** Where a socket's path has to fit in: 104 bytes on macOS, 108 on Linux. */
const socketPathLengthMax = 100;
const namePrefix = "hayloft-images-";
/**
 * How old a folder is that is taken for a dead gateway's. Should it be alive, in a container that we
 * share the memory with and not the process ids, it makes its folder again.
 */
const leftoverMs = 10 * 60_000;

/**
 * A picture's bytes: at hand, as they come, or from a function that hands over part after part, each of
 * which is only valid until it returns.
 */
export type RenderSource =
  | Uint8Array
  | AsyncIterable<Uint8Array>
  | ((onPart: (part: Uint8Array) => void) => Promise<void>);

interface HeldFile {
  file: string;
  descriptor: number;
  /** Bytes that it may have now: never fewer than it has. */
  length: number;
}

export class Handover {
  readonly folder: string;
  readonly socketPath: string;
  /** The folder was gone and is new: nobody listens on its socket. */
  readonly #onRestored: () => void;
  readonly #spares: HeldFile[] = [];
  #heldBytes = 0;
  #count = 0;

  /** `parent` is where the folder is made; by default the system's memory, else its temporary files. */
  constructor(parent: string | undefined, onRestored: () => void) {
    this.#onRestored = onRestored;
    this.folder = makeFolder(parent === undefined ? [...memoryFolders(), tmpdir()] : [parent]);
    this.socketPath =
      process.platform === "win32"
        ? `\\\\.\\pipe\\${this.folder.replaceAll(/[\\/:]/g, "-")}`
        : join(this.folder, "socket");
  }

  /** Runs `work` with a file that has all of the source's bytes. */
  async with<Value>(source: RenderSource, work: (file: string) => Promise<Value>): Promise<Value> {
    let length = 0;
    // Synchronous: in memory this is a copy and no wait, and cheaper than asking libuv for it.
    const held = this.#takeSpare() ?? this.#make();
    const append = (part: Uint8Array) => {
      const offset = length;
      length += part.length;
      this.#heldBytes += part.length;
      this.#checkLimits(length);
      // Before it is written: however far that gets, the file is never longer than this says.
      held.length = Math.max(held.length, length);
      for (let at = 0; at < part.length; ) {
        at += writeSync(held.descriptor, part, at, part.length - at, offset + at);
      }
    };
    try {
      try {
        if (source instanceof Uint8Array) append(source);
        else if (typeof source === "function") await source(append);
        else for await (const part of source) append(part);
        if (length < held.length) ftruncateSync(held.descriptor, length);
        held.length = length;
      } catch (error) {
        throw toWriteFailure(error);
      }
      return await work(held.file);
    } finally {
      this.#heldBytes -= length;
      this.#giveBack(held);
    }
  }

  /**
   * A file that was used before: its pages are there already. Whoever still reads it for a picture that
   * nobody waits for any more reads something else, and its answer goes to nobody.
   */
  #takeSpare(): HeldFile | undefined {
    const spare = this.#spares.pop();
    if (spare === undefined || existsSync(spare.file)) return spare;
    for (const each of [spare, ...this.#spares.splice(0)]) closeSync(each.descriptor); // swept away
    return undefined;
  }

  #make(): HeldFile {
    this.#count += 1;
    const file = join(this.folder, String(this.#count));
    return { file, descriptor: this.#open(file), length: 0 };
  }

  #giveBack(held: HeldFile): void {
    if (held.length > 0 && held.length <= spareBytesMax && this.#spares.length < sparesMax) {
      this.#spares.push(held);
    } else {
      closeSync(held.descriptor);
      rmSync(held.file, { force: true });
    }
  }

  #open(file: string): number {
    try {
      return openSync(file, "wx", 0o600);
    } catch (error) {
      if (systemErrorCode(error) !== "ENOENT") throw toWriteFailure(error);
      // Swept away, as logind does with the memory of a user who logs out. Not `recursive`: a folder
      // that somebody else made under this name is not ours to use.
      mkdirSync(this.folder, { mode: 0o700 });
      this.#onRestored();
      return openSync(file, "wx", 0o600);
    }
  }

  close(): void {
    for (const { descriptor } of this.#spares.splice(0)) closeSync(descriptor);
    rmSync(this.folder, { recursive: true, force: true });
  }

  #checkLimits(length: number): void {
    if (length > sourceBytesMax) {
      const limit = `${sourceBytesMax / 1_024 ** 2} MiB`;
      throw new Failure("too-large", `Cannot render the picture: its file is over ${limit}`);
    }
    if (this.#heldBytes > heldBytesMax) throw full(undefined);
  }
}

function toWriteFailure(error: unknown): unknown {
  return systemErrorCode(error) === "ENOSPC" ? full(error) : error;
}

function full(cause: unknown): Failure {
  const message = "Cannot render the picture now: those that wait take all the memory there is";
  return new Failure("busy", message, { cause, retryAfterSeconds: 1 });
}

function memoryFolders(): string[] {
  try {
    accessSync("/dev/shm", constants.R_OK | constants.W_OK | constants.X_OK);
    return ["/dev/shm"];
  } catch {
    return []; // only Linux has it
  }
}

function makeFolder(parents: readonly string[]): string {
  const name = `${namePrefix}${process.pid}-`;
  const reasons: string[] = [];
  for (const parent of new Set([...parents, tmpdir(), "/tmp"])) {
    const socketPath = join(parent, `${name}123456`, "socket");
    if (process.platform !== "win32" && Buffer.byteLength(socketPath) > socketPathLengthMax) {
      reasons.push(`${parent} is too long for a socket's path`);
      continue;
    }
    try {
      removeLeftovers(parent);
      return mkdtempSync(join(parent, name)); // of mode 0700
    } catch (error) {
      reasons.push(messageOf(error));
    }
  }
  const why = reasons.join("; ");
  throw new Failure("conflict", `Cannot make a folder for the image process: ${why}`);
}

/** What a gateway and its image process leave when both are killed at the same moment. */
function removeLeftovers(parent: string): void {
  for (const name of readdirSync(parent)) {
    const pid = /^hayloft-images-(\d+)-/.exec(name)?.[1];
    if (pid === undefined || isRunning(Number(pid))) continue;
    try {
      const folder = join(parent, name);
      if (Date.now() - statSync(folder).mtimeMs < leftoverMs) continue;
      rmSync(folder, { recursive: true, force: true });
    } catch {
      // Another user's, or just gone.
    }
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemErrorCode(error) !== "ESRCH";
  }
}
