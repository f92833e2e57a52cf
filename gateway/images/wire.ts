/**
 * How the gateway and its image process talk: one connection over a local socket, many jobs on it.
 *
 * HTTP would do the same and costs more for each of the many renders there are.
 *
 * Invariants:
 * - Every question gets one answer, in any order, or the connection ends.
 * - When the connection ends, all open questions fail with `LinkLost`: nobody waits for a dead process.
 */

import { connect, type Socket } from "node:net";
import { type Failure, type FailureKind, messageOf } from "../../base/failure.ts";
import type { RenderPlan } from "./transform.ts";

/** What is asked: one line of JSON each. The bytes lie in a file. */
export type Question =
  | { id: number; ask: "facts"; file: string; requestId?: string | undefined }
  | { id: number; ask: "render"; file: string; plan: RenderPlan; requestId?: string | undefined }
  /** Nobody waits for the answer to `id` any more. */
  | { id: number; ask: "nothing" };

// Answer, little-endian, in the order written:
//   0   id      u32   the question's
//   4   failed  u32   1 when the bytes are a failure as JSON, 0 when they are what was asked for
//   8   length  u32   of the bytes that follow
const at = { id: 0, failed: 4, length: 8, bytes: 12 } as const;

export interface Answer {
  id: number;
  isFailure: boolean;
  bytes: Buffer;
}

export interface WireFailure {
  kind: FailureKind;
  message: string;
  retryAfterSeconds: number | undefined;
}

export function encodeQuestion(question: Question): string {
  return `${JSON.stringify(question)}\n`;
}

export function encodeFailure(id: number, failure: Failure): [head: Buffer, bytes: Buffer] {
  const { kind, message, retryAfterSeconds } = failure;
  const body: WireFailure = { kind, message, retryAfterSeconds };
  return encode({ id, isFailure: true, bytes: Buffer.from(JSON.stringify(body)) });
}

export function encodeResult(id: number, bytes: Uint8Array): [head: Buffer, bytes: Buffer] {
  const { buffer, byteOffset, byteLength } = bytes;
  return encode({ id, isFailure: false, bytes: Buffer.from(buffer, byteOffset, byteLength) });
}

function encode({ id, isFailure, bytes }: Answer): [head: Buffer, bytes: Buffer] {
  const head = Buffer.alloc(at.bytes);
  head.writeUInt32LE(id, at.id);
  head.writeUInt32LE(isFailure ? 1 : 0, at.failed);
  head.writeUInt32LE(bytes.length, at.length);
  return [head, bytes];
}

/** Takes a connection's bytes as they come, gives whole questions. */
export class QuestionReader {
  #rest = "";

  push(text: string): Question[] {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    return lines.map((line) => JSON.parse(line) as Question);
  }
}

/** Takes a connection's bytes as they come, gives whole answers. */
export class AnswerReader {
  readonly #parts: Buffer[] = [];
  #length = 0;
  #needed: number = at.bytes;

  push(part: Buffer): Answer[] {
    this.#parts.push(part);
    this.#length += part.length;
    const answers: Answer[] = [];
    // Joined only when a whole answer is there: a big one comes in many parts.
    while (this.#length >= this.#needed) {
      const bytes = this.#parts.length === 1 ? part : Buffer.concat(this.#parts, this.#length);
      const total = at.bytes + bytes.readUInt32LE(at.length);
      let rest = bytes;
      if (bytes.length >= total) {
        answers.push({
          id: bytes.readUInt32LE(at.id),
          isFailure: bytes.readUInt32LE(at.failed) === 1,
          bytes: bytes.subarray(at.bytes, total),
        });
        rest = bytes.subarray(total);
        this.#needed = at.bytes;
      } else {
        this.#needed = total;
      }
      this.#parts.length = 0;
      this.#length = rest.length;
      if (rest.length > 0) this.#parts.push(rest);
      part = rest;
    }
    return answers;
  }
}

/** The connection ended before the answer came. */
export class LinkLost extends Error {
  override readonly name = "LinkLost";
}

interface Waiting {
  resolve(answer: Answer): void;
  reject(error: unknown): void;
}

/** The gateway's end of the connection. */
export class Link {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiting>();
  #lastId = 0;
  #lost: LinkLost | undefined;

  private constructor(socket: Socket, onLost: () => void) {
    this.#socket = socket;
    const reader = new AnswerReader();
    socket.on("data", (part: Buffer) => {
      for (const answer of reader.push(part)) {
        this.#waiting.get(answer.id)?.resolve(answer);
        this.#waiting.delete(answer.id);
      }
    });
    let reason = "the connection ended";
    socket.on("error", (error) => {
      reason = messageOf(error);
    });
    socket.on("close", () => {
      this.#lost = new LinkLost(reason);
      for (const { reject } of this.#waiting.values()) reject(this.#lost);
      this.#waiting.clear();
      onLost();
    });
  }

  static connect(path: string, onLost: (link: Link) => void): Promise<Link> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        const link: Link = new Link(socket, () => onLost(link));
        resolve(link);
      });
    });
  }

  /** Rejects with the signal's reason when that comes before the answer. */
  ask(
    question: { ask: "facts"; file: string } | { ask: "render"; file: string; plan: RenderPlan },
    { signal, requestId }: { signal?: AbortSignal | undefined; requestId?: string | undefined },
  ): Promise<Answer> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    if (signal?.aborted === true) return Promise.reject(signal.reason);
    this.#lastId = (this.#lastId + 1) >>> 0;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#waiting.delete(id);
        this.#socket.write(encodeQuestion({ id, ask: "nothing" }));
        reject(signal?.reason);
      };
      this.#waiting.set(id, {
        resolve(answer) {
          signal?.removeEventListener("abort", onAbort);
          resolve(answer);
        },
        reject(error) {
          signal?.removeEventListener("abort", onAbort);
          reject(error);
        },
      });
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#socket.write(encodeQuestion({ ...question, id, requestId }));
    });
  }

  close(): void {
    this.#socket.destroy();
  }
}
