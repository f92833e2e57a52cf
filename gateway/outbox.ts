/**
 * Deletes the needles of what was deleted or replaced by name, some time after: the catalog keeps the
 * list, and a row leaves it only when the store has said that the needle is gone.
 */

import { messageOf } from "../base/failure.ts";
import type { Log } from "../base/log.ts";
import type { Catalog } from "../catalog/catalog.ts";
import type { Blobs } from "./blobs.ts";

const intervalMs = 1_000;
const batchSize = 1_000;

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
    while (!this.#isStopping) {
      const due = catalog.dueDeletions(batchSize);
      if (due.length === 0) return;
      try {
        const outcomes = await blobs.delete(due.map(({ fid }) => fid));
        const gone = due.filter(({ fid }) => outcomes[fid] !== "unknown");
        for (const { fid } of gone) {
          if (outcomes[fid] === "corrupt") log.error({ fid }, "a needle to delete can't be read");
          onDeleted(fid);
        }
        if (gone.length === 0) return;
        await catalog.finishDeletions(gone.map(({ id }) => id));
      } catch (error) {
        log.warn({ reason: messageOf(error) }, "needles can't be deleted now");
        return;
      }
    }
  }
}
