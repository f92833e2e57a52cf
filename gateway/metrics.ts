/** What a gateway shows of itself under `/metrics`, beside what its image process counts. */

import { Counter, Gauge, Histogram, latencyBuckets, type Registry } from "../base/metrics.ts";
import type { BlobCache } from "../cache/lru.ts";

export interface GatewayMetrics {
  requestSeconds: Histogram<"method" | "route" | "status">;
}

export function makeGatewayMetrics(registry: Registry, cache: BlobCache<Buffer>): GatewayMetrics {
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
