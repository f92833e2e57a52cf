/** What the directory shows of itself under `/metrics`. */

import { Gauge, type Registry } from "../base/metrics.ts";
import type { Directory } from "./directory.ts";

export function watchDirectory(directory: Directory, registry: Registry): void {
  new Gauge({
    name: "hayloft_directory_stores",
    help: "Stores by state.",
    labelNames: ["state"],
    registers: [registry],
    collect() {
      const counts = directory.storeCounts();
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
      this.set(directory.shortfall().volumeCount);
    },
  });
  new Gauge({
    name: "hayloft_directory_repair_bytes",
    help: "Bytes that are to be copied until all volumes have their copies.",
    registers: [registry],
    collect() {
      this.set(directory.shortfall().copyBytes);
    },
  });
  new Gauge({
    name: "hayloft_directory_unavailable_volumes",
    help: "Volumes of which no store with a copy answers.",
    registers: [registry],
    collect() {
      this.set(directory.shortfall().unavailableCount);
    },
  });
  new Gauge({
    name: "hayloft_directory_volumes",
    help: "Volumes that stores reported, by class and state.",
    labelNames: ["class", "state"],
    registers: [registry],
    collect() {
      this.reset();
      for (const { volumes } of directory.status().stores) {
        for (const { class: volumeClass, state } of volumes)
          this.inc({ class: volumeClass, state });
      }
    },
  });
}
