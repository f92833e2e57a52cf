/** The benchmark's scrub: how fast one core verifies a volume that is in the page cache. */

import { EngineChild, fillFolder, mebibyte, removeFolder } from "./bench-engine.ts";
import { type BenchRun, medianRate, takeTurns } from "./bench-report.ts";
import type { ScrubAnswer, ScrubRequest } from "./engine/scrub.ts";

const aimMegabytes = 200;

export async function benchScrub(bench: BenchRun): Promise<void> {
  await scrubNeedles(bench, { dataBytes: 65_536, lengthBytes: bench.scrubBytes, hasAim: true });
  // A quarter: they are many, and take their time to write.
  await scrubNeedles(bench, { dataBytes: 1_024, lengthBytes: bench.scrubBytes / 4, hasAim: false });
}

async function scrubNeedles(
  bench: BenchRun,
  { dataBytes, lengthBytes, hasAim }: { dataBytes: number; lengthBytes: number; hasAim: boolean },
): Promise<void> {
  const { report, rounds, serverCore } = bench;
  const kibibytes = dataBytes / 1_024;
  report.heading(
    `scrub: ${kibibytes} KiB needles, page cache warm / CRC-32 and SHA-256 over the same bytes, same process`,
  );
  const { folder } = await fillFolder(bench, {
    name: `scrub-${kibibytes}`,
    ...{ volumes: 1, needles: Math.ceil(lengthBytes / dataBytes), dataBytes, ending: "sealed" },
  });
  const child = await EngineChild.start<ScrubRequest>("scrub.ts", {
    core: serverCore,
  });
  try {
    await child.ask({ kind: "open", folder });
    const side = (name: string, kind: "scrub" | "checksums") => ({
      name,
      run: async () => {
        const { seconds, lengthBytes } = await child.ask<ScrubAnswer>({ kind });
        return { perSecond: lengthBytes / 1e6 / seconds };
      },
    });
    const taken = await takeTurns(
      [side("scrub", "scrub"), side("checksums alone", "checksums")],
      rounds,
    );
    report.compare(taken, { unit: "MB" });
    const [scrub] = taken;
    if (hasAim && scrub !== undefined) {
      const rate = medianRate(scrub);
      const verdict = report.judge(rate >= aimMegabytes, `at least ${aimMegabytes} MB/s a core`);
      report.note(`${Math.round(rate)} MB/s, ${verdict}`);
    }
    const pinned = serverCore === undefined ? "not pinned" : `pinned to core ${serverCore}`;
    report.note(`${rounds} rounds each, ${pinned}, of ${Math.round(lengthBytes / mebibyte)} MiB`);
  } finally {
    await child.close();
  }
  await removeFolder(folder);
}
