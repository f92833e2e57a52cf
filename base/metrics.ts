/**
 * Metrics and health of a process, on an address of their own so that they are never in the way of, nor
 * shown to, users: `/metrics` (Prometheus), `/livez` (the process runs), `/readyz` (it can do its work).
 */

import { createServer, type Server } from "node:http";
import { collectDefaultMetrics, Registry } from "@prometheus-io/client";
import { messageOf } from "./failure.ts";
import { answer, answerJson, type ListenAddress, listen } from "./http-serve.ts";

export { Counter, Gauge, Histogram, type Registry } from "@prometheus-io/client";

/** Upper bounds in seconds, from a read out of the page cache to a render that waited its turn. */
export const latencyBuckets: number[] = [
  0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
];

export function makeRegistry(role: string): Registry {
  const registry = new Registry();
  registry.setDefaultLabels({ role });
  collectDefaultMetrics({ register: registry });
  return registry;
}

export interface OpsServer {
  server: Server;
  address: ListenAddress;
}

/** `readiness` returns why the process is not ready, or undefined when it is. */
export async function startOpsServer(
  address: ListenAddress,
  { registry, readiness }: { registry: Registry; readiness: () => string | undefined },
): Promise<OpsServer> {
  const server = createServer((request, response) => {
    switch (request.url?.split("?")[0]) {
      case "/metrics":
        registry.metrics().then(
          (text) => answer(response, 200, text, { "content-type": registry.contentType }),
          (error: unknown) => answer(response, 500, `${messageOf(error)}\n`),
        );
        break;
      case "/livez":
        answerJson(response, 200, { status: "live" });
        break;
      case "/readyz": {
        const reason = readiness();
        if (reason === undefined) answerJson(response, 200, { status: "ready" });
        else answerJson(response, 503, { status: "not ready", reason });
        break;
      }
      default:
        answerJson(response, 404, { error: "here are /metrics, /livez and /readyz" });
    }
  });
  return { server, address: await listen(server, address) };
}
