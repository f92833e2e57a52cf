/**
 * The pieces of a large object one after the other, the next ones read while the present one is sent: they
 * lie in other volumes, and mostly on other machines.
 *
 * Invariants:
 * - What is ahead of a reader is at most two pieces, and that of all readers together within the budget.
 * - Without room for it nothing is read ahead, and the reader gets all the same.
 * - When the reader leaves, what is read for it ends.
 */

import type { ByteBudget } from "../base/byte-budget.ts";
import type { ByteRange } from "../base/http-range.ts";
import type { ChunkRef } from "../catalog/model.ts";

const piecesMax = 2;

/** A range of a blob. */
export interface Piece {
  chunk: ChunkRef;
  range: ByteRange;
}

type OpenPiece = (piece: Piece, signal: AbortSignal) => AsyncGenerator<Buffer>;

export async function* readAhead(
  pieces: readonly Piece[],
  open: OpenPiece,
  budget: ByteBudget,
): AsyncGenerator<Buffer> {
  const leaving = new AbortController();
  /** Those that are being read ahead: of the present piece, if it is one, and of those after it. */
  const ahead = new Map<Piece, PieceAhead>();
  try {
    for (const [at, piece] of pieces.entries()) {
      for await (const part of partsOf(piece, ahead.get(piece), open, leaving.signal)) {
        yield part;
        // Only once the reader takes what it asked for: many look at the beginning and leave.
        for (const next of pieces.slice(at + 1, at + 1 + piecesMax)) {
          if (ahead.size >= piecesMax || ahead.has(next)) continue;
          const giveBack = budget.tryTake(next.range.end - next.range.start);
          if (giveBack === undefined) break;
          ahead.set(next, new PieceAhead(open(next, leaving.signal), giveBack));
        }
      }
      ahead.get(piece)?.close();
      ahead.delete(piece);
    }
  } finally {
    leaving.abort();
    for (const each of ahead.values()) each.close();
  }
}

async function* partsOf(
  piece: Piece,
  ahead: PieceAhead | undefined,
  open: OpenPiece,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const { chunk, range } = piece;
  let start = range.start;
  if (ahead !== undefined) {
    for await (const part of ahead.parts()) {
      start += part.length;
      yield part;
    }
  }
  // All of it, or what is missing: that it failed ahead of time says nothing of now.
  if (start < range.end) yield* open({ chunk, range: { start, end: range.end } }, signal);
}

/** One piece, read as fast as it comes. */
class PieceAhead {
  readonly #giveBack: () => void;
  readonly #parts: Buffer[] = [];
  #isOver = false;
  #wake: () => void = () => undefined;

  constructor(source: AsyncGenerator<Buffer>, giveBack: () => void) {
    this.#giveBack = giveBack;
    void this.#pump(source);
  }

  /** As far as it could be read. */
  async *parts(): AsyncGenerator<Buffer> {
    for (;;) {
      const part = this.#parts.shift();
      if (part !== undefined) {
        yield part;
      } else if (this.#isOver) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  close(): void {
    this.#isOver = true;
    this.#parts.length = 0;
    this.#giveBack();
  }

  async #pump(source: AsyncGenerator<Buffer>): Promise<void> {
    try {
      for await (const part of source) {
        if (this.#isOver) return;
        this.#parts.push(part);
        this.#wake();
      }
    } catch {
      // Whoever takes the parts reads on from the last one, and is told if that fails too.
    } finally {
      this.#isOver = true;
      this.#wake();
    }
  }
}
