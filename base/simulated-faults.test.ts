import assert from "node:assert/strict";
import { expect, test } from "vitest";
import type { FileHandle, FileSystem } from "./files.ts";
import { enumerateFaults, type FaultOptions, type FaultRun } from "./simulated-faults.ts";
import { PowerCut, SimulatedFiles, type SimulationOptions } from "./simulated-files.ts";

/** A log of lines: what an engine is, in small. */
interface Engine {
  create(files: FileSystem, file: string): Promise<FileHandle>;
  append(handle: FileHandle, line: string, offset: number): Promise<void>;
}

const soundEngine: Engine = {
  async create(files, file) {
    const handle = await files.open(file, "create");
    await files.syncFolder("/v");
    return handle;
  },
  async append(handle, line, offset) {
    await handle.write([Buffer.from(line)], offset);
    await handle.syncData();
  },
};

const lineLength = 600; // so that no line lies in one block with the whole of another

/** Lets every fault befall two appends; what was acknowledged has to be there, whatever befell. */
function tryEngine(engine: Engine, options: FaultOptions = {}, simulation: SimulationOptions = {}) {
  const runs: FaultRun[] = [];
  const result = enumerateFaults<{ lines: string[] }>(
    {
      prepare: () => Promise.resolve(new SimulatedFiles(simulation)),
      begin: () => ({ lines: [] }),
      async act(files, { lines }) {
        const handle = await engine.create(files, "/v/log");
        for (const letter of ["a", "b"]) {
          const line = letter.repeat(lineLength);
          await engine.append(handle, line, lines.length * lineLength);
          lines.push(line);
        }
        await handle.close();
      },
      check: async (files, { lines }, run) => {
        runs.push(run);
        const content = await files.readWhole("/v/log");
        const found = content?.toString("latin1", 0, lines.length * lineLength) ?? "";
        assert(found === lines.join(""), "a line that was acknowledged is lost");
      },
    },
    options,
  );
  return { result, runs };
}

test("A sound engine keeps its promise at every fault of every operation", async () => {
  const { result, runs } = tryEngine(soundEngine, { seedCount: 3 });
  const { operationCount, checkCount } = await result;
  expect(operationCount).toBe(6);
  expect(checkCount).toBe(runs.length);

  // Each operation, with each kind of fault, each of these with each kind of loss.
  const tried = (number: number | undefined) =>
    new Set(
      runs
        .filter(({ operation }) => operation?.number === number)
        .map(({ fault, lose }) => [...Object.values(fault ?? {}), `lose ${lose}`].join(" ")),
    );
  const errorLosses = ["lose undefined", "lose all", "lose some", "lose none"];
  const crashLosses = errorLosses.slice(1);
  expect(tried(undefined)).toEqual(new Set(errorLosses));
  const crashes = ["crash none", "crash some", "crash all"];
  const errors = ["EIO none", "EIO some", "ENOSPC none", "ENOSPC some"].map((it) => `error ${it}`);
  expect(tried(3)).toEqual(
    new Set([
      ...crashes.flatMap((fault) => crashLosses.map((lose) => `${fault} ${lose}`)),
      ...errors.flatMap((fault) => errorLosses.map((lose) => `${fault} ${lose}`)),
    ]),
  );
  for (const number of [1, 2, 4, 5, 6]) expect(tried(number).size).toBeGreaterThan(10);
  // What is left to chance is tried with each seed, the rest once.
  const seedsOf = (done: string, loss: string) =>
    runs
      .filter(({ operation, fault, lose }) => {
        return (
          operation?.number === 3 &&
          fault?.kind === "crash" &&
          `${fault.done} ${lose}` === `${done} ${loss}`
        );
      })
      .map(({ seed }) => seed);
  expect(seedsOf("some", "none")).toEqual([1, 2, 3]);
  expect(seedsOf("none", "some")).toEqual([1, 2, 3]);
  expect(seedsOf("none", "all")).toEqual([1]);
});

test("An engine never hears of the power cut: it can't acknowledge anything after it", async () => {
  const heard: unknown[] = [];
  const { result } = tryEngine({
    ...soundEngine,
    append: (handle, line, offset) =>
      soundEngine.append(handle, line, offset).catch((error) => {
        heard.push(error);
        throw error;
      }),
  });
  await result;
  expect(heard.length).toBeGreaterThan(0);
  expect(heard.some((error) => error instanceof PowerCut)).toBe(false);
});

