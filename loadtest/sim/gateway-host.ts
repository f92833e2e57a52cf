/**
 * A gateway's machine, and the clients that use it: they put, read and delete blobs, and note what they are told.
 */

import { type Random, seededRandom } from "../../base/random.ts";
import { pause } from "../../base/runtime.ts";
import { ProcessTime } from "../../base/simulated-time.ts";
import { VolumeDirectory } from "../../directory/volume-directory.ts";
import { Blobs } from "../../gateway/blobs.ts";
import { SimulatedDirectoryClient } from "./directory-host.ts";
import type { PromisedBlob } from "./promises.ts";
import { SimulatedStoreClient } from "./store-service.ts";
import type { World } from "./world.ts";

const epochMs = 1_790_000_000_000;
const requestId = "simulated";
const metadata = { bucket: "b", key: "k", version: "v", chunk: 0, type: "image/jpeg", sha256: "" };
const owner = { catalog: "0123456789abcdef", session: 1 };
/** Between two operations of a client. */
const idleMs = 250;
const outboxMs = 700;

interface Life {
  time: ProcessTime;
  blobs: Blobs;
}

export class GatewayHost {
  readonly name: string;
  /** Whether clients begin anything new. */
  isOpen = true;
  /** Operations of clients that have not ended. */
  runningCount = 0;
  readonly #world: World;
  readonly #random: Random;
  #life: Life | undefined;

  constructor(world: World, name: string) {
    this.#world = world;
    this.name = name;
    this.#random = seededRandom(world.random.u32());
  }

  start(): void {
    if (this.#life !== undefined) return;
    const { network, trace, settings } = this.#world;
    const time = new ProcessTime(this.#world.time, epochMs);
    const process = { host: this.name, time };
    const directory = new VolumeDirectory({
      source: new SimulatedDirectoryClient({ network, process }, { onReply: () => undefined }),
      ...{ log: trace.logOf(this.name), clock: time, runtime: time },
    });
    for (const placement of settings.placements) directory.want(placement);
    directory.start();
    const blobs = new Blobs({
      ...{ directory, owner, clock: time, runtime: time },
      stores: new SimulatedStoreClient({ network, process }),
      random: seededRandom(this.#random.u32()),
    });
    this.#life = { time, blobs };
    this.runningCount = 0;
    trace.add(this.name, "starts");
    for (let client = 0; client < settings.clientCount; client++) void this.#behave(this.#life);
    void this.#emptyOutbox(this.#life);
  }

  crash(): void {
    if (this.#life === undefined) return;
    this.#world.trace.add(this.name, "crashes");
    this.#life.time.end();
    this.#life = undefined;
    this.runningCount = 0;
  }

  heal(): void {
    this.start();
  }

  /** A blob that a client puts; its fid, if it was stored. */
  async put(): Promise<string | undefined> {
    const random = this.#random;
    const { placements } = this.#world.settings;
    const length = random.fraction() < 0.05 ? random.u32() % 30_000 : random.u32() % 4_000;
    const data = random.bytes(Math.max(length, 4));
    const placement = placements[random.u32() % placements.length] ?? "";
    return await this.#operate("a put", [], async ({ blobs }) => {
      const { promises } = this.#world;
      promises.counts.refusedPuts += 1;
      const { fid } = await blobs.put(data, metadata, { durability: "disk", placement, requestId });
      promises.counts.refusedPuts -= 1;
      this.#tell(`put ${fid}`);
      promises.acknowledged(fid, data);
      return fid;
    });
  }

  async read(blob: PromisedBlob): Promise<boolean> {
    const { promises } = this.#world;
    const { fid, data, volume } = blob;
    const before = blob.deletion;
    const words = [fid, `volume ${volume}`];
    const isRead = await this.#operate(`a read of ${fid}`, words, async ({ blobs }) => {
      const found = await blobs.read({ fid, length: data.length }, requestId).catch((error) => {
        // What nobody has deleted is never said not to be there.
        if (error.kind === "not-found" && blob.deletion === "none") {
          promises.violate("lost", `${fid} is nowhere, by ${this.name}`, words);
        }
        throw error;
      });
      if (before === "done") promises.violate("ghost", `${fid} is read after its delete`, words);
      if (!found.equals(data)) promises.violate("wrong", `${fid} is read with other bytes`, words);
      promises.counts.reads += 1;
      return true;
    });
    return isRead === true;
  }

  async delete(blobsToDelete: readonly PromisedBlob[]): Promise<void> {
    for (const blob of blobsToDelete) {
      if (blob.deletion === "none") blob.deletion = "asked";
    }
    const fids = blobsToDelete.map(({ fid }) => fid);
    await this.#operate("a delete", fids, async ({ blobs }) => {
      const outcomes = await blobs.delete(fids);
      for (const blob of blobsToDelete) {
        const outcome = outcomes[blob.fid];
        if (outcome === "corrupt") {
          this.#world.promises.violate("broken", `${blob.fid} is damaged`, [blob.fid]);
        }
        if (outcome !== "deleted" && outcome !== "absent") continue;
        blob.deletion = "done";
        this.#world.promises.counts.deletes += 1;
        this.#tell(`deleted ${blob.fid}: ${outcome}`);
      }
    });
  }

  /** What clients do until the gateway's end. */
  async #behave({ time }: Life): Promise<void> {
    const random = this.#random;
    const { known } = this.#world.promises;
    for (;;) {
      await pause(time, random.fraction() * idleMs);
      if (!this.isOpen) continue;
      const dice = random.fraction();
      // New ones more often than old ones: that is where things happen.
      const at = Math.floor(known.length * Math.sqrt(random.fraction()));
      const blob = known[at];
      if (dice < 0.5 || blob === undefined) await this.put();
      else if (dice < 0.9) await this.read(blob);
      else if (blob.deletion === "none") await this.delete([blob]);
    }
  }

  /** What was not deleted everywhere is tried again, until it is. */
  async #emptyOutbox({ time }: Life): Promise<void> {
    for (;;) {
      await pause(time, outboxMs);
      const left = this.#world.promises.known.filter(({ deletion }) => deletion === "asked");
      for (const blob of left) await this.delete([blob]);
    }
  }

  async #operate<Result>(
    what: string,
    words: string[],
    act: (life: Life) => Promise<Result>,
  ): Promise<Result | undefined> {
    const life = this.#life;
    if (life === undefined) return undefined;
    this.runningCount += 1;
    try {
      return await act(life);
    } catch (error) {
      this.#tell(`${what} failed: ${error instanceof Error ? error.message : error}`);
      this.#world.promises.failed(`${this.name}: ${what}`, error, words);
      return undefined;
    } finally {
      if (this.#life === life) this.runningCount -= 1;
    }
  }

  #tell(what: string): void {
    this.#world.trace.add(this.name, what);
  }
}
