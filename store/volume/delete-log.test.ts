import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { diskFiles } from "../../base/files.ts";
import { DeleteLog } from "./delete-log.ts";

let folder: string;
let name: string;
const identity = { volume: 3, uuid: Buffer.alloc(16, 5) };

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "hayloft-deletes-"));
  name = path.join(folder, "3.deleted");
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function createLog(): Promise<DeleteLog> {
  await DeleteLog.create(diskFiles, name, identity);
  return await DeleteLog.open(diskFiles, name, identity);
}

test("Deletes are there after a restart, in any order and twice the same", async () => {
  const log = await createLog();
  await Promise.all([5, 1, 1, 100_000, 5].map((ordinal) => log.add(ordinal, 1_790_000_000_000)));
  await log.add(1, 0);
  await log.close();
  const again = await DeleteLog.open(diskFiles, name, identity);
  expect(again.deleted.size).toBe(3);
  expect([0, 1, 5, 100_000].map((ordinal) => again.deleted.has(ordinal))).toEqual([
    false,
    true,
    true,
    true,
  ]);
  expect(again.damagedBytes).toBe(0);
  await again.close();
});

test("A torn record is forgotten and written over; one damaged in the middle is counted", async () => {
  const log = await createLog();
  for (const ordinal of [1, 2, 3]) await log.add(ordinal, 0);
  await log.close();
  const bytes = readFileSync(name);
  writeFileSync(name, bytes.subarray(0, bytes.length - 5));
  const torn = await DeleteLog.open(diskFiles, name, identity);
  expect([1, 2, 3].map((ordinal) => torn.deleted.has(ordinal))).toEqual([true, true, false]);
  await torn.add(9, 0);
  await torn.close();
  const mended = readFileSync(name);
  mended[48] = (mended[48] ?? 0) ^ 1;
  writeFileSync(name, mended);
  const damaged = await DeleteLog.open(diskFiles, name, identity);
  expect([1, 2, 9].map((ordinal) => damaged.deleted.has(ordinal))).toEqual([false, true, true]);
  expect(damaged.damagedBytes).toBe(16);
  await damaged.close();
});

test("The log of another volume, and one that does not verify, are refused", async () => {
  const log = await createLog();
  await log.close();
  const other = { volume: 3, uuid: Buffer.alloc(16, 6) };
  await expect(DeleteLog.open(diskFiles, name, other)).rejects.toThrow(/another volume/);
  const bytes = readFileSync(name);
  bytes[9] = 1;
  writeFileSync(name, bytes);
  await expect(DeleteLog.open(diskFiles, name, identity)).rejects.toThrow(/does not verify/);
});
