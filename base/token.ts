/**
 * The cluster's secret: a file of 0600 that every process of a cluster shares and no user sees.
 * A call between processes carries it; a process refuses calls without it.
 */

import { randomBytes, timingSafeEqual } from "node:crypto";
import { closeSync, fsyncSync, linkSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import path from "node:path";
import { Failure, messageOf, systemErrorCode } from "./failure.ts";

export const tokenHeader = "x-hayloft-token";

const tokenPattern = /^[0-9a-f]{64}$/;

/** The token in `file`. Fails with `bad-request` if there is none or it is not a token. */
export function readToken(file: string): string {
  let text: string;
  try {
    text = readFileSync(file, "utf8").trim();
  } catch (error) {
    throw new Failure("bad-request", `Cannot read the token file ${file}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (!tokenPattern.test(text)) {
    throw new Failure("bad-request", `Cannot use ${file}: it does not hold 64 hexadecimal digits`);
  }
  return text;
}

/** The token in `file`, which is made (0600) if it is not there. */
export function makeToken(file: string): string {
  createSecretFile(file, `${randomBytes(32).toString("hex")}\n`);
  return readToken(file);
}

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

/** A check of the token that a request carries, in a time that does not tell how much of it is right. */
export function tokenCheck(token: string): (given: string | string[] | undefined) => boolean {
  const expected = Buffer.from(token, "latin1");
  const scratch = Buffer.alloc(expected.length);
  return (given) => {
    if (typeof given !== "string" || given.length !== expected.length) return false;
    scratch.write(given, "latin1");
    return timingSafeEqual(scratch, expected);
  };
}

/** Whether two secrets are the same, in a time that does not tell how much of them is. */
export function secretsEqual(left: string, right: string): boolean {
  const leftBytes = Buffer.from(left);
  const rightBytes = Buffer.from(right);
  return leftBytes.length === rightBytes.length && timingSafeEqual(leftBytes, rightBytes);
}
