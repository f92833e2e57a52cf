/**
 * What goes wrong in a chaos run: each fault strikes, lasts, and is over.
 *
 * Invariant: `end` leaves everything as it would be without the fault, except for what the system has to mend by
 * itself.
 */

import { rmSync, statfsSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Random } from "../base/random.ts";
import type { ManyProcess } from "./many.ts";
import type { NetworkHosts } from "./network-hosts.ts";

export interface ChaosScene {
  hosts: NetworkHosts | undefined;
  directories: readonly ManyProcess[];
  stores: readonly ManyProcess[];
  gateways: readonly ManyProcess[];
  /** Folders of stores on small disks of their own, by the store's name. */
  smallDisks: ReadonlyMap<string, string>;
  /** Files that tell processes a wrong time, by the process's name. */
  clockFiles: ReadonlyMap<string, string>;
  database: { failOver(): Promise<void>; freeze(ms: number): Promise<void> } | undefined;
  random: Random;
}

export interface Fault {
  /** What the errors meanwhile are counted under. */
  kind: string;
  text: string;
  /** How long it lasts before `end`. */
  lastsMs: number;
  begin(): Promise<void>;
  end(): Promise<void>;
}

type MakeFault = (scene: ChaosScene) => Fault | undefined;

const kinds: Record<string, MakeFault> = {
  "kill a store": ({ stores, random }) => killed("a store is down", pick(stores, random), random),
  "kill a gateway": ({ gateways, random }) =>
    killed("a gateway is down", pick(gateways, random), random),
  "kill a directory": ({ directories, random }) =>
    killed("a directory is down", pick(directories, random), random),
  "restart a store": ({ stores, random }) => restarted(pick(stores, random)),
  "freeze a store": ({ stores, random }) => frozen(pick(stores, random), random),
  "freeze a directory": ({ directories, random }) => frozen(pick(directories, random), random),
  "cut one way": (scene) => cut(scene, "one way"),
  "cut two ways": (scene) => cut(scene, "two ways"),
  "cut off a host": (scene) => cut(scene, "all"),
  "fill a disk": ({ smallDisks, stores, random }) => {
    const store = pick(
      stores.filter(({ name }) => smallDisks.has(name)),
      random,
    );
    const folder = smallDisks.get(store?.name ?? "");
    if (store === undefined || folder === undefined) return undefined;
    const ballast = path.join(folder, "ballast");
    return {
      kind: "a disk is full",
      text: `the disk of ${store.name} is full`,
      lastsMs: between(random, 3_000, 9_000),
      async begin() {
        const { bavail, bsize } = statfsSync(folder);
        try {
          writeFileSync(ballast, Buffer.alloc(Math.max(bavail * bsize - 65_536, 0)));
        } catch {
          // Somebody else took the last of it: full is full.
        }
      },
      async end() {
        rmSync(ballast, { force: true });
      },
    };
  },
  "move a clock": ({ clockFiles, random }) => {
    const name = pick([...clockFiles.keys()], random);
    if (name === undefined) return undefined;
    const jump = pick(["+1h", "-1h", "+400d"], random) ?? "+1h";
    return {
      kind: "a clock is wrong",
      text: `the clock of ${name} jumps by ${jump}`,
      lastsMs: between(random, 3_000, 8_000),
      async begin() {
        writeFileSync(clockFiles.get(name) ?? "", `${jump}\n`);
      },
      async end() {
        writeFileSync(clockFiles.get(name) ?? "", "+0\n");
      },
    };
  },
  "fail over the database": ({ database }) =>
    database === undefined
      ? undefined
      : {
          kind: "the database fails over",
          text: "the primary of the database is killed, and its standby promoted",
          lastsMs: 0,
          begin: () => database.failOver(),
          end: async () => undefined,
        },
  "freeze the database": ({ database, random }) =>
    database === undefined
      ? undefined
      : {
          kind: "the database hangs",
          text: "the primary of the database hangs",
          lastsMs: 0,
          begin: () => database.freeze(between(random, 1_000, 5_000)),
          end: async () => undefined,
        },
};

export const faultNames: readonly string[] = Object.keys(kinds);

/** One of the named kinds; undefined where none can be had here. */
export function drawFault(scene: ChaosScene, names: readonly string[]): Fault | undefined {
  const order = [...names].sort(() => scene.random.fraction() - 0.5);
  for (const name of order) {
    const fault = kinds[name]?.(scene);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

function killed(kind: string, victim: ManyProcess | undefined, random: Random): Fault | undefined {
  if (victim === undefined) return undefined;
  return {
    kind,
    text: `${victim.name} is killed`,
    lastsMs: between(random, 0, 8_000),
    begin: () => victim.kill(),
    async end() {
      await victim.untilReady();
    },
  };
}

function restarted(victim: ManyProcess | undefined): Fault | undefined {
  if (victim === undefined) return undefined;
  return {
    kind: "a store restarts",
    text: `${victim.name} is restarted`,
    lastsMs: 0,
    begin: () => victim.stop(),
    async end() {
      await victim.untilReady();
    },
  };
}

function frozen(victim: ManyProcess | undefined, random: Random): Fault | undefined {
  if (victim === undefined) return undefined;
  return {
    kind: `a ${victim.options.role} is frozen`,
    text: `${victim.name} is frozen`,
    lastsMs: between(random, 500, 9_000),
    begin: async () => victim.freeze(),
    async end() {
      victim.resume();
      await sleep(500);
    },
  };
}

function cut(scene: ChaosScene, how: "one way" | "two ways" | "all"): Fault | undefined {
  const { hosts, directories, stores, gateways, random } = scene;
  if (hosts === undefined) return undefined;
  const names = [...directories, ...stores, ...gateways].map(({ name }) => name);
  const one = pick(names, random);
  const other = pick(
    names.filter((name) => name !== one),
    random,
  );
  if (one === undefined || other === undefined) return undefined;
  const others = how === "all" ? names.filter((name) => name !== one) : [other];
  const what = how === "all" ? "everybody" : other;
  return {
    kind: `the network is cut (${how})`,
    text: `${one} is cut off from ${what}${how === "one way" ? ", one way" : ""}`,
    lastsMs: between(random, 500, 9_000),
    async begin() {
      for (const each of others) {
        hosts.cut(one, each);
        if (how !== "one way") hosts.cut(each, one);
      }
    },
    async end() {
      hosts.heal();
    },
  };
}

function pick<Each>(list: readonly Each[], random: Random): Each | undefined {
  return list[random.u32() % Math.max(list.length, 1)];
}

function between(random: Random, min: number, max: number): number {
  return Math.round(min + random.fraction() * (max - min));
}
