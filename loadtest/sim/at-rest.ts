/** What must hold once nothing goes wrong any more: all comes to rest, and everything promised is there. */

import { parseFid } from "../../base/fid.ts";
import type { VolumeSummary } from "../../directory/protocol.ts";
import type { Hosts } from "./faults.ts";
import type { StoreHost } from "./store-host.ts";
import type { World } from "./world.ts";

/** Within that time everything is as it ought to be, whatever has happened. */
const settleMs = 150_000;
const lookMs = 500;
const readMs = 30_000;

export class AtRest {
  readonly #world: World;
  readonly #hosts: Hosts;

  constructor(world: World, hosts: Hosts) {
    this.#world = world;
    this.#hosts = hosts;
  }

  async check(): Promise<void> {
    const { promises } = this.#world;
    if (!(await this.#settle()) || promises.violations.length > 0) return;
    this.#world.trace.add("JUDGE", "all is at rest");
    for (const volume of this.#volumes()) this.#compareCopies(volume);
    await this.#drive(this.#readAll());
    await this.#drive(this.#useGateways());
  }

  async #settle(): Promise<boolean> {
    const { time, promises } = this.#world;
    const untilMs = time.nowMs + settleMs;
    for (;;) {
      await time.runUntil(time.nowMs + lookMs);
      this.#undrain();
      if (promises.violations.length > 0) return false;
      const unrest = this.#unrest();
      if (unrest === undefined) return true;
      if (time.nowMs < untilMs) continue;
      promises.violate("stuck", `after ${settleMs} ms without faults ${unrest.text}`, unrest.words);
      return false;
    }
  }

  /** Whoever drained a store could not always take it back. */
  #undrain(): void {
    const { directory } = this.#hosts.directory;
    for (const { address, isDraining } of directory?.status().stores ?? []) {
      if (isDraining) directory?.drain(address, { undo: true }).catch(() => undefined);
    }
  }

  /** Why this is no rest yet. */
  #unrest(): { text: string; words: string[] } | undefined {
    const { directory, stores, gateways } = this.#hosts;
    for (const { name, store, startFailure } of stores) {
      if (store === undefined) return { text: `${name} is down: ${startFailure}`, words: [name] };
      const [first] = store.unreadable;
      if (first !== undefined) {
        return { text: `${name} can't open volume ${first}`, words: [`volume ${first}`] };
      }
    }
    const status = directory.directory?.status();
    if (status === undefined) return { text: "there is no directory", words: ["directory"] };
    const away = status.stores.find(({ state, isDraining }) => state !== "live" || isDraining);
    if (away !== undefined || status.stores.length < stores.length) {
      return { text: `not every store is live: ${away?.address}`, words: [`${away?.store}`] };
    }
    for (const volume of status.volumes) {
      const text = this.#unrestOf(volume);
      if (text === undefined) continue;
      const id = volume.volume;
      const words = [`volume ${id}`, `volume":${id}`];
      return { text: `volume ${id} is not at rest: ${text}: ${JSON.stringify(volume)}`, words };
    }
    const owed = this.#world.promises.known.find(({ deletion }) => deletion === "asked");
    if (owed !== undefined) return { text: `${owed.fid} is not deleted`, words: [owed.fid] };
    const busy = gateways.find(({ runningCount }) => runningCount > 0);
    return busy && { text: `${busy.name} has not ended a call`, words: [busy.name] };
  }

