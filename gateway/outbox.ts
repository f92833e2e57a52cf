/**
 * Deletes the needles of what was deleted or replaced by name, some time after: the catalog keeps the
 * list, and a row leaves it only when the store has said that the needle is gone. Where several gateways
 * share a catalog, several may work off the same rows: a needle that is gone is gone for all of them.
 */

import { messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Catalog } from "../catalog/catalog.ts";
import type { Blobs } from "./blobs.ts";

const intervalMs = 1_000;
const batchSize = 1_000;
const postponeMs = 60_000;

export interface OutboxOptions {
  catalog: Catalog;
  blobs: Blobs;
  log: Log;
  onDeleted: (fid: string) => void;
}

export class Outbox {
  readonly #options: OutboxOptions;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #isStopping = false;

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setInterval(() => {
      this.#running ??= this.#run().finally(() => {
        this.#running = undefined;
      });
    }, intervalMs);
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    clearInterval(this.#timer);
    await this.#running;
  }

  async #run(): Promise<void> {
    const { catalog, blobs, log, onDeleted } = this.#options;
    try {
      while (!this.#isStopping) {
        const due = await catalog.dueDeletions(batchSize);
        if (due.length === 0) return;
        const outcomes = await blobs.delete(due.map(({ fid }) => fid));
        const isGone = ({ fid }: { fid: string }) =>
          outcomes[fid] === "deleted" || outcomes[fid] === "absent";
        const gone = due.filter(isGone);
        for (const { fid } of gone) onDeleted(fid);
        if (gone.length > 0) await catalog.finishDeletions(gone.map(({ id }) => id));
        // What a store that is away, or a needle that can't be read, keeps from being deleted waits, so
        // that what is due after it does not.
        const left = due.filter((each) => !isGone(each));
        if (left.length > 0) {
          log.warn({ count: left.length, first: left[0]?.fid }, "needles can't be deleted now");
          await catalog.postponeDeletions(
            left.map(({ id }) => id),
            postponeMs,
          );
        }
      }
    } catch (error) {
      log.warn({ reason: messageOf(error) }, "the outbox can't be worked off now");
    }
  }
}
