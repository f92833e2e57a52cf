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
      const { stores } = directory.status();
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
      for (const { volumes } of directory.status().stores) {
        for (const { class: volumeClass, state } of volumes)
          this.inc({ class: volumeClass, state });
      }
    },
  });
}
