/**
 * The operator of a crash run: seals, compacts and verifies volumes while the load runs and processes die, and
 * knows what was under way.
 *
 * Invariant: a volume that was once seen is never missed again. Nothing in a run has a TTL, so none is dropped.
 */

import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../base/failure.ts";
import { Caller } from "../base/http-call.ts";
import type { Random } from "../base/random.ts";
import { DirectoryClient, type VolumeStatus } from "../directory/client.ts";
import type { Cluster } from "./cluster.ts";
import type { CrashLog } from "./crash-log.ts";
import type { Violation } from "./crash-verify.ts";

const kinds = ["seal", "compact", "verify"] as const;
export type OrderKind = (typeof kinds)[number];

/** What a kill met. */
export interface UnderWay {
  /** Volumes that are being written as their next generation. */
  compactions: number;
  /** Of open and of sealed volumes. */
  checkpoints: number;
  /** Ordered, and not known to be done. */
  seals: number;
}

export interface OperatorCount {
  /** Orders by their kind, and how they ended. */
  given: Record<OrderKind, number>;
  done: Record<OrderKind, number>;
  failed: Record<OrderKind, number>;
  /** Nobody knows any more: the directory that had it in memory is gone. */
  forgotten: number;
}

export interface OperatorOptions {
  cluster: Cluster;
  log: CrashLog;
  random: Random;
}

/** Orders that nobody has heard the end of, at the most. */
const pendingMax = 4;
const pauseMs = { min: 10, max: 120 };
const pollMs = 40;
/** Slow ones as well: a compaction that takes a second is more likely to be hit. */
const rates = [0, 8_000_000, 40_000_000];
const endLimitMs = 60_000;

export class CrashOperator {
  readonly #options: OperatorOptions;
  readonly #pending = new Map<number, { kind: OrderKind; volume: number }>();
  readonly #seen = new Set<number>();
  readonly #failures = new Map<string, number>();
  #isOn = false;
  readonly count: OperatorCount = {
    given: { seal: 0, compact: 0, verify: 0 },
    done: { seal: 0, compact: 0, verify: 0 },
    failed: { seal: 0, compact: 0, verify: 0 },
    forgotten: 0,
  };

  constructor(options: OperatorOptions) {
    this.#options = options;
  }

  /** Why orders failed, and how often. */
  get failures(): ReadonlyMap<string, number> {
    return this.#failures;
  }

