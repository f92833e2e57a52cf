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
      const stores = leading()?.status().stores ?? [];
      for (const state of ["live", "suspect", "lost"] as const) {
        this.set({ state }, stores.filter((store) => store.state === state).length);
      }
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
