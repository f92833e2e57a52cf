/**
 * One life of a whole cluster under simulated time: stores, directory and gateways as they are, on disks and
 * a network that fail, and clients that hold them to their word.
 *
 * Invariant: all that happens follows from the seed.
 */

import { seededRandom } from "../../base/random.ts";
import { SimulatedTime } from "../../base/simulated-time.ts";
import { AtRest } from "./at-rest.ts";
import { DirectoryHost } from "./directory-host.ts";
import { Faults, type Hosts } from "./faults.ts";
import { GatewayHost } from "./gateway-host.ts";
import { SimulatedNetwork } from "./network.ts";
import { Promises, type Violation } from "./promises.ts";
import { StoreHost } from "./store-host.ts";
import { Trace } from "./trace.ts";
import { chooseSettings, type World } from "./world.ts";

export interface SimulationOptions {
  seed: number;
  /** Given each line of the trace. */
  print?: ((text: string) => void) | undefined;
  /** Stores count a batch as written before the replicas have it: a bug that has to be found. */
  isHasty?: boolean;
}

export interface SimulationOutcome {
  violations: readonly Violation[];
  /** Of all that happened. */
  digest: string;
  /** What led to the first violation. */
  excerpt: string[];
  counts: Promises["counts"];
  simulatedMs: number;
}

const calmMs = 1_500;
/** A put has 12 s, a read 8 and a bit. */
const clientsMs = 25_000;
const excerptMax = 200;
/** Share of the runs at whose end the power of all goes once more. */
const lastCutShare = 0.3;

export async function simulate({
  seed,
  print,
  isHasty = false,
}: SimulationOptions): Promise<SimulationOutcome> {
  const time = new SimulatedTime();
  const trace = new Trace(() => time.nowMs, print);
  const random = seededRandom(seed);
  const promises = new Promises(trace);
  const network = new SimulatedNetwork(time, seededRandom(random.u32()));
  const settings = chooseSettings(random);
  const world: World = { time, network, trace, promises, random, settings, isHasty };
  trace.add("seed", `${seed} ${JSON.stringify(settings)}`);
  const onRejection = (error: unknown) => {
    const text = error instanceof Error ? error.stack : String(error);
    promises.violate("broken", `nobody takes an error: ${text}`);
  };
  process.on("unhandledRejection", onRejection);
  const directory = await DirectoryHost.make(world);
  try {
    const hosts: Hosts = {
      directory,
      stores: names("store", settings.storeCount).map((name) => new StoreHost(world, name)),
      gateways: names("gateway", settings.gatewayCount).map((name) => new GatewayHost(world, name)),
    };
    await live(world, hosts, seededRandom(random.u32()));
  } finally {
    directory.close();
    process.off("unhandledRejection", onRejection);
  }
  const words = promises.violations[0]?.words ?? [];
  return {
    violations: promises.violations,
    digest: trace.digest(),
    excerpt: trace.excerpt([...words, "faults", "crashes", "starts", "stops"], excerptMax),
    counts: promises.counts,
    simulatedMs: time.nowMs,
  };
}

async function live(
  world: World,
  hosts: Hosts,
  random: ReturnType<typeof seededRandom>,
): Promise<void> {
  const { time, settings, promises } = world;
  const hasFailed = () => promises.violations.length > 0;
  for (const host of [hosts.directory, ...hosts.stores, ...hosts.gateways]) host.start();
  const faults = new Faults(world, hosts, random);
  await time.runUntil(calmMs, hasFailed);
  faults.start();
  await time.runUntil(calmMs + settings.faultsMs, hasFailed);
  if (hasFailed()) return;

  for (const gateway of hosts.gateways) gateway.isOpen = false;
  faults.heal();
  const areIdle = () => hosts.gateways.every(({ runningCount }) => runningCount === 0);
  await time.runUntil(time.nowMs + clientsMs, () => hasFailed() || areIdle());
  const atRest = new AtRest(world, hosts);
  await atRest.check();
  if (hasFailed() || random.fraction() >= lastCutShare) return;

  world.trace.add("faults", "the power goes everywhere");
  hosts.directory.crash();
  for (const store of hosts.stores) store.crash("all");
  faults.heal();
  await atRest.check();
}

function names(kind: string, count: number): string[] {
  return Array.from({ length: count }, (_, at) => `${kind}${at + 1}`);
}
