/**
 * Lets every fault befall a piece of work at every operation it does, and has what is left checked each
 * time. Nothing is sampled but what a seed decides: where a write tears, and what survives of it.
 */

import assert from "node:assert/strict";
import { seededRandom } from "./random.ts";
import type {
  Extent,
  Fault,
  Loss,
  Operation,
  OperationKind,
  SimulatedFiles,
} from "./simulated-files.ts";

/** What befell one run of the work, and what came of the disk. */
export interface FaultRun {
  /** Without these the work was let run to its end. */
  readonly operation: Operation | undefined;
  readonly fault: Fault | undefined;
  /** What the power cut took; without it there was none, and the file system goes on as it is. */
  readonly lose: Loss | undefined;
  readonly seed: number;
  /** What the work failed with, if it did; a work that was cut says nothing. */
  readonly error: unknown;
}

export interface FaultScenario<Outcome> {
  /** The state before; done once. Handles that it leaves open are of no use to the work. */
  prepare(): Promise<SimulatedFiles>;
  /** An empty record of what the work acknowledges: a run that is cut short returns none. */
  begin(): Outcome;
  /** The work. Given the same files it has to call for the same operations in the same order. */
  act(files: SimulatedFiles, outcome: Outcome): Promise<void>;
  /** Throws if what is found is not what the outcome promised. */
  check(files: SimulatedFiles, outcome: Outcome, run: FaultRun): Promise<void>;
}

export interface FaultOptions {
  /** How often to try what depends on a seed. */
  readonly seedCount?: number;
  readonly firstSeed?: number;
  /** To try fewer operations, or just the one that failed. */
  readonly isChosen?: (operation: Operation) => boolean;
  /** A run takes milliseconds: longer than this is an await that nobody will ever end. */
  readonly settleTimeoutMs?: number;
}

/** Returns how many operations the work does, and how often it was checked. */
export async function enumerateFaults<Outcome>(
  scenario: FaultScenario<Outcome>,
  options: FaultOptions = {},
): Promise<{ operationCount: number; checkCount: number }> {
  const { seedCount = 2, firstSeed = 1, isChosen = () => true, settleTimeoutMs = 10_000 } = options;
  const before = await scenario.prepare();
  let operationCount = 0;
  let checkCount = 0;
  for (let seed = firstSeed; seed < firstSeed + seedCount; seed++) {
    const clean = before.clone({ seed });
    await settled(scenario.act(clean, scenario.begin()), settleTimeoutMs);
    operationCount = clean.operationCount;
    const causes = clean.operations
      .filter(isChosen)
      .flatMap((operation) => faultsOf(operation.kind).map((fault) => ({ operation, fault })));
    for (const cause of [{ operation: undefined, fault: undefined }, ...causes]) {
      const isNew = seed === firstSeed || before.options.isDisordered || isSeeded(cause.fault);
      const losses = lossesAfter(cause.fault).filter((lose) => isNew || lose === "some");
      const { operations } = clean;
      await runOnce(scenario, { ...cause, seed }, { before, operations, losses, settleTimeoutMs });
      checkCount += losses.length;
    }
  }
  return { operationCount, checkCount };
}

function isSeeded(fault: Fault | undefined): boolean {
  return fault !== undefined && (fault.kind === "short-read" || fault.done === "some");
}

async function runOnce<Outcome>(
  scenario: FaultScenario<Outcome>,
  cause: Pick<FaultRun, "operation" | "fault" | "seed">,
  {
    before,
    operations,
    losses,
    settleTimeoutMs,
  }: {
    before: SimulatedFiles;
    /** What the work does when nothing befalls it. */
    operations: readonly Operation[];
    losses: readonly (Loss | undefined)[];
    settleTimeoutMs: number;
  },
): Promise<void> {
  const { operation, fault, seed } = cause;
  const outcome = scenario.begin();
  let run: FaultRun = { ...cause, lose: undefined, error: undefined };
  try {
    // Once it is cut the work hangs for good: nothing that it leaves behind wakes up in the check.
    const files = before.clone({ seed, afterCut: "hang" });
    if (fault !== undefined) {
      files.plan = ({ number }) => (number === operation?.number ? fault : undefined);
    }
    const ended = scenario.act(files, outcome).then(
      () => undefined,
      (error: unknown) => error ?? new Error("rejected with nothing"),
    );
    const error = await settled(
      Promise.race([ended, files.cut.then(() => undefined)]),
      settleTimeoutMs,
    );
    run = { ...run, error: files.isCut ? undefined : error };
    files.plan = undefined;
    if (operation === undefined && error !== undefined) throw error;
    // Up to the fault; what comes after it may well be something else.
    const count = operation?.number ?? Math.max(operations.length, files.operationCount);
    const did = files.operations.slice(0, count);
    assert.deepEqual(did, operations.slice(0, count), "the work is the same in each run");

    // Taken apart first, because a check may change what it is given.
    const left = losses.map((lose) => {
      if (lose === undefined) return { lose, files };
      const random = seededRandom(seed);
      return { lose, files: files.clone({ afterCut: "reject" }).restart({ lose, random }) };
    });
    for (const { lose, files } of left) {
      run = { ...run, lose };
      await settled(scenario.check(files, outcome, run), settleTimeoutMs);
    }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(`Cannot keep the promise ${describe(run)}: ${message}`, { cause: error });
  }
}

/** A failure is checked as it stands too; whatever went on after it may meet a power cut as well. */
function lossesAfter(fault: Fault | undefined): (Loss | undefined)[] {
  return fault?.kind === "crash" ? ["all", "some", "none"] : [undefined, "all", "some", "none"];
}

function faultsOf(kind: OperationKind): Fault[] {
  const crash = (done: Extent): Fault => ({ kind: "crash", done });
  const io = (done: Extent): Fault => ({ kind: "error", code: "EIO", done });
  const full = (done: Extent): Fault => ({ kind: "error", code: "ENOSPC", done });
  switch (kind) {
    case "write":
      return [
        crash("none"),
        crash("some"),
        crash("all"),
        io("none"),
        io("some"),
        full("none"),
        full("some"),
      ];
    case "sync":
      return [crash("none"), crash("all"), io("none"), io("some"), full("none")];
    case "create":
    case "truncate":
    case "rename":
      return [crash("none"), crash("all"), io("none"), io("all"), full("none")];
    case "unlink":
    case "sync-folder":
      return [crash("none"), crash("all"), io("none"), io("all")];
    case "read":
      return [crash("none"), io("none"), { kind: "short-read" }];
    case "open":
    case "size":
    case "list":
      return [crash("none"), io("none")];
  }
}

async function settled<Result>(work: Promise<Result>, timeoutMs: number): Promise<Result> {
  const { promise, reject } = Promise.withResolvers<never>();
  const fail = () => reject(new Error(`neither done nor failed after ${timeoutMs} ms`));
  const timer = setTimeout(fail, timeoutMs);
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}

function describe({ operation, fault, lose, seed }: FaultRun): string {
  const cause =
    operation === undefined || fault === undefined
      ? "without a fault"
      : `after ${describeFault(fault)} at operation ${operation.number}, ${operation.kind} of ${operation.file}`;
  const cut = lose === undefined ? "no restart" : `a restart that lost ${lose}`;
  return `${cause}, ${cut}, seed ${seed}`;
}

function describeFault(fault: Fault): string {
  switch (fault.kind) {
    case "crash":
      return `a crash with ${fault.done} of it done`;
    case "error":
      return `${fault.code} with ${fault.done} of it done`;
    case "short-read":
      return "a short read";
  }
}
