/** Numbers that only grow: ids of volumes, and orders. */

import type { Transaction } from "kysely";
import { Failure } from "../base/failure.ts";
import type { DirectoryTables } from "./schema.ts";

type CounterName = "volume" | "order";

/** A number that was never given out before. */
export async function nextNumber(
  transaction: Transaction<DirectoryTables>,
  name: CounterName,
): Promise<number> {
  await transaction
    .updateTable("counters")
    .set((row) => ({ value: row("value", "+", 1) }))
    .where("name", "=", name)
    .execute();
  const row = await transaction
    .selectFrom("counters")
    .select("value")
    .where("name", "=", name)
    .executeTakeFirst();
  if (row === undefined) {
    throw new Failure(
      "corrupt",
      `Cannot number a ${name}: the directory's database has no counter`,
    );
  }
  return row.value;
}

/** Numbers up to `value` are never given out again. */
export async function raiseCounter(
  transaction: Transaction<DirectoryTables>,
  name: CounterName,
  value: number,
): Promise<void> {
  await transaction
    .updateTable("counters")
    .set({ value })
    .where("name", "=", name)
    .where("value", "<", value)
    .execute();
}
