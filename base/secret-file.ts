/** Files that hold a secret: 0600, whole or not there. */

import { randomBytes, timingSafeEqual } from "node:crypto";
import {
  closeSync,
  fstatSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import path from "node:path";
import { Failure, messageOf, systemErrorCode } from "./failure.ts";

/**
 * Puts `content` into a new file of 0600 unless the file exists. Linked into place when whole, so
 * nobody, not even after a crash, finds half a secret. Returns whether this call made the file.
 */
export function createSecretFile(file: string, content: string): boolean {
  const temporary = `${file}.${randomBytes(6).toString("hex")}.new`;
  const descriptor = openSync(temporary, "wx", 0o600);
  try {
    writeSync(descriptor, content);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  try {
    linkSync(temporary, file);
    const folder = openSync(path.dirname(file), "r");
    fsyncSync(folder);
    closeSync(folder);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** What the file holds. Fails with `bad-request` if it can't be read, or can be by others than its owner. */
export function readSecretFile(file: string): string {
  let mode: number;
  let text: string;
  try {
    const descriptor = openSync(file, "r");
    try {
      mode = fstatSync(descriptor).mode & 0o777;
      text = readFileSync(descriptor, "utf8");
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw new Failure("bad-request", `Cannot read the secret file ${file}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  // Windows has no such modes, and answers with some.
  if ((mode & 0o077) !== 0 && process.platform !== "win32") {
    throw new Failure(
      "bad-request",
      `Cannot use the secret file ${file}: others than its owner may use it (mode ${mode.toString(8)}); run: chmod 600 ${file}`,
    );
  }
  return text;
}

/** Whether two secrets are the same, in a time that does not tell how much of them is. */
export function secretsEqual(left: string, right: string): boolean {
  const leftBytes = Buffer.from(left);
  const rightBytes = Buffer.from(right);
  return leftBytes.length === rightBytes.length && timingSafeEqual(leftBytes, rightBytes);
}