  /** Gives orders until `stop`. Calls that fail are given up: somebody was killed. */
  async run(): Promise<void> {
    this.#isOn = true;
    const { random } = this.#options;
    await this.#withClient(async (client) => {
      while (this.#isOn) {
        try {
          if (this.#pending.size < pendingMax) await this.#giveOrder(client);
          await this.#followOrders(client);
        } catch (error) {
          if (!(error instanceof Failure)) throw error;
        }
        await sleep(pauseMs.min + random.fraction() * (pauseMs.max - pauseMs.min));
      }
    });
  }

  stop(): void {
    this.#isOn = false;
  }

  /** What the files say is being done: to be asked right after a kill. */
  async underWay(): Promise<UnderWay> {
    const folder = path.join(this.#options.cluster.folder, "store");
    const names = await readdir(folder).catch(() => []);
    const seals = [...this.#pending.values()].filter(({ kind }) => kind === "seal").length;
    let compactions = 0;
    for (const name of names) {
      const [, volume, generation] = /^([0-9]+)\.g([0-9]+)\.volume$/.exec(name) ?? [];
      if (volume === undefined || generation === "0") continue;
      const described = await readFile(path.join(folder, `${volume}.json`), "utf8").catch(() => "");
      const current = /"generation":([0-9]+)/.exec(described)?.[1];
      if (current !== undefined && Number(generation) > Number(current)) compactions += 1;
    }
    const checkpoints = names.filter((name) => name.endsWith(".index.new")).length;
    return { compactions, checkpoints, seals };
  }

  /** Waits until a compaction is writing, for so long at the most. */
  async untilCompacting(limitMs: number): Promise<void> {
    const giveUpAtMs = performance.now() + limitMs;
    while (performance.now() < giveUpAtMs && (await this.underWay()).compactions === 0) {
      await sleep(5);
    }
  }

  /** Compacts everything that has anything dead in it, so that all of it goes through one more generation. */
  async compactAll(): Promise<void> {
    await this.#withClient(async (client) => {
      await this.#untilEnded(client);
      const { orders, steps } = await client.compactAll({ garbageRatioMin: 0, purge: true });
      for (const [at, order] of orders.entries()) {
        await this.#note("compact", steps[at]?.volume ?? 0, order);
      }
      await this.#untilEnded(client);
    });
  }

  /** Has every volume verified to its last byte; returns how many those were, and what is wrong. */
  async verifyAll(): Promise<{ volumes: number; violations: Violation[] }> {
    return await this.#withClient(async (client) => {
      await this.#untilEnded(client);
      const sinceMs = Date.now();
      for (const { volume } of await this.#volumes(client)) {
        for (const order of (await client.verifyVolume(volume)).orders) {
          await this.#note("verify", volume, order);
        }
      }
      await this.#untilEnded(client);
      const volumes = await this.#untilReported(client, ({ scrubbedMs }) => scrubbedMs >= sinceMs);
      return { volumes: volumes.length, violations: this.#judge(volumes, sinceMs) };
    });
  }

  #judge(volumes: readonly VolumeStatus[], sinceMs: number): Violation[] {
    const there = new Map(volumes.map((status) => [status.volume, status]));
    return [...this.#seen].flatMap((volume): Violation[] => {
      const key = `volume ${volume}`;
      const status = there.get(volume);
      if (status === undefined) return [{ key, kind: "lost", text: "no store has it any more" }];
      const { damagedBytes, scrubbedMs } = status;
      if (damagedBytes > 0) return [{ key, kind: "torn", text: `${damagedBytes} bytes damaged` }];
      if (scrubbedMs >= sinceMs) return [];
      return [{ key, kind: "unreadable", text: "it could not be verified" }];
    });
  }

  async #giveOrder(client: DirectoryClient): Promise<void> {
    const { random } = this.#options;
    const volumes = await this.#volumes(client);
    const choice = random.fraction();
    const rateBytes = rates[random.u32() % rates.length] ?? 0;
    if (choice < 0.2) {
      const volume = any(volumes, random, ({ state }) => state === "open");
      if (volume !== undefined) await this.#noteAll("seal", volume, client.sealVolume(volume));
    } else if (choice < 0.85) {
      // Mostly where something is dead, at times one that is open: it is sealed first.
      const isWanted =
        random.fraction() < 0.9
          ? ({ state, deadBytes }: VolumeStatus) => state === "sealed" && deadBytes > 0
          : () => true;
      const volume = any(volumes, random, isWanted);
      const terms = { rateBytes, purge: random.fraction() < 0.5 };
      if (volume !== undefined) {
        await this.#noteAll("compact", volume, client.compactVolume(volume, terms));
      }
    } else {
      const volume = any(volumes, random, () => true);
      if (volume !== undefined) {
        await this.#noteAll("verify", volume, client.verifyVolume(volume, { rateBytes }));
      }
    }
  }

  async #noteAll(
    kind: OrderKind,
    volume: number,
    answer: Promise<{ orders: number[] }>,
  ): Promise<void> {
    for (const order of (await answer).orders) await this.#note(kind, volume, order);
  }

  async #note(kind: OrderKind, volume: number, order: number): Promise<void> {
    if (this.#pending.has(order)) return;
    this.#pending.set(order, { kind, volume });
    this.count.given[kind] += 1;
    await this.#options.log.append({ type: "order", order, kind, volume, state: "given" });
  }

  async #followOrders(client: DirectoryClient): Promise<void> {
    for (const [order, { kind, volume }] of this.#pending) {
      let state: "pending" | "done" | "failed" | "forgotten";
      try {
        const status = await client.order(order);
        ({ state } = status);
        if (state === "failed") this.#countFailure(`${kind}: ${status.reason}`);
      } catch (error) {
        if (!(error instanceof Failure) || error.kind !== "not-found") throw error;
        state = "forgotten";
      }
      if (state === "pending") continue;
      this.#pending.delete(order);
      if (state === "forgotten") this.count.forgotten += 1;
      else this.count[state][kind] += 1;
      await this.#options.log.append({ type: "order", order, kind, volume, state });
    }
  }

  #countFailure(text: string): void {
    const alike = text.replaceAll(/[0-9]+/g, "N");
    this.#failures.set(alike, (this.#failures.get(alike) ?? 0) + 1);
  }

  async #untilEnded(client: DirectoryClient): Promise<void> {
    const giveUpAtMs = performance.now() + endLimitMs;
    while (this.#pending.size > 0) {
      if (performance.now() > giveUpAtMs) {
        const [[order, { kind, volume }] = [0, { kind: "none", volume: 0 }]] = this.#pending;
        throw new Failure("timeout", `Cannot wait for order ${order}: ${kind} of volume ${volume}`);
      }
      await this.#followOrders(client);
      await sleep(pollMs);
    }
  }

  /** The volumes once all that are reported are as wanted, or nothing changes that any more. */
  async #untilReported(
    client: DirectoryClient,
    isWanted: (status: VolumeStatus) => boolean,
  ): Promise<VolumeStatus[]> {
    const giveUpAtMs = performance.now() + 5_000;
    for (;;) {
      const volumes = await this.#volumes(client);
      if (volumes.every(isWanted) || performance.now() > giveUpAtMs) return volumes;
      await sleep(pollMs);
    }
  }

  async #volumes(client: DirectoryClient): Promise<VolumeStatus[]> {
    const { stores } = await client.status();
    const volumes = stores.flatMap((store) => store.volumes);
    for (const { volume } of volumes) this.#seen.add(volume);
    return volumes;
  }

  /** Directories move when all is started anew, so each use asks where it is now. */
  async #withClient<Result>(use: (client: DirectoryClient) => Promise<Result>): Promise<Result> {
    const { cluster } = this.#options;
    const caller = new Caller(cluster.secret);
    try {
      return await use(new DirectoryClient(caller, cluster.place("directory").address));
    } finally {
      await caller.close();
    }
  }
}

function any(
  volumes: readonly VolumeStatus[],
  random: Random,
  isWanted: (status: VolumeStatus) => boolean,
): number | undefined {
  const wanted = volumes.filter(isWanted);
  return wanted[random.u32() % Math.max(wanted.length, 1)]?.volume;
}
