/** Power cuts on the simulated disk: an engine that syncs keeps its promises, and one that does not is found out. */

import { expect, test } from "vitest";
import type { FileHandle, FileSystem } from "../../base/files.ts";
import type { EngineViolation } from "./engine-ledger.ts";
import { PowerCuts } from "./power-cuts.ts";
import { SimulatedDisk } from "./simulated-disk.ts";

/** What was wrong in the first lives of a disk. */
async function violationsOf(
  disk: SimulatedDisk,
  { seed, lives }: { seed: number; lives: number },
): Promise<EngineViolation[]> {
  const log: string[] = [];
  const cuts = new PowerCuts({
    disk,
    seed,
    livesPerImage: lives,
    log: (records) => log.push(...records),
  });
  const violations: EngineViolation[] = [];
  for (let life = 1; life <= lives; life++) violations.push(...(await cuts.next()).violations);
  expect(log.length, "something was done").toBeGreaterThan(lives);
  expect(cuts.count.disk).toBeGreaterThan(0);
  return violations;
}

/** Files whose names match are written, and never synced by `syncData`. */
function forgetful(pattern: RegExp): (files: FileSystem) => FileSystem {
  return (files) => ({
    async open(file, mode) {
      const handle = await files.open(file, mode);
      if (!pattern.test(file)) return handle;
      const unsynced: FileHandle = {
        read: (target, offset) => handle.read(target, offset),
        readNow: (target, offset) => handle.readNow(target, offset),
        write: (parts, offset) => handle.write(parts, offset),
        syncData: async () => undefined,
        sizeBytes: () => handle.sizeBytes(),
        truncate: (lengthBytes) => handle.truncate(lengthBytes),
        close: () => handle.close(),
      };
      return unsynced;
    },
    readWhole: (file) => files.readWhole(file),
    replace: (file, content, permissions) => files.replace(file, content, permissions),
    rename: (names) => files.rename(names),
    list: (folder) => files.list(folder),
    remove: (file) => files.remove(file),
    syncFolder: (folder) => files.syncFolder(folder),
    space: (folder) => files.space(folder),
  });
}

for (const seed of [1, 2, 3]) {
  test(`Nothing that was promised is lost in eight power cuts (seed ${seed})`, {
    timeout: 60_000,
  }, async () => {
    expect(await violationsOf(new SimulatedDisk(), { seed, lives: 8 })).toEqual([]);
  });
}

test("Volumes that are not synced are found out", { timeout: 60_000 }, async () => {
  const disk = new SimulatedDisk(forgetful(/\.volume$/));
  const kinds = (await violationsOf(disk, { seed: 1, lives: 5 })).map(({ kind }) => kind);
  expect(kinds).toContain("lost");
});

test("Delete logs that are not synced are found out", { timeout: 60_000 }, async () => {
  const disk = new SimulatedDisk(forgetful(/\.deleted$/));
  const kinds = (await violationsOf(disk, { seed: 1, lives: 5 })).map(({ kind }) => kind);
  expect(kinds).toContain("ghost");
});

test("The same seed goes the same way, record by record", { timeout: 60_000 }, async () => {
  const run = async (seed: number) => {
    const told: string[] = [];
    const cuts = new PowerCuts({
      disk: new SimulatedDisk(),
      seed,
      livesPerImage: 4,
      log: (records) => told.push(...records),
    });
    for (let life = 1; life <= 4; life++) await cuts.next();
    return told;
  };
  for (const seed of [7, 8, 9]) expect(await run(seed)).toEqual(await run(seed));
});
