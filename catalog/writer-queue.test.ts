import { pino } from "pino";
import { expect, test } from "vitest";
import { systemClock } from "../base/clock.ts";
import { Failure } from "../base/failure.ts";
import { WriterQueue } from "./writer-queue.ts";

/** A queue before a writer that, once opened, does `onMessage`. */
async function startWith(onMessage: string, waitingMax = 10) {
  const program = `
    import { parentPort } from "node:worker_threads";
    parentPort.on("message", (message) => { ${onMessage} });
    parentPort.postMessage({ type: "opened", id: "0123456789abcdef", session: 1 });`;
  const fatal = Promise.withResolvers<Failure>();
  const { queue } = await WriterQueue.start({
    script: new URL(`data:text/javascript,${encodeURIComponent(program)}`),
    settings: { file: "", freshId: "", nowMs: 0, deleteDelayMs: 0 },
    clock: systemClock,
    log: pino({ level: "silent" }),
    waitingMax,
    onFatal: fatal.resolve,
  });
  return { queue, fatal: fatal.promise };
}

const kindOf = (result: PromiseSettledResult<unknown>) =>
  result.status === "rejected" && result.reason instanceof Failure ? result.reason.kind : result;

const abandonNothing = { fids: [] };

test("What comes beyond the bound is refused as busy, and what waits is done", async () => {
  const { queue } = await startWith(`
    if (message.type === "close") process.exit(0);
    const answers = message.group.changes.map(() => ({ value: undefined }));
    parentPort.postMessage({ type: "answered", result: { answers, isFatal: false } });`);
  const results = await Promise.allSettled(
    Array.from({ length: 12 }, () => queue.submit("abandon", abandonNothing)),
  );
  expect(results.slice(0, 10).every(({ status }) => status === "fulfilled")).toBe(true);
  expect(results.slice(10).map(kindOf)).toEqual(["busy", "busy"]);
  const last = queue.submit("abandon", abandonNothing);
  await queue.close();
  await last;
  await expect(queue.submit("abandon", abandonNothing)).rejects.toThrow("it is closed");
});

test.each([
  ["throws", `throw new Error("worn out")`],
  ["exits", "process.exit(3)"],
])(
  "A writer that %s fails what runs, what waits and what comes, and says so once",
  async (_, end) => {
    const { queue, fatal } = await startWith(`setTimeout(() => { ${end} }, 50)`);
    const running = queue.submit("abandon", abandonNothing);
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    const waiting = queue.submit("abandon", abandonNothing);
    const results = await Promise.allSettled([running, waiting]);
    expect(results.map(kindOf)).toEqual(["unavailable", "unavailable"]);
    expect(String(results[0]?.status === "rejected" && results[0].reason)).toMatch("Cannot tell");
    expect((await fatal).kind).toBe("unavailable");
    await expect(queue.submit("abandon", abandonNothing)).rejects.toThrow("its writer has ended");
    await queue.close();
  },
);

test("A commit of unknown outcome ends the writer", async () => {
  const { queue, fatal } = await startWith(`
    const failure = { kind: "unavailable", message: "Cannot tell", code: undefined };
    const answers = message.group.changes.map(() => ({ failure }));
    parentPort.postMessage({ type: "answered", result: { answers, isFatal: true } });`);
  await expect(queue.submit("abandon", abandonNothing)).rejects.toThrow("Cannot tell");
  expect((await fatal).message).toContain("its writer has ended");
  await queue.close();
});
