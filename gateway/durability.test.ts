import { expect, test } from "vitest";
import { Failure } from "../base/failure.ts";
import type { Durability } from "../store/client.ts";
import { chooseDurability } from "./durability.ts";

const rows: { asked?: string; bucket: Durability; chosen: Durability | "bad-request" }[] = [
  { bucket: "disk", chosen: "disk" },
  { bucket: "memory", chosen: "memory" },
  { asked: "disk", bucket: "disk", chosen: "disk" },
  { asked: "disk", bucket: "memory", chosen: "disk" },
  { asked: "memory", bucket: "memory", chosen: "memory" },
  { asked: "memory", bucket: "disk", chosen: "bad-request" },
  ...["", "Disk", "none", "disk, disk", "disk, memory", "memory, memory"].flatMap((asked) => [
    { asked, bucket: "disk" as const, chosen: "bad-request" as const },
    { asked, bucket: "memory" as const, chosen: "bad-request" as const },
  ]),
];

test.each(rows)("In a bucket with $bucket, a request that asks for $asked gets $chosen", (row) => {
  const headers = row.asked === undefined ? {} : { "x-hayloft-durability": row.asked };
  const choose = () => chooseDurability(headers, row.bucket);
  if (row.chosen !== "bad-request") expect(choose()).toBe(row.chosen);
  else expect(choose).toThrow(expect.toSatisfy(isBadRequest));
});

function isBadRequest(error: unknown): boolean {
  return error instanceof Failure && error.kind === "bad-request";
}
