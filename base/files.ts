/**
 * Files as a seam: everything that a process keeps on disk goes through a `FileSystem`, so that a test
 * can stand a faulty or forgetful one in its place.
 *
 * Invariants:
 * - `write` and `read` do all of what they were asked or fail: short writes are continued here, and a
 *   short read is reported as the bytes that there are.
 * - What `replace` was given is under the new name after a crash, or the old file is, whole.
 */

import fs from "node:fs";
import { open, readdir, readFile, rename, rm, statfs } from "node:fs/promises";
import path from "node:path";

export interface FileHandle {
  /** Reads up to `target.length` bytes at `offset`; returns how many there were. */
  read(target: Uint8Array, offset: number): Promise<number>;
  /** The same on the spot: for what is likely in the page cache, where a thread would cost more. */
  readNow(target: Uint8Array, offset: number): number;
  /** Writes all of the parts, one after the other, at `offset`. */
  write(parts: readonly Uint8Array[], offset: number): Promise<void>;
  /**
   * Returns once data and size of all writes that had returned before are on the disk (fdatasync). A failure
   * is final: never retry it.
   */
  syncData(): Promise<void>;
  sizeBytes(): Promise<number>;
  truncate(lengthBytes: number): Promise<void>;
  close(): Promise<void>;
}

export interface FileSystem {
  /**
   * `create` fails if the file exists, `write` and `read` if it does not. The name of a created file is
   * durable after `syncFolder`.
   */
  open(file: string, mode: "read" | "write" | "create"): Promise<FileHandle>;
  /** The whole content, or undefined if there is no such file. */
  readWhole(file: string): Promise<Buffer | undefined>;
  /**
   * Durably puts `content`, one piece or several, in the place of `file`: temporary file, sync, rename, sync
   * of the folder. One at a time for each file. After a failure the file is the old or the new one, whole.
   */
  replace(
    file: string,
    content: Uint8Array | readonly Uint8Array[],
    permissions?: number,
  ): Promise<void>;
  /** Durably gives a file another name in its folder, in the place of whatever had that name. */
  rename(names: { source: string; target: string }): Promise<void>;
  /** Names in the folder, sorted; none if there is no such folder. */
  list(folder: string): Promise<string[]>;
  /** Durably removes the file; nothing happens if there is none. */
  remove(file: string): Promise<void>;
  /** Makes names created, renamed or removed in the folder durable. */
  syncFolder(folder: string): Promise<void>;
  /** Bytes that an ordinary process may still write on the disk of `folder`, and all it has. */
  space(folder: string): Promise<{ freeBytes: number; totalBytes: number }>;
}

/**
 * Plain callbacks on descriptors: a `FileHandle` of node:fs/promises does more for each call, and one read
 * per photo is what a store does all day.
 */
class DiskFile implements FileHandle {
  readonly #descriptor: number;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  read(target: Uint8Array, offset: number): Promise<number> {
    return new Promise((resolve, reject) => {
      const step = (done: number) => {
        const callback = (error: Error | null, count: number) => {
          if (error !== null) reject(error);
          else if (count === 0 || done + count === target.length) resolve(done + count);
          else step(done + count);
        };
        fs.read(this.#descriptor, target, done, target.length - done, offset + done, callback);
      };
      step(0);
    });
  }

  readNow(target: Uint8Array, offset: number): number {
    let done = 0;
    while (done < target.length) {
      const left = target.length - done;
      const count = fs.readSync(this.#descriptor, target, done, left, offset + done);
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  write(parts: readonly Uint8Array[], offset: number): Promise<void> {
    return new Promise((resolve, reject) => {
      if (parts.every((part) => part.length === 0)) {
        resolve();
        return;
      }
      const step = (rest: readonly Uint8Array[], at: number) => {
        const length = rest.reduce((sum, part) => sum + part.length, 0);
        fs.writev(this.#descriptor, rest, at, (error, count) => {
          if (error !== null) reject(error);
          else if (count === length) resolve();
          else step(dropBytes(rest, count), at + count);
        });
      };
      step(parts, offset);
    });
  }

  syncData(): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.fdatasync(this.#descriptor, (error) => (error === null ? resolve() : reject(error)));
    });
  }

  sizeBytes(): Promise<number> {
    return new Promise((resolve, reject) => {
      fs.fstat(this.#descriptor, (error, stats) =>
        error === null ? resolve(stats.size) : reject(error),
      );
    });
  }

  truncate(lengthBytes: number): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.ftruncate(this.#descriptor, lengthBytes, (error) =>
        error === null ? resolve() : reject(error),
      );
    });
  }

  close(): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.close(this.#descriptor, (error) => (error ? reject(error) : resolve()));
    });
  }
}

/** What is left of the parts after their first `count` bytes. */
function dropBytes(parts: readonly Uint8Array[], count: number): Uint8Array[] {
  let left = count;
  const rest: Uint8Array[] = [];
  for (const part of parts) {
    if (left >= part.length) left -= part.length;
    else {
      rest.push(left === 0 ? part : part.subarray(left));
      left = 0;
    }
  }
  return rest;
}

const openFlags = { read: "r", write: "r+", create: "wx+" } as const;

export const diskFiles: FileSystem = {
  open(file, mode) {
    return new Promise((resolve, reject) => {
      fs.open(file, openFlags[mode], 0o600, (error, descriptor) =>
        error === null ? resolve(new DiskFile(descriptor)) : reject(error),
      );
    });
  },

  async readWhole(file) {
    try {
      return await readFile(file);
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
      throw error;
    }
  },

  async replace(file, content, permissions = 0o600) {
    const temporary = `${file}.new`;
    try {
      const handle = await open(temporary, "w", permissions);
      try {
        const parts = content instanceof Uint8Array ? [content] : content;
        await new DiskFile(handle.fd).write(parts, 0);
        await handle.sync();
      } finally {
        await handle.close();
      }
    } catch (error) {
      // Most likely the disk is full: half a file must not keep it so.
      await rm(temporary, { force: true }).catch(() => undefined);
      throw error;
    }
    // Sync the new file before the rename and the folder after it; with either missing, a power cut
    // can leave the new name on old bytes.
    await rename(temporary, file);
    await diskFiles.syncFolder(path.dirname(file));
  },

  async rename({ source, target }) {
    await rename(source, target);
    await diskFiles.syncFolder(path.dirname(target));
  },

  async list(folder) {
    try {
      return (await readdir(folder)).sort();
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
      throw error;
    }
  },

  async remove(file) {
    await rm(file, { force: true });
    await diskFiles.syncFolder(path.dirname(file));
  },

  async syncFolder(folder) {
    const handle = await open(folder, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },

  async space(folder) {
    const { bsize, bavail, blocks } = await statfs(folder);
    return { freeBytes: bsize * bavail, totalBytes: bsize * blocks };
  },
};
