/** What a gateway shows of itself under `/metrics`, beside what its image process counts. */

import { Counter, Gauge, Histogram, latencyBuckets, type Registry } from "../base/metrics.ts";
import type { BlobCache } from "../cache/lru.ts";
import type { BlobCounts } from "./blob-counts.ts";

export interface GatewayMetrics {
  requestSeconds: Histogram<"method" | "route" | "status">;
}

export function makeGatewayMetrics(
  registry: Registry,
  cache: BlobCache<Buffer>,
  counts: BlobCounts,
): GatewayMetrics {
  const registers = [registry];
  new Counter({
    name: "hayloft_cache_reads_total",
    help: "Looks into the cache in memory, by outcome.",
    labelNames: ["outcome"],
    registers,
    collect() {
      const { hits, misses } = cache.stats;
      this.reset();
      this.inc({ outcome: "hit" }, hits);
      this.inc({ outcome: "miss" }, misses);
    },
  });
  new Gauge({
    name: "hayloft_cache_bytes",
    help: "Bytes in the cache in memory.",
    registers,
    collect() {
      this.set(cache.stats.bytes);
    },
  });
  showCounts(registry, counts);
  return {
    requestSeconds: new Histogram({
      name: "hayloft_http_request_seconds",
      help: "From a request's head to the end of its answer.",
      labelNames: ["method", "route", "status"],
      buckets: latencyBuckets,
      registers,
    }),
  };
}

function showCounts(registry: Registry, counts: BlobCounts): void {
  const show = (name: string, help: string, read: () => number) => {
    new Counter({
      name,
      help,
      registers: [registry],
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  };
  show(
    "hayloft_hedged_reads_total",
    "Reads of a second copy while the first had not answered.",
    () => counts.hedgedReads,
  );
  show("hayloft_hedge_wins_total", "Hedged reads that answered first.", () => counts.hedgeWins);
  show(
    "hayloft_put_retries_total",
    "Puts that went on to another volume, each time.",
    () => counts.putRetries,
  );
  new Counter({
    name: "hayloft_reads_around_total",
    help: "Copies of blobs that were read around, by what was wrong with them.",
    labelNames: ["reason"],
    registers: [registry],
    collect() {
      this.reset();
      for (const [reason, count] of Object.entries(counts.readsAround)) this.inc({ reason }, count);
    },
  });
}
