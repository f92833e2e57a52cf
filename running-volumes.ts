/**
 * The volumes of a Hayloft that runs, for the command line: it asks the directory, which orders the stores,
 * and follows what they do.
 *
 * Invariant: ending this process ends the watching alone. What was ordered is carried out.
 */

import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { ClusterSecret } from "./base/cluster-secret.ts";
import { Failure, messageOf } from "./base/failure.ts";
import { Caller } from "./base/http-call.ts";
import { DirectoryClient, type OrderStatus, type VolumeStatus } from "./directory/client.ts";
import { Installation } from "./installation.ts";
import {
  type DamageFacts,
  type RecordFacts,
  StoreClient,
  type VolumeFacts,
} from "./store/client.ts";
import type {
  CompactionOutcome,
  CompactionPlan,
  CompactionTerms,
  ImportSource,
  Progress,
} from "./store/offline.ts";

/** A volume as the directory knows it. */
export interface ServedVolume extends VolumeStatus {
  /** The id of its store. */
  store: string;
  address: string;
}

const pollMs = { first: 50, last: 500 };
/** A directory that is started again is back within this time. */
const awayMsMax = 60_000;

export class RunningVolumes {
  readonly #caller: Caller;
  readonly #directory: DirectoryClient;
  readonly #stores: StoreClient;
  readonly #address: string;

  constructor(address: string, secret: ClusterSecret) {
    this.#address = address;
    this.#caller = new Caller(secret);
    this.#directory = new DirectoryClient(this.#caller, address);
    this.#stores = new StoreClient(this.#caller);
  }

  /** Those of the `hayloft up` that runs in a data folder. */
  static ofInstallation(data: string): RunningVolumes {
    const installation = new Installation(data);
    const { directory } = installation.readRun();
    if (directory === undefined) {
      throw new Failure("unavailable", `Cannot reach Hayloft: no directory runs in ${data}`);
    }
    return new RunningVolumes(directory.address, ClusterSecret.read(installation.tokenFile));
  }

  async close(): Promise<void> {
    this.#stores.close();
    await this.#caller.close();
  }

  async ids(): Promise<number[]> {
    return (await this.list()).map(({ volume }) => volume);
  }

  async list(): Promise<ServedVolume[]> {
    const { stores } = await this.#ask(() => this.#directory.status());
    return stores
      .flatMap(({ store, address, volumes }) =>
        volumes.map((volume) => ({ ...volume, store, address })),
      )
      .sort((left, right) => left.volume - right.volume);
  }

  async facts(id: number): Promise<VolumeFacts & { store: string }> {
    const { address, store } = await this.#find(id);
    return { ...(await this.#stores.facts(address, id)), store };
  }

  async *records(
    id: number,
    selection: { from: number; count: number | undefined; withCookies: boolean },
  ): AsyncGenerator<RecordFacts[]> {
    const { address } = await this.#find(id);
    yield* this.#stores.records(address, id, selection);
  }

  async export(id: number): Promise<Readable> {
    const { address } = await this.#find(id);
    return await this.#stores.export(address, id);
  }

  async verify(id: number, rateBytes: number, progress: Progress): Promise<DamageFacts[]> {
    const { orders } = await this.#ask(() => this.#directory.verifyVolume(id, { rateBytes }));
    await this.#follow(orders, progress);
    const { address } = await this.#find(id);
    return await this.#stores.findings(address, id, { rateBytes, progress });
  }

  async seal(id: number): Promise<boolean> {
    const { orders } = await this.#ask(() => this.#directory.sealVolume(id));
    await this.#follow(orders, () => undefined);
    return orders.length > 0;
  }

  async planCompaction(
    ids: readonly number[] | undefined,
    garbageRatioMin: number,
  ): Promise<CompactionPlan[]> {
    if (ids === undefined) {
      const request = { garbageRatioMin, dryRun: true };
      const { steps } = await this.#ask(() => this.#directory.compactAll(request));
      return steps.map(({ volume, copyBytes, freedBytes }) => {
        return { volume, state: "sealed", copyBytes, freedBytes };
      });
    }
    const volumes = await this.list();
    return ids.map((id) => {
      const { volume, state, lengthBytes, deadBytes } = findIn(volumes, id);
      return { volume, state, copyBytes: lengthBytes - deadBytes, freedBytes: deadBytes };
    });
  }

  async compact(
    id: number,
    { rateBytes, purge }: CompactionTerms,
    progress: Progress,
  ): Promise<CompactionOutcome> {
    const before = await this.#find(id);
    const { orders } = await this.#ask(() =>
      this.#directory.compactVolume(id, { rateBytes, purge }),
    );
    await this.#follow(orders, progress);
    const { generation, lengthBytes } = await this.#find(id);
    const freedBytes = before.lengthBytes - lengthBytes;
    return { volume: id, generation, copiedBytes: lengthBytes, freedBytes };
  }

  /** Returns how many blobs the volume has then, and their bytes as stored. */
  async import(
    source: ImportSource & { store?: string | undefined },
    progress: Progress,
  ): Promise<{ blobs: number; storedBytes: number }> {
    const { orders } = await this.#ask(() => this.#directory.importVolume(source));
    await this.#follow(orders, progress);
    const { needleCount, dataBytes } = await this.#find(source.volume);
    return { blobs: needleCount, storedBytes: dataBytes };
  }

  /** Fails if an import could not begin, as far as can be seen from here. */
  async requireImportable({ volume, dat }: ImportSource): Promise<void> {
    if (!(await this.list()).some((status) => status.volume === volume)) return;
    throw new Failure("conflict", `Cannot import ${dat} as volume ${volume}: that id is in use`);
  }

  async #find(id: number): Promise<ServedVolume> {
    return findIn(await this.list(), id);
  }

  /** Returns when all of the orders are carried out. */
  async #follow(orders: readonly number[], progress: Progress): Promise<void> {
    for (const number of orders) {
      let pauseMs = pollMs.first;
      for (;;) {
        const { state, reason, operation } = await this.#orderStatus(number);
        if (state === "done") break;
        if (state === "failed") {
          throw new Failure("unprocessable", reason ?? `Order ${number} could not be carried out`);
        }
        if (operation !== undefined) progress(operation.doneBytes, operation.totalBytes);
        await sleep(pauseMs);
        pauseMs = Math.min(pauseMs * 2, pollMs.last);
      }
    }
  }

  /** Where an order stands. The directory may be started again meanwhile. */
  async #orderStatus(number: number): Promise<OrderStatus> {
    const giveUpAtMs = performance.now() + awayMsMax;
    for (;;) {
      try {
        return await this.#directory.order(number);
      } catch (error) {
        const isAway =
          error instanceof Failure && (error.kind === "unavailable" || error.kind === "timeout");
        if (!isAway || performance.now() > giveUpAtMs) throw error;
        await sleep(pollMs.last);
      }
    }
  }

  /** A call whose failure to arrive says what to do. */
  async #ask<Answer>(call: () => Promise<Answer>): Promise<Answer> {
    try {
      return await call();
    } catch (error) {
      const isAway = error instanceof Failure && error.cause !== undefined;
      if (!isAway) throw error;
      throw new Failure(
        "unavailable",
        `Cannot reach the directory at ${this.#address}: ${messageOf(error.cause)}; start it, or use --folder for a store's folder that nothing runs on`,
        { cause: error },
      );
    }
  }
}

function findIn(volumes: readonly ServedVolume[], id: number): ServedVolume {
  const found = volumes.find(({ volume }) => volume === id);
  if (found === undefined) {
    throw new Failure("not-found", `Cannot find volume ${id}: no store has it`);
  }
  return found;
}
