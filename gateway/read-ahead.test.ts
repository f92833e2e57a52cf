import { setImmediate } from "node:timers/promises";
import { expect, test } from "vitest";
import { ByteBudget } from "../base/byte-budget.ts";
import { Failure } from "../base/failure.ts";
import { type Piece, readAhead } from "./read-ahead.ts";

const parts = 4;
const partBytes = 10;
const pieceBytes = parts * partBytes;

function makePieces(count: number): Piece[] {
  return Array.from({ length: count }, (_, at) => ({
    chunk: { fid: String(at), length: pieceBytes },
    range: { start: 0, end: pieceBytes },
  }));
}

/** Pieces made of their number, and who has them open. */
class Source {
  readonly opened: number[] = [];
  readonly open = new Set<number>();
  /** Fails at the first opening of these, after one part. */
  failing = new Set<number>();

  readonly read = async function* (this: Source, { chunk, range }: Piece, signal: AbortSignal) {
    const at = Number(chunk.fid);
    this.opened.push(at);
    this.open.add(at);
    try {
      for (let start = range.start; start < range.end; start += partBytes) {
        await setImmediate();
        if (signal.aborted) throw new Failure("unavailable", "left");
        yield Buffer.alloc(partBytes, at);
        if (this.failing.delete(at)) throw new Failure("unavailable", "cut");
      }
    } finally {
      this.open.delete(at);
    }
  }.bind(this);
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await setImmediate();
}

test("Pieces come in their order, two ahead of the reader at most, and none before it has begun", async () => {
  const source = new Source();
  const budget = new ByteBudget(1_000);
  const reading = readAhead(makePieces(6), source.read, budget);
  let got = 0;
  for await (const part of reading) {
    const piece = Math.floor(got / pieceBytes);
    expect(part).toEqual(Buffer.alloc(partBytes, piece));
    await settled();
    got += part.length;
    const ahead = Math.max(...source.opened) - piece;
    expect(ahead).toBe(got === partBytes ? 0 : Math.min(piece === 0 ? 2 : ahead, 5 - piece, 2));
  }
  expect(got).toBe(6 * pieceBytes);
  expect(source.opened).toEqual([0, 1, 2, 3, 4, 5]);
  budget.take(1_000); // all was given back
});

test("Readers that have no room for it get it all the same, one piece after the other", async () => {
  const source = new Source();
  const budget = new ByteBudget(pieceBytes);
  const giveBack = budget.take(pieceBytes);
  let got = 0;
  for await (const part of readAhead(makePieces(3), source.read, budget)) {
    await settled();
    expect(source.open.size).toBeLessThanOrEqual(1);
    got += part.length;
  }
  expect(got).toBe(3 * pieceBytes);
  giveBack();
  budget.take(pieceBytes);
});

test("What fails ahead of time is read on from where it was when its turn has come", async () => {
  const source = new Source();
  source.failing = new Set([1, 2]);
  const all: Buffer[] = [];
  for await (const part of readAhead(makePieces(4), source.read, new ByteBudget(1_000))) {
    all.push(part);
    await settled();
  }
  const expected = makePieces(4).map((_, at) => Buffer.alloc(pieceBytes, at));
  expect(Buffer.concat(all).equals(Buffer.concat(expected))).toBe(true);
  expect(source.opened.filter((at) => at === 1).length).toBe(2);
});

test("What fails in its turn is the failure of the whole", async () => {
  const source = new Source();
  source.failing = new Set([0]);
  const reading = readAhead(makePieces(3), source.read, new ByteBudget(1_000));
  await reading.next();
  await expect(reading.next()).rejects.toMatchObject({ kind: "unavailable" });
  await settled();
  expect(source.open.size).toBe(0);
});

test("When the reader leaves nothing is read any more and all memory is given back", async () => {
  const source = new Source();
  const budget = new ByteBudget(1_000);
  const reading = readAhead(makePieces(6), source.read, budget);
  for (let part = 0; part < 3; part++) await reading.next();
  await reading.return(undefined);
  await settled();
  expect(source.open.size).toBe(0);
  expect(Math.max(...source.opened)).toBe(2);
  budget.take(1_000);
});
