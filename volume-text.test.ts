import { expect, test } from "vitest";
import type { VolumeFacts } from "./store/client.ts";
import {
  formatFacts,
  formatList,
  formatPlan,
  formatRecord,
  formatVerified,
  recordHead,
} from "./volume-text.ts";

const nowMs = 1_800_000_000_000;

const facts: VolumeFacts = {
  ...{ volume: 3, class: "original", uuid: "0f".repeat(16), generation: 1, epoch: 4 },
  ...{ state: "sealed", isWritable: false, lengthBytes: 5_000_000, dataBytes: 4_900_000 },
  ...{ needleCount: 1_200, deletedCount: 200, damagedBytes: 0, deadBytes: 1_250_000 },
  ...{ ttlSeconds: 0, expiresMs: 0, scrubbedMs: nowMs - 7_200_000, createdMs: nowMs - 9e8 },
  ...{ trashBytes: 0, hasSparseKeys: false, presentCount: 1_100, firstFree: 1_200 },
  indexBytes: 4_400,
  ...{ isServing: true, members: [], lastDigest: "0".repeat(16), deletesDigest: "0".repeat(16) },
};

test("Volumes are listed in columns that end alike where they are numbers", () => {
  const open = { ...facts, volume: 12, state: "open" as const, scrubbedMs: 0, damagedBytes: 2_048 };
  const text = formatList(
    [facts, open, { volume: 40, state: "unreadable", reason: "Cannot open volume 40: rot" }],
    nowMs,
  );
  expect(text.split("\n")).toEqual([
    "volume  class     state       gen  needles  deleted   length     dead         index  verified  trash  notes",
    "3       original  sealed        1    1,200      200  4.8 MiB  1.2 MiB  25%  4.3 KiB  2 h ago       -",
    "12      original  open          1    1,200      200  4.8 MiB  1.2 MiB  25%  4.3 KiB  never         -  2.0 KiB damaged",
    "40                unreadable                                                                          Cannot open volume 40: rot",
    "",
  ]);
  expect(formatList([], nowMs)).toBe("There are no volumes.\n");
});

test("Facts are shown with units, and only those that say something", () => {
  const text = formatFacts(facts, nowMs);
  expect(text).toContain("  needles     1,200, 1,100 in the file, 200 deleted\n");
  expect(text).toContain("  length      4.8 MiB (5,000,000 bytes)\n");
  expect(text).toContain("  dead        1.2 MiB, 25% of the length\n");
  expect(text).toContain("  verified    2027-01-15 06:00:00 UTC, 2 h ago\n");
  expect(text).not.toMatch(/lifetime|keys|trash|running/);
  expect(formatFacts({ ...facts, ttlSeconds: 86_400 * 3 }, nowMs)).toContain("lifetime    3 d\n");
});

test("A record is one line, whatever was uploaded", () => {
  const metadata = { bucket: "photos", key: "red\u001b[31m\r\nname\u202e\u2028", type: "a\u0000b" };
  const line = formatRecord({
    ...{ kind: "needle", ordinal: 1_000, offset: 81_920, length: 300, contentLength: 200 },
    ...{ codec: "none", timeMs: nowMs, fid: "3,03e8********", metadata, isDeleted: true },
    problem: "a checksum does not match",
  });
  expect(line).not.toMatch(/[\p{Cc}\u2028\u202e]/u);
  expect(line).toMatch(/^ +1,000 +81,920 +300 +200 {2}- .*2027-01-15T08:00:00Z {2}3,03e8\*{8}/);
  expect(line).toMatch(/\[deleted, DAMAGED: a checksum does not match\]$/);
  expect(line.indexOf("3,03e8")).toBe(recordHead.indexOf("fid"));
});

test("Damage is counted by needle, and by place where no needle is known", () => {
  const finding = { offset: 8_192, length: 1, why: "rot" };
  const verified = (findings: Parameters<typeof formatVerified>[0]["findings"]) =>
    formatVerified({ volume: 3, lengthBytes: 1_048_576, tookMs: 2_000, findings });
  expect(verified([])).toBe("volume 3: no damage, 1.0 MiB read in 2.0 s\n");
  expect(verified([{ ...finding, ordinal: 17, isDeleted: true }, finding, finding])).toBe(
    "volume 3: 1 needle damaged, 2 places damaged, 1.0 MiB read in 2.0 s\n" +
      "  needle 17 at 8,192, 1 byte: rot (it is deleted)\n" +
      "  no known needle at 8,192, 1 byte: rot\n".repeat(2),
  );
});

test("A plan has a sum, and a time where there is a rate", () => {
  const plan = { state: "sealed" as const, copyBytes: 100_000_000, freedBytes: 50_000_000 };
  const plans = [1, 2].map((volume) => ({ ...plan, volume }));
  expect(formatPlan(plans, { rateBytes: 50_000_000 }).split("\n")).toEqual([
    "volume  state    to copy   to free  takes",
    "1       sealed  95.4 MiB  47.7 MiB  2.0 s",
    "2       sealed  95.4 MiB  47.7 MiB  2.0 s",
    "in all           191 MiB  95.4 MiB  4.0 s",
    "",
  ]);
  expect(formatPlan(plans.slice(1), { rateBytes: 0 })).not.toMatch(/takes|in all/);
});
