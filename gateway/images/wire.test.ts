import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { Failure } from "../../base/failure.ts";
import { type Random, seededRandom } from "../../base/random.ts";
import {
  AnswerReader,
  encodeFailure,
  encodeQuestion,
  encodeResult,
  Link,
  LinkLost,
  type Question,
  QuestionReader,
} from "./wire.ts";

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

/** The bytes in pieces as a socket may give them. */
function cut(bytes: Buffer, random: Random): Buffer[] {
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + (random.u32() % 3 === 0 ? random.u32() % 5_000 : random.u32() % 20);
    parts.push(bytes.subarray(at, at + length));
    at += length;
  }
  return parts;
}

for (let seed = 1; seed <= 20; seed++) {
  test(`Answers are read back however the bytes are cut (seed ${seed})`, () => {
    const random = seededRandom(seed);
    const sent = Array.from({ length: 30 }, () => ({
      id: random.u32(),
      isFailure: false,
      bytes: random.bytes(random.u32() % 3 === 0 ? random.u32() % 20_000 : random.u32() % 30),
    }));
    const wire = Buffer.concat(sent.flatMap(({ id, bytes }) => encodeResult(id, bytes)));
    const reader = new AnswerReader();
    expect(cut(wire, random).flatMap((part) => reader.push(part))).toEqual(sent);
  });

  test(`Questions are read back however the text is cut (seed ${seed})`, () => {
    const random = seededRandom(seed);
    const sent = Array.from({ length: 30 }, (_none, id): Question => {
      return id % 3 === 0 ? { id, ask: "nothing" } : { id, ask: "facts", file: `/tmp/a "${id}"\n` };
    });
    const reader = new QuestionReader();
    const wire = Buffer.from(sent.map(encodeQuestion).join(""));
    expect(cut(wire, random).flatMap((part) => reader.push(part.toString()))).toEqual(sent);
  });
}

test("A failure comes out as it went in", () => {
  const failure = new Failure("busy", "Cannot now: later", { retryAfterSeconds: 2 });
  const [answer] = new AnswerReader().push(Buffer.concat(encodeFailure(7, failure)));
  expect(answer).toMatchObject({ id: 7, isFailure: true });
  expect(JSON.parse(String(answer?.bytes))).toEqual({
    kind: "busy",
    message: "Cannot now: later",
    retryAfterSeconds: 2,
  });
});

/** A server that gives the test what it is asked, and its socket. */
async function listen(onQuestion: (question: Question, socket: Socket) => void): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "wire-"));
  const path =
    process.platform === "win32"
      ? `\\\\.\\pipe\\${folder.replaceAll(/[\\/:]/g, "-")}`
      : join(folder, "socket");
  const server = createServer((socket) => {
    const reader = new QuestionReader();
    socket.setEncoding("utf8").on("data", (text: string) => {
      for (const question of reader.push(text)) onQuestion(question, socket);
    });
    socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  closers.push(() => {
    server.close();
    rmSync(folder, { recursive: true });
  });
  return path;
}

test("Answers find their questions in any order", async () => {
  const questions: Question[] = [];
  const path = await listen((question, socket) => {
    questions.push(question);
    if (questions.length < 3) return;
    for (const { id } of questions.toReversed()) {
      for (const part of encodeResult(id, Buffer.from(`answer ${id}`))) socket.write(part);
    }
  });
  const link = await Link.connect(path, () => {});
  closers.push(() => link.close());
  const answers = await Promise.all([1, 2, 3].map(() => link.ask({ ask: "facts", file: "x" }, {})));
  expect(answers.map(({ bytes }) => bytes.toString())).toEqual([
    "answer 1",
    "answer 2",
    "answer 3",
  ]);
});

test("A lost connection fails what is open and what is asked later", async () => {
  const path = await listen((_question, socket) => socket.destroy());
  const { promise: lost, resolve: onLost } = Promise.withResolvers<Link>();
  const link = await Link.connect(path, onLost);
  await expect(link.ask({ ask: "facts", file: "x" }, {})).rejects.toThrow(LinkLost);
  expect(await lost).toBe(link);
  await expect(link.ask({ ask: "facts", file: "x" }, {})).rejects.toThrow(LinkLost);
});

test("Who leaves says so, and an answer that comes nevertheless is dropped", async () => {
  const questions: Question[] = [];
  const path = await listen((question, socket) => {
    questions.push(question);
    if (question.ask !== "nothing") return;
    for (const part of encodeResult(question.id, Buffer.from("late"))) socket.write(part);
  });
  const link = await Link.connect(path, () => {});
  closers.push(() => link.close());
  const leave = new AbortController();
  const asked = link.ask({ ask: "facts", file: "x" }, { signal: leave.signal });
  leave.abort(new Error("gone"));
  await expect(asked).rejects.toThrow("gone");
  await expect.poll(() => questions).toMatchObject([{ ask: "facts" }, { ask: "nothing" }]);
  await expect(
    link.ask({ ask: "facts", file: "x" }, { signal: AbortSignal.abort(new Error("before")) }),
  ).rejects.toThrow("before");
});
