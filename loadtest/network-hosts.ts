/**
 * Several hosts on one machine: a network namespace each, joined by a bridge, whose links can be cut one way or
 * both. Linux and root only.
 *
 * Invariants:
 * - Names carry this process's id, so two runs never meet; what was made is removed when the process ends.
 * - The run itself stands on the bridge as the first address: it can reach every host, whatever is cut
 *   between them.
 */

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { Failure } from "../base/failure.ts";

export class NetworkHosts {
  /** Address of this process on the bridge. */
  readonly ownAddress: string;
  readonly #tag: string;
  readonly #subnet: string;
  readonly #addresses = new Map<string, string>();
  readonly #cuts = new Set<string>();

  private constructor(tag: string, subnet: string) {
    this.#tag = tag;
    this.#subnet = subnet;
    this.ownAddress = `${subnet}.1`;
  }

  /** Why there can be none here, or undefined. */
  static obstacle(): string | undefined {
    if (process.platform !== "linux") return "network namespaces are Linux's";
    if (process.getuid?.() !== 0) return "only root may make network namespaces";
    const isThere = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].some((file) => existsSync(file));
    return isThere ? undefined : "iproute2 is not installed (no `ip`)";
  }

  static make(names: readonly string[]): NetworkHosts {
    const obstacle = NetworkHosts.obstacle();
    if (obstacle !== undefined) {
      throw new Failure("unsupported", `Cannot make hosts: ${obstacle}`);
    }
    // Out of the range that carriers keep for themselves: nobody's own network is likely to be there.
    const subnet = `100.${64 + (process.pid % 64)}.${(process.pid >> 6) % 256}`;
    const hosts = new NetworkHosts(`hl${process.pid}`, subnet);
    process.once("exit", () => hosts.destroySync());
    const bridge = hosts.#tag;
    ip("link", "add", bridge, "type", "bridge");
    ip("addr", "add", `${hosts.ownAddress}/24`, "dev", bridge);
    ip("link", "set", bridge, "up");
    for (const [at, name] of names.entries()) hosts.#add(name, at);
    return hosts;
  }

  addressOf(name: string): string {
    const address = this.#addresses.get(name);
    if (address === undefined) throw new Failure("internal", `Cannot find host ${name}`);
    return address;
  }

  /** What runs a program on the host: a program and the arguments before the program's own. */
  command(name: string): [string, ...string[]] {
    return ["ip", "netns", "exec", this.#namespace(name)];
  }

  /** From now on nothing that one host sends comes to the other. */
  cut(from: string, to: string): void {
    const key = `${from}>${to}`;
    if (this.#cuts.has(key)) return;
    this.#cuts.add(key);
    // To a card that nobody has: lost without a word, as on a broken link.
    this.#neighbour("replace", from, to, "lladdr", "02:00:00:00:00:00", "nud", "permanent");
  }

  heal(): void {
    for (const key of this.#cuts) {
      const [from = "", to = ""] = key.split(">");
      this.#neighbour("del", from, to);
    }
    this.#cuts.clear();
  }

  destroySync(): void {
    for (const [at, name] of [...this.#addresses.keys()].entries()) {
      tryIp("link", "del", `${this.#tag}o${at}`);
      tryIp("netns", "del", this.#namespace(name));
    }
    this.#addresses.clear();
    tryIp("link", "del", this.#tag);
  }

  #add(name: string, at: number): void {
    const namespace = this.#namespace(name);
    const address = `${this.#subnet}.${at + 2}`;
    const inside = `${this.#tag}i${at}`;
    const outside = `${this.#tag}o${at}`;
    ip("netns", "add", namespace);
    this.#addresses.set(name, address);
    ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", namespace);
    ip("link", "set", outside, "master", this.#tag, "up");
    ip("-n", namespace, "addr", "add", `${address}/24`, "dev", inside);
    ip("-n", namespace, "link", "set", inside, "up");
    ip("-n", namespace, "link", "set", "lo", "up");
  }

  #neighbour(change: "replace" | "del", from: string, to: string, ...rest: string[]): void {
    const device = `${this.#tag}i${[...this.#addresses.keys()].indexOf(from)}`;
    const address = this.addressOf(to);
    ip("-n", this.#namespace(from), "neigh", change, address, ...rest, "dev", device);
  }

  #namespace(name: string): string {
    return `${this.#tag}-${name}`;
  }
}

function ip(...args: string[]): void {
  const { status, stderr, error } = spawnSync("ip", args, { encoding: "utf8" });
  if (status === 0) return;
  const why = error?.message ?? stderr.trim();
  throw new Failure("unsupported", `Cannot run ip ${args.join(" ")}: ${why}`);
}

function tryIp(...args: string[]): void {
  spawnSync("ip", args, { stdio: "ignore" });
}
