/**
 * Group commit: many changes, one transaction, one sync.
 *
 * Invariants:
 * - Every change has its savepoint: one that fails undoes itself and nothing else.
 * - An answer is made only after the COMMIT: what it says is on the disk, or is known not to be.
 */

import type { DatabaseSync } from "node:sqlite";
import { Failure, type FailureKind, messageOf } from "../base/failure.ts";
import type { Change } from "./changes.ts";
import type { Turn } from "./query.ts";

export interface Group {
  /** The time at which all of it happens. */
  nowMs: number;
  changes: Change[];
}

/** A failure as it crosses between threads: an error loses its class on the way. */
export interface FailureData {
  kind: FailureKind;
  message: string;
  code: string | undefined;
  /** Of a mistake of ours: for the log, not for users. */
  stack?: string;
}

export type Answer = { value: unknown } | { failure: FailureData };

export interface GroupResult {
  /** One for each change, in their order. */
  answers: Answer[];
  /** Nothing is known about the database any more; only opening it anew can tell. */
  isFatal: boolean;
}

/** There is one writer of a file, so one slot is enough. */
const slot = 0;

type Transaction = Pick<DatabaseSync, "exec" | "isTransaction">;

export function runGroup(
  database: Transaction,
  make: (change: Change, turn: Turn) => unknown,
  { nowMs, changes }: Group,
): GroupResult {
  const failAll = (failure: FailureData, isFatal: boolean): GroupResult => ({
    answers: changes.map(() => ({ failure })),
    isFatal,
  });

  try {
    database.exec("BEGIN IMMEDIATE");
  } catch (error) {
    return failAll(describe(error), false);
  }

  const answers: Answer[] = [];
  for (const change of changes) {
    try {
      database.exec("SAVEPOINT change");
      const value = make(change, { nowMs, slot });
      database.exec("RELEASE change");
      answers.push({ value });
    } catch (error) {
      // A full disk or an I/O error can make SQLite roll back the whole transaction by itself.
      if (!database.isTransaction) return failAll(describe(error), false);
      database.exec("ROLLBACK TO change; RELEASE change");
      answers.push({ failure: describe(error) });
    }
  }

  try {
    database.exec("COMMIT");
  } catch (error) {
    if (database.isTransaction) database.exec("ROLLBACK");
    const isFull = sqliteFailureKind(error) === "full";
    const message = `Cannot tell whether the change was kept: the commit failed: ${messageOf(error)}`;
    // A full disk leaves the database sound. After any other failed sync, what is on the disk can be
    // known only by recovering it.
    return failAll({ kind: isFull ? "full" : "unavailable", message, code: undefined }, !isFull);
  }
  return { answers, isFatal: false };
}

export function describe(error: unknown): FailureData {
  if (error instanceof Failure) {
    return { kind: error.kind, message: error.message, code: error.code };
  }
  const kind = sqliteFailureKind(error);
  if (kind !== undefined) {
    return { kind, message: `Cannot change the catalog: ${messageOf(error)}`, code: undefined };
  }
  return {
    kind: "internal",
    message: "Cannot change the catalog: something failed inside",
    code: undefined,
    stack: error instanceof Error ? (error.stack ?? error.message) : String(error),
  };
}

// SQLite's primary result codes that are no mistake of ours.
const kindByResultCode: Record<number, FailureKind> = {
  5: "busy", // SQLITE_BUSY
  8: "unavailable", // SQLITE_READONLY
  10: "unavailable", // SQLITE_IOERR
  11: "corrupt", // SQLITE_CORRUPT
  13: "full", // SQLITE_FULL
  26: "corrupt", // SQLITE_NOTADB
};

function sqliteFailureKind(error: unknown): FailureKind | undefined {
  if (!(error instanceof Error) || !("errcode" in error)) return undefined;
  // Extended codes carry the primary one in their lowest byte.
  return kindByResultCode[Number(error.errcode) & 0xff];
}
