/** Under which address others are told to reach a process that listens. */

import { Failure } from "./failure.ts";
import { isLoopback } from "./native-access.ts";

/**
 * The address that was said, else the one that it listens on, unless that leads nowhere for others: `peers`
 * are addresses (`host:port`) of the cluster, by which it is seen whether it has other machines.
 */
export function advertisedAddress(
  listening: string,
  { advertise, peers }: { advertise?: string | undefined; peers: readonly string[] },
): string {
  if (advertise !== undefined) return advertise;
  const host = hostOf(listening);
  if (host === "0.0.0.0" || host === "::") {
    throw new Failure(
      "bad-request",
      `Cannot tell others where to reach this process: it listens on all addresses (${listening}); say one with --advertise HOST:PORT`,
    );
  }
  const far = peers.find((peer) => !isLoopback(hostOf(peer)));
  if (isLoopback(host) && far !== undefined) {
    throw new Failure(
      "bad-request",
      `Cannot join ${far} as ${listening}: other machines don't reach that; say with --host what to listen on`,
    );
  }
  return listening;
}

function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(":")).replace(/^\[|\]$/g, "");
}
