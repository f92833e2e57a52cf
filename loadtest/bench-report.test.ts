import { expect, test } from "vitest";
import { Failure } from "../base/failure.ts";
import { readFioReport } from "./bench-cold.ts";
import { type Measured, median, medianLatency, percentile, takeTurns } from "./bench-report.ts";

test("A median is the middle value, or halfway between the two in the middle", () => {
  expect(median([9, 1, 5])).toBe(5);
  expect(median([10, 1, 2, 4])).toBe(3);
  expect(median([])).toBeNaN();
});

test("A percentile is the value that so many lie below, and the largest at the end", () => {
  const values = Array.from({ length: 200 }, (_, at) => 199 - at);
  expect(percentile(values, 0.5)).toBe(100);
  expect(percentile(values, 0.99)).toBe(198);
  expect(percentile(values, 1)).toBe(199);
  expect(percentile([], 0.99)).toBeNaN();
});

test("Sides take turns after a warm-up of each, which is not counted", async () => {
  const runs: string[] = [];
  const side = (name: string) => ({
    name,
    run: async (): Promise<Measured> => {
      runs.push(name);
      return { perSecond: runs.length, latencyMsP99: runs.length * 2 };
    },
  });
  const [ours] = await takeTurns([side("A"), side("B")], 2);
  expect(runs.join("")).toBe("ABABAB");
  expect(ours?.results.map(({ perSecond }) => perSecond)).toEqual([3, 5]);
  expect(ours === undefined ? 0 : medianLatency(ours, "latencyMsP99")).toBe(8);
});

test("A round with a request that failed ends the run", async () => {
  const side = { name: "A", run: async () => ({ perSecond: 1, bad: 1, command: "wrk" }) };
  await expect(takeTurns([side], 1)).rejects.toThrow('Cannot count a round of "A": 1');
});

test("What fio printed is read, whatever stands before it", () => {
  const report = fioReport({ io_bytes: 131_072, bw_bytes: 2_097_152 });
  expect(readFioReport(`fio: a note\n${report}`, 131_072)).toEqual({
    perSecond: 2,
    latencyMsP50: 1.5,
    latencyMsP99: 4,
  });
});

test("A run of fio that read another number of bytes is no measurement", () => {
  const report = fioReport({ io_bytes: 65_536, bw_bytes: 1 });
  expect(() => readFioReport(report, 131_072)).toThrow(Failure);
});

function fioReport(read: { io_bytes: number; bw_bytes: number }): string {
  const percentiles = { "50.000000": 1_500_000, "99.000000": 4_000_000 };
  return JSON.stringify({ jobs: [{ read: { ...read, clat_ns: { percentile: percentiles } } }] });
}
