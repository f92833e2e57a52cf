/**
 * An engine as a process of its own: takes a task on standard input, works at it on the real disk, and tells
 * of it on standard output, a line of JSON each. It ends with whoever started it.
 */

import { flushCompileCache } from "node:module";
import { createInterface } from "node:readline";
import { systemClock } from "../../base/clock.ts";
import { messageOf } from "../../base/failure.ts";
import { diskFiles } from "../../base/files.ts";
import { EngineLoad, type EngineRecord, type EngineTask } from "./engine-load.ts";

/** Written on the spot: what was told before a kill is in the pipe. */
function tell(record: EngineRecord): void {
  process.stdout.write(`${JSON.stringify(record)}\n`);
}

// A store would end by this, with all its volumes.
process.on("uncaughtException", (error) => {
  tell({ type: "crashed", text: messageOf(error) });
});
// It ends by a kill: the code that it has compiled would be lost to the next.
flushCompileCache();

const lines = createInterface({ input: process.stdin });
lines.once("line", (line) => {
  const task = JSON.parse(line) as EngineTask;
  const load = new EngineLoad({ task, files: diskFiles, clock: systemClock, tell });
  load.run().catch((error: unknown) => {
    tell({ type: "violation", text: `the engine can't go on: ${messageOf(error)}` });
  });
});
lines.once("close", () => process.exit());
