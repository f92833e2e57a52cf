/** What goes wrong in a run, drawn from its seed, until all is healed. */

import type { Random } from "../../base/random.ts";
import type { DirectoryHost } from "./directory-host.ts";
import type { GatewayHost } from "./gateway-host.ts";
import type { StoreHost } from "./store-host.ts";
import type { World } from "./world.ts";

export interface Hosts {
  directory: DirectoryHost;
  stores: readonly StoreHost[];
  gateways: readonly GatewayHost[];
}

interface Kind {
  weight: number;
  begin: () => void;
}

const hourMs = 3_600_000;

export class Faults {
  readonly #world: World;
  readonly #hosts: Hosts;
  readonly #random: Random;
  readonly #kinds: readonly Kind[];
  /** Between two faults. */
  readonly #pauseMs: number;
  #isOver = false;

  constructor(world: World, hosts: Hosts, random: Random) {
    this.#world = world;
    this.#hosts = hosts;
    this.#random = random;
    this.#pauseMs = 300 + random.fraction() * 4_000;
    const kinds = [
      { weight: 6, begin: () => this.#crashStore() },
      { weight: 3, begin: () => this.#crashAtOperation() },
      { weight: 3, begin: () => this.#stopStore() },
      { weight: 2, begin: () => this.#crashDirectory() },
      { weight: 1, begin: () => this.#stopDirectory() },
      { weight: 1, begin: () => this.#doubtCommits() },
      { weight: 1, begin: () => this.#crashGateway() },
      { weight: 5, begin: () => this.#cut() },
      { weight: 2, begin: () => this.#lose() },
      { weight: 1, begin: () => this.#delay() },
      { weight: 1, begin: () => this.#setClock() },
      { weight: 1, begin: () => this.#failDisk() },
      { weight: 1, begin: () => this.#drain() },
    ];
    // No run has all of them: what some would hide, others show.
    this.#kinds = kinds.filter(({ weight }) => weight > 3 || random.fraction() < 0.5);
  }

  start(): void {
    this.#world.time.after(this.#random.fraction() * this.#pauseMs, () => {
      if (this.#isOver) return;
      this.#begin();
      this.start();
    });
  }

  /** Ends all that is wrong. */
  heal(): void {
    this.#isOver = true;
    const { directory, stores, gateways } = this.#hosts;
    this.#world.network.heal();
    this.#world.trace.add("faults", "heal");
    for (const host of [directory, ...stores, ...gateways]) host.heal();
  }

  #begin(): void {
    const total = this.#kinds.reduce((sum, { weight }) => sum + weight, 0);
    let left = this.#random.fraction() * total;
    for (const { weight, begin } of this.#kinds) {
      left -= weight;
      if (left >= 0) continue;
      begin();
      return;
    }
  }

  /** Mostly short, sometimes so long that others act on it. */
  #durationMs(): number {
    const random = this.#random;
    return random.fraction() < 0.6 ? random.fraction() * 1_500 : random.fraction() * 12_000;
  }

  #later(action: () => void): void {
    this.#world.time.after(this.#durationMs(), () => {
      if (!this.#isOver) action();
    });
  }

  #pick<Item>(items: readonly Item[]): Item {
    return items[this.#random.u32() % items.length] as Item;
  }

  #crashStore(): void {
    const random = this.#random;
    // Now and then the power of all of them goes at once.
    const victims = random.fraction() < 0.1 ? this.#hosts.stores : [this.#pick(this.#hosts.stores)];
    for (const victim of victims) {
      victim.crash(this.#pick(["all", "some", "none"]));
      this.#later(() => victim.start());
    }
  }

  #crashAtOperation(): void {
    const victim = this.#pick(this.#hosts.stores);
    const done = this.#pick(["none", "some", "all"] as const);
    victim.plan(1 + (this.#random.u32() % 60), { kind: "crash", done });
    this.#later(() => victim.start());
  }

  #stopStore(): void {
    const victim = this.#pick(this.#hosts.stores);
    victim.stop();
    this.#later(() => victim.goOn());
  }

  #crashDirectory(): void {
    const { directory } = this.#hosts;
    directory.crash();
    this.#world.time.after(this.#random.fraction() * 3_000, () => directory.start());
  }

  #stopDirectory(): void {
    const { directory } = this.#hosts;
    directory.stop();
    this.#later(() => directory.goOn());
  }

  #doubtCommits(): void {
    const { directory } = this.#hosts;
    directory.doubtShare = 0.2;
    this.#later(() => {
      directory.doubtShare = 0;
    });
  }

  #crashGateway(): void {
    const victim = this.#pick(this.#hosts.gateways);
    victim.crash();
    this.#later(() => victim.start());
  }

  #cut(): void {
    const { directory, stores, gateways } = this.#hosts;
    const names = [directory, ...stores, ...gateways].map(({ name }) => name);
    const { network, trace } = this.#world;
    const one = this.#pick(stores).name;
    // One from another, or from all.
    const others = this.#random.fraction() < 0.7 ? [this.#pick(names)] : names;
    const ways = this.#pick(["from", "to", "both"] as const);
    const pairs = others
      .filter((other) => other !== one)
      .flatMap((other) => [
        ...(ways === "to" ? [] : [[one, other] as const]),
        ...(ways === "from" ? [] : [[other, one] as const]),
      ]);
    trace.add("faults", `cut ${pairs.map((pair) => pair.join(">")).join(" ")}`);
    for (const [from, to] of pairs) network.cut(from, to);
    this.#later(() => {
      trace.add("faults", `mend ${pairs.map((pair) => pair.join(">")).join(" ")}`);
      for (const [from, to] of pairs) network.mend(from, to);
    });
  }

  #lose(): void {
    const { network, trace } = this.#world;
    network.lossShare = this.#random.fraction() ** 2 * 0.3;
    trace.add("faults", `loss ${network.lossShare.toFixed(3)}`);
    this.#later(() => {
      network.lossShare = 0;
    });
  }

  #delay(): void {
    const { network, trace } = this.#world;
    network.delayMs = this.#random.fraction() * 100;
    trace.add("faults", `delays up to ${Math.round(network.delayMs)} ms`);
    this.#later(() => {
      network.delayMs = 2;
    });
  }

  #setClock(): void {
    const { directory, stores } = this.#hosts;
    const jumps = [-30_000, 5_000, hourMs, -hourMs, 400 * 24 * hourMs];
    this.#pick([directory, ...stores]).setClock(this.#pick(jumps));
  }

  #failDisk(): void {
    const done = this.#pick(["none", "some", "all"] as const);
    const code = this.#pick(["EIO", "ENOSPC"] as const);
    const inOperations = 1 + (this.#random.u32() % 60);
    this.#pick(this.#hosts.stores).plan(inOperations, { kind: "error", code, done });
  }

  /** An operator has a store emptied, and changes their mind. */
  #drain(): void {
    const { directory, stores } = this.#hosts;
    const { trace } = this.#world;
    const { address, name } = this.#pick(stores);
    const order = (undo: boolean) => {
      trace.add("operator", `${undo ? "undrains" : "drains"} ${name}`);
      directory.directory?.drain(address, { undo }).catch((error: unknown) => {
        trace.add("operator", `could not: ${error instanceof Error ? error.message : error}`);
      });
    };
    order(false);
    this.#world.time.after(this.#durationMs(), () => order(true));
  }
}
