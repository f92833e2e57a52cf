import { expect, test } from "vitest";
import { parseReplication } from "./copies.ts";
import { defaultSettings, patchSettings } from "./model.ts";

test.each([
  ["000", 1, "machine"],
  ["001", 2, "machine"],
  ["010", 2, "rack"],
  ["100", 2, "data-centre"],
  ["002", 3, "machine"],
  ["011", 3, "rack"],
  ["110", 3, "data-centre"],
  ["200", 3, "data-centre"],
  ["232", 8, "data-centre"],
])("SeaweedFS's replication %s is %d copies, apart by %s", (text, copies, spread) => {
  expect(parseReplication(text)).toEqual({ copies, spread });
});

test.each(["", "0", "00", "0000", "0x1", "-01", " 01", "１００", "233", "999"])(
  "%j is no replication",
  (text) => {
    expect(parseReplication(text)).toBeUndefined();
  },
);

test("Uploads want all copies until told otherwise, and never more than there are to be", () => {
  const three = patchSettings(defaultSettings, { copies: 3 });
  expect(three).toMatchObject({ copies: 3, minCopies: 3, spread: "machine" });
  expect(patchSettings(three, { copies: 2 })).toMatchObject({ copies: 2, minCopies: 2 });

  const fewer = patchSettings(three, { minCopies: 2, spread: "rack" });
  expect(fewer).toMatchObject({ copies: 3, minCopies: 2, spread: "rack" });
  expect(patchSettings(fewer, { copies: 5 }).minCopies).toBe(2);
  expect(patchSettings(fewer, { copies: 1 }).minCopies).toBe(1);
  expect(patchSettings(fewer, { publicRead: true })).toEqual({ ...fewer, publicRead: true });
  expect(() => patchSettings(fewer, { minCopies: 4 })).toThrow("minCopies is 4");
  expect(() => patchSettings(fewer, { copies: 1, minCopies: 2 })).toThrow("minCopies is 2");
});
