/**
 * The outbox: blobs to delete, and when.
 *
 * Invariant: a row's number is never given out twice, by no session of any gateway, so that whoever
 * finishes or postpones rows by their numbers means those that it saw.
 */

import assert from "node:assert";
import type { QueryWriter, Turn, Work } from "./query.ts";

/** The numbers that one session may give out. */
const numbersPerSession = 2 ** 32;

/** How many rows one query takes: an object has up to 640 chunks, and each query may be a way to a server. */
const batchSizes = [64, 8, 1] as const;

export class OutboxChanges {
  readonly #queries: Map<number, ReturnType<typeof writeQueries>>;
  readonly #numbersEnd: number;
  #nextNumber: number;

  constructor(writer: QueryWriter, session: number) {
    this.#queries = new Map(batchSizes.map((size) => [size, writeQueries(writer, size)]));
    this.#nextNumber = session * numbersPerSession;
    this.#numbersEnd = this.#nextNumber + numbersPerSession;
  }

  *schedule(fids: readonly string[], dueMs: number): Work<void> {
    for (const batch of batchesOf(fids)) {
      const input: Record<string, string | number> = { dueMs };
      for (const [at, fid] of batch.entries()) {
        input[`fid${at}`] = fid;
        input[`id${at}`] = this.#nextNumber++;
      }
      assert(this.#nextNumber <= this.#numbersEnd, "a session has numbers to spare");
      yield* this.#queriesFor(batch).insert.run(input);
    }
  }

  *finish({ ids }: { ids: readonly number[] }): Work<void> {
    for (const batch of batchesOf(inOrder(ids))) {
      yield* this.#queriesFor(batch).delete.run(named(batch));
    }
  }

  /** Due again after `delayMs`: what can't be deleted now must not stand before what can. */
  *postpone(
    { ids, delayMs }: { ids: readonly number[]; delayMs: number },
    { nowMs }: Turn,
  ): Work<void> {
    const dueMs = nowMs + delayMs;
    for (const batch of batchesOf(inOrder(ids))) {
      yield* this.#queriesFor(batch).postpone.run({ ...named(batch), dueMs });
    }
  }

  #queriesFor(batch: readonly unknown[]): ReturnType<typeof writeQueries> {
    const queries = this.#queries.get(batch.length);
    assert(queries !== undefined, "a batch has one of the sizes");
    return queries;
  }
}

/** Two gateways that work off the same rows take them in the same order, and so wait for each other once. */
function inOrder(ids: readonly number[]): number[] {
  return ids.toSorted((a, b) => a - b);
}

function batchesOf<Item>(items: readonly Item[]): Item[][] {
  const batches: Item[][] = [];
  let at = 0;
  for (const size of batchSizes) {
    for (; items.length - at >= size; at += size) batches.push(items.slice(at, at + size));
  }
  return batches;
}

function named(ids: readonly number[]): Record<string, number> {
  return Object.fromEntries(ids.map((id, at) => [`id${at}`, id]));
}

function writeQueries(writer: QueryWriter, size: number) {
  const places = Array.from({ length: size }, (_, at) => at);
  const idsOf = (v: Record<string, number>) => places.map((at) => v[`id${at}`] as number);
  return {
    insert: writer.write((kysely, v: Record<string, string | number>) =>
      kysely.insertInto("outbox").values(
        places.map((at) => ({
          id: v[`id${at}`] as number,
          fid: v[`fid${at}`] as string,
          due_ms: v.dueMs as number,
        })),
      ),
    ),
    delete: writer.write((kysely, v: Record<string, number>) =>
      kysely.deleteFrom("outbox").where("id", "in", idsOf(v)),
    ),
    postpone: writer.write((kysely, v: Record<string, number>) =>
      kysely
        .updateTable("outbox")
        .set({ due_ms: v.dueMs as number })
        .where("id", "in", idsOf(v)),
    ),
  };
}