  #unrestOf(summary: VolumeSummary): string | undefined {
    const { volume, state, epoch, replicas, missingCount } = summary;
    const reports = replicas.map(({ store }) => {
      return this.#hostOf(store)?.store?.volume(volume)?.report();
    });
    if (state === "open") {
      const isBegun = reports.every((report) => report?.epoch === epoch && report.isServing);
      return isBegun && reports[0]?.isWritable === true ? undefined : "its epoch has not begun";
    }
    if (state !== "sealed") return `it is ${state}`;
    if (missingCount > 0) return "it is short of copies";
    const odd = replicas.find(({ role, condition }) => role !== "member" || condition !== "whole");
    if (odd !== undefined) return `its copy at ${odd.store} is ${odd.role}, ${odd.condition}`;
    return new Set(reports.map((report) => report?.deletesDigest)).size > 1
      ? "its copies differ in what is deleted"
      : undefined;
  }

  #volumes(): VolumeSummary[] {
    return this.#hosts.directory.directory?.status().volumes ?? [];
  }

  #hostOf(store: string): StoreHost | undefined {
    return this.#hosts.stores.find((host) => host.store?.id === store);
  }

  /** Copies of a volume are the same to the last byte. */
  #compareCopies({ volume, state, generation, replicas, lengthBytes }: VolumeSummary): void {
    const { promises } = this.#world;
    const words = [`volume ${volume}`, `volume":${volume}`];
    const copies = replicas.map(({ store }) => {
      const host = this.#hostOf(store);
      return {
        name: host?.name,
        report: host?.store?.volume(volume)?.report(),
        bytes: host?.fileOf(volume, generation)?.subarray(0, lengthBytes),
      };
    });
    const [first] = copies;
    for (const { name, report, bytes } of copies) {
      const isEqual = bytes !== undefined && first?.bytes?.equals(bytes) === true;
      if (!isEqual || report?.lengthBytes !== first?.report?.lengthBytes) {
        const text = `volume ${volume}, ${state}: ${name} and ${first?.name} differ`;
        promises.violate("diverged", text, words);
      } else if (report?.isServing !== true) {
        promises.violate("stuck", `volume ${volume}, ${state}: ${name} does not serve`, words);
      }
    }
  }

  /** Every blob is read at every copy of its volume, and so is every one that was deleted. */
  async #readAll(): Promise<void> {
    const { promises } = this.#world;
    const byId = new Map(this.#volumes().map((each) => [each.volume, each]));
    for (const blob of promises.blobs.values()) {
      const fid = parseFid(blob.fid);
      const summary = byId.get(blob.volume);
      const words = [blob.fid, `volume ${blob.volume}`, `volume":${blob.volume}`];
      if (fid === undefined || summary === undefined) {
        promises.violate("lost", `${blob.fid}: its volume is not on record`, words);
        continue;
      }
      for (const { store } of summary.replicas) {
        const host = this.#hostOf(store);
        const volume = host?.store?.volume(fid.volume);
        try {
          const needle = await volume?.find(fid.ordinal, fid.cookie);
          const found = needle && Buffer.from(await needle.content());
          needle?.close();
          promises.readAt(host?.name ?? store, blob, blob.deletion, found);
        } catch (error) {
          const text = error instanceof Error ? error.message : String(error);
          promises.violate("lost", `${blob.fid} can't be read at ${host?.name}: ${text}`, words);
        }
      }
    }
  }

  async #useGateways(): Promise<void> {
    const { promises } = this.#world;
    for (const gateway of this.#hosts.gateways) {
      if ((await gateway.put()) === undefined) {
        promises.violate("stuck", `${gateway.name} can't put`, [gateway.name]);
      }
      for (const blob of promises.known.slice(-20)) {
        if (blob.deletion !== "none" || (await gateway.read(blob))) continue;
        promises.violate("stuck", `${gateway.name} can't read ${blob.fid}`, [blob.fid]);
      }
    }
  }

  /** Lets time go on until it is done. */
  async #drive(work: Promise<void>): Promise<void> {
    const { time, promises } = this.#world;
    let isDone = false;
    const done = work.finally(() => {
      isDone = true;
    });
    const hasEnded = await time.runUntil(time.nowMs + readMs, () => isDone);
    if (hasEnded) await done;
    else promises.violate("stuck", `reading takes more than ${readMs} ms`);
  }
}
