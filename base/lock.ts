/**
 * A lock on a folder that a crash can't leave stale: the kernel holds it for the process and lets go
 * when the process ends, however it ends.
 *
 * Node has no call for file locks, but SQLite takes one, on every platform: an exclusive transaction
 * on a small file of its own, open for as long as the lock is held.
 */

import { closeSync, fsyncSync, mkdirSync, openSync } from "node:fs";
import path from "node:path";
import { DatabaseSync } from "node:sqlite";
import { Failure, messageOf } from "./failure.ts";

export interface FolderLock {
  release(): void;
}

/** Makes the folder and those above it, so that a power cut after this call leaves them there. */
function makeFolderDurably(folder: string): void {
  const first = mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (first === undefined) return;
  const above = path.dirname(path.resolve(first));
  for (let made = path.resolve(folder); made !== above; made = path.dirname(made)) {
    syncFolderNow(path.dirname(made));
  }
}

function syncFolderNow(folder: string): void {
  const descriptor = openSync(folder, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** Takes the lock of `folder`, making the folder if need be; fails with `conflict` if it is taken. */
export function lockFolder(folder: string, holder: string): FolderLock {
  makeFolderDurably(folder);
  const file = path.join(folder, "lock");
  const database = new DatabaseSync(file);
  try {
    database.exec("PRAGMA busy_timeout = 0; PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
  } catch (error) {
    database.close();
    if (/locked|busy/.test(messageOf(error))) {
      throw new Failure(
        "conflict",
        `Cannot use ${folder}: another ${holder} is using it; stop that one, or give this one a folder of its own`,
      );
    }
    throw new Failure("internal", `Cannot lock ${folder}: ${messageOf(error)}`, { cause: error });
  }
  return { release: () => database.close() };
}
