/** What the directory shows of itself under `/metrics`. */

import { Gauge, type Registry } from "../base/metrics.ts";
import type { Directory } from "./directory.ts";

/** `leading` is the directory while this process leads. */
export function watchDirectory(leading: () => Directory | undefined, registry: Registry): void {
  new Gauge({
    name: "hayloft_directory_leads",
    help: "1 while this directory leads, 0 while it stands by.",
    registers: [registry],
    collect() {
      this.set(leading() === undefined ? 0 : 1);
    },
  });
  new Gauge({
    name: "hayloft_directory_stores",
    help: "Stores by state.",
    labelNames: ["state"],
    registers: [registry],
    collect() {
      const counts = leading()?.storeCounts() ?? { live: 0, suspect: 0, lost: 0 };
      for (const state of ["live", "suspect", "lost"] as const) {
        this.set({ state }, counts[state]);
      }
    },
  });
  new Gauge({
    name: "hayloft_directory_short_volumes",
    help: "Sealed volumes with fewer copies than are wanted.",
    registers: [registry],
    collect() {
      this.set(leading()?.shortfall().volumeCount ?? 0);
    },
  });
  new Gauge({
    name: "hayloft_directory_repair_bytes",
    help: "Bytes that are to be copied until all volumes have their copies.",
    registers: [registry],
    collect() {
      this.set(leading()?.shortfall().copyBytes ?? 0);
    },
  });
  new Gauge({
    name: "hayloft_directory_unavailable_volumes",
    help: "Volumes of which no store with a copy answers.",
    registers: [registry],
    collect() {
      this.set(leading()?.shortfall().unavailableCount ?? 0);
    },
  });
  new Gauge({
    name: "hayloft_directory_volumes",
    help: "Volumes that stores reported, by class and state.",
    labelNames: ["class", "state"],
    registers: [registry],
    collect() {
      this.reset();
      for (const { volumes } of leading()?.status().stores ?? []) {
        for (const { class: volumeClass, state } of volumes)
          this.inc({ class: volumeClass, state });
      }
    },
  });
}