test("An engine that only fails hears of the error, one that was cut says nothing", async () => {
  const { result, runs } = tryEngine(soundEngine);
  await result;
  for (const { fault, error } of runs) {
    if (fault?.kind === "error") expect(error).toMatchObject({ code: fault.code });
    else expect(error).toBeUndefined();
  }
});

test("Reads are tried too where they are numbered", async () => {
  const readingEngine: Engine = {
    ...soundEngine,
    async append(handle, line, offset) {
      await soundEngine.append(handle, line, offset);
      await handle.read(Buffer.alloc(1), offset);
    },
  };
  const { result, runs } = tryEngine(readingEngine, {}, { numbersReads: true });
  expect(await result).toMatchObject({ operationCount: 8 });
  expect(runs.some(({ fault }) => fault?.kind === "short-read")).toBe(true);
});

test("It holds out of order as well: each seed has an order of its own", async () => {
  const hasty: Engine = {
    ...soundEngine,
    async append(handle, line, offset) {
      const sync = handle.syncData(); // of no use, and anywhere between the others
      await Promise.all([handle.write([Buffer.from(line)], offset), sync]);
      await handle.syncData();
    },
  };
  const { result } = tryEngine(hasty, { seedCount: 8 }, { isDisordered: true });
  expect((await result).checkCount).toBeGreaterThan(1_000);
});

const unsound: Record<string, { engine: Partial<Engine>; message: RegExp }> = {
  "acknowledges before the sync": {
    engine: { append: (handle, line, offset) => handle.write([Buffer.from(line)], offset) },
    message:
      /without a fault, a restart that lost all, seed 1: a line that was acknowledged is lost/,
  },
  "never syncs the folder": {
    engine: { create: (files, file) => files.open(file, "create") },
    message: /without a fault, a restart that lost all/,
  },
  "tries a failed sync again": {
    engine: {
      async append(handle, line, offset) {
        await handle.write([Buffer.from(line)], offset);
        await handle.syncData().catch(() => handle.syncData());
      },
    },
    message:
      /after EIO with none of it done at operation 4, sync of \/v\/log, a restart that lost all/,
  },
  "takes a write that failed for done": {
    engine: {
      async append(handle, line, offset) {
        await handle.write([Buffer.from(line)], offset).catch(() => undefined);
        await handle.syncData();
      },
    },
    message: /after EIO with none of it done at operation 3, write of \/v\/log, no restart, seed 1/,
  },
  "acknowledges while the sync runs": {
    engine: {
      async append(handle, line, offset) {
        await handle.write([Buffer.from(line)], offset);
        handle.syncData().catch(() => undefined);
      },
    },
    message: /at operation 4, sync of \/v\/log/,
  },
};

for (const [fault, { engine, message }] of Object.entries(unsound)) {
  test(`An engine that ${fault} is found out`, async () => {
    const failure = await tryEngine({ ...soundEngine, ...engine }).result.catch((error) => error);
    expect(failure).toBeInstanceOf(Error);
    expect(failure.message).toMatch(message);
    expect(failure.cause).toBeInstanceOf(assert.AssertionError);
  });
}

test("What failed can be tried alone", async () => {
  const isChosen = ({ number }: { number: number }) => number === 4;
  const { result, runs } = tryEngine(soundEngine, { isChosen, firstSeed: 7, seedCount: 1 });
  await result;
  expect(new Set(runs.map(({ operation }) => operation?.number))).toEqual(new Set([undefined, 4]));
  expect(runs.every(({ seed }) => seed === 7)).toBe(true);
});

test("Work that never settles, and work that is another each time, are told as such", async () => {
  const stuck: Engine = {
    ...soundEngine,
    append: (handle, line, offset) =>
      soundEngine.append(handle, line, offset).catch(() => new Promise(() => undefined)),
  };
  await expect(tryEngine(stuck, { settleTimeoutMs: 20 }).result).rejects.toThrow(
    /after EIO .* at operation 3, .*: neither done nor failed after 20 ms/,
  );
  let run = 0;
  const fickle: Engine = {
    ...soundEngine,
    create: (files) => soundEngine.create(files, `/v/log${run++}`),
  };
  await expect(tryEngine(fickle).result).rejects.toThrow(/the work is the same in each run/);
});
