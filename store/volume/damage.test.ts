import { expect, test } from "vitest";
import type { Fid } from "../../base/fid.ts";
import { SimulatedFiles } from "../../base/simulated-files.ts";
import { blobOf, createOn, environmentOn, openOn, readContent } from "./simulated-volume.ts";
import type { Volume } from "./volume.ts";

const file = "/store/3.g0.volume";

async function sealedOn(files: SimulatedFiles): Promise<{ volume: Volume; fid: Fid }> {
  const volume = await createOn(environmentOn(files));
  const fids = await volume.appendAll([1, 2, 3].map((fill) => blobOf(Buffer.alloc(900, fill))));
  await volume.seal();
  await volume.settled();
  const [fid] = fids.slice(1);
  if (fid === undefined) throw new Error("each blob has a fid");
  return { volume, fid };
}

/** A bit in the data of the second blob. */
const damagedBit = (files: SimulatedFiles): number =>
  ((files.visible(file)?.indexOf(Buffer.alloc(900, 2)) ?? 0) + 450) * 8;

test("What a read finds damaged is remembered over a restart, until a scrub finds all well", async () => {
  const files = new SimulatedFiles();
  const { volume, fid } = await sealedOn(files);
  const bit = damagedBit(files);
  files.flipBit(file, bit);
  expect(volume.report().damagedBytes).toBe(0);
  await expect(readContent(volume, fid)).rejects.toThrow("a checksum does not match");
  const { damagedBytes } = volume.report();
  expect(damagedBytes).toBeGreaterThan(900);
  expect(volume.isSuspect).toBe(true);
  const order = { generation: 1, ttlCutoffMs: 0, rateBytes: 0, purge: false };
  await expect(volume.compact(order)).rejects.toThrow("it is damaged");
  await volume.close();

  const again = await openOn(environmentOn(files.restart({ lose: "all" })));
  expect(again.report().damagedBytes).toBe(damagedBytes);
  await again.close();
  // A cable that was bad, say: the bytes are right again.
  const mended = files.restart({ lose: "all" });
  mended.flipBit(file, bit);
  const third = await openOn(environmentOn(mended));
  expect(await third.scrub({ rateBytes: 0 })).toEqual([]);
  expect(third.report().damagedBytes).toBe(0);
  await third.close();
  const last = await openOn(environmentOn(mended));
  expect(last.report().damagedBytes).toBe(0);
  await last.close();
});

test("What a scrub found is remembered over a restart, and it is no suspicion any more", async () => {
  const files = new SimulatedFiles();
  const { volume, fid } = await sealedOn(files);
  files.flipBit(file, damagedBit(files));
  await expect(readContent(volume, fid)).rejects.toThrow("a checksum does not match");
  expect(await volume.scrub({ rateBytes: 0 })).toHaveLength(1);
  expect(volume.isSuspect).toBe(false);
  await expect(readContent(volume, fid)).rejects.toThrow("a checksum does not match");
  expect(volume.isSuspect).toBe(false);
  const { damagedBytes } = volume.report();
  await volume.close();
  const again = await openOn(environmentOn(files.restart({ lose: "all" })));
  expect(again.report().damagedBytes).toBe(damagedBytes);
  await again.close();
});
