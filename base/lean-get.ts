/**
 * GET between our own processes, for bytes that are used the moment they come in: HTTP/1.1 answers with a
 * Content-Length, read through one buffer for each connection that is used over and over.
 *
 * General clients make a new buffer of 64 KiB for each read, and collecting those costs more than moving
 * the bytes does. What needs to wait for a slow reader, or talks to others than us, uses http-call.ts.
 *
 * Invariants:
 * - A part is only valid while it is handed over.
 * - A connection goes back to be used again only after an answer that was read to its very end.
 * - A request whose connection turned out to be closed before any answer is sent once more, on a new one.
 */

import { connect, type Socket } from "node:net";
import { challengeHeader, signatureHeader } from "./call-signature.ts";
import { type CallSigner, signingsMax } from "./call-signer.ts";
import { Failure, messageOf } from "./failure.ts";

export interface LeanGetOptions {
  /** `host:port`. */
  address: string;
  path: string;
  headers: Record<string, string>;
  /** From the request to the first byte, and then between any two. */
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  /** Called with the length of the body before its first part. */
  onLength?: (bytes: number) => void;
  onPart: (part: Buffer) => void;
}

export interface LeanAnswer {
  status: number;
  /** The body of an answer of 400 or more, which goes to nobody else. */
  errorBody: string;
  /** What such an answer says of how to sign. */
  challenge?: string | undefined;
}

const bufferBytes = 131_072;
const headBytesMax = 16_384;
const errorBytesMax = 65_536;
const challengeLine = new RegExp(`\\r\\n${challengeHeader}: *([!-~]+) *\\r\\n`, "i");
/** Under the time after which a store closes what is idle. */
const idleMs = 8_000;

export class LeanGetter {
  readonly #idle = new Map<string, Connection[]>();
  readonly #all = new Set<Connection>();
  readonly #waiting: (() => void)[] = [];
  readonly #connectionsMax: number;
  readonly #signer: CallSigner | undefined;

  /** With a `signer` every request carries its pass: what is read are blobs by their fids. */
  constructor({
    connectionsMax = 128,
    signer,
  }: {
    connectionsMax?: number;
    signer?: CallSigner;
  } = {}) {
    this.#connectionsMax = connectionsMax;
    this.#signer = signer;
  }

  /** Fails with `unavailable` or `timeout`; an answer of 400 or more is an answer. */
  async get(options: LeanGetOptions): Promise<LeanAnswer> {
    const signer = this.#signer;
    if (signer === undefined) return await this.#get(options);
    const { address, headers } = options;
    for (let signings = 1; ; signings++) {
      const signature = signer.pass(address);
      const answer = await this.#get({
        ...options,
        headers: { [signatureHeader]: signature, ...headers },
      });
      const { status, challenge } = answer;
      if (status < 400 || signings === signingsMax) return answer;
      if (!signer.learn(address, signature, challenge)) return answer;
    }
  }

  async #get(options: LeanGetOptions): Promise<LeanAnswer> {
    const { address, timeoutMs, signal } = options;
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      if (signal?.aborted === true) throw nobodyWaits(); // before a good connection is given up for it
      const connection = this.#acquire(address);
      if (connection === undefined) {
        await this.#change(address, deadlineMs);
        continue;
      }
      const { isFresh } = connection;
      const outcome = await connection.exchange(options);
      if (outcome instanceof Failure) throw outcome;
      if (outcome !== "closed-before") {
        // What refused the signature serves this connection from now on, and that is the slow way.
        if (outcome.challenge !== undefined) connection.destroy();
        else if (connection.isUsable) this.#keep(address, connection);
        return outcome;
      }
      if (isFresh) {
        throw new Failure("unavailable", `Cannot GET at ${address}: it closed the connection`, {
          retryAfterSeconds: 1,
        });
      }
    }
  }

  close(): void {
    for (const connection of [...this.#all]) connection.destroy();
  }

  #keep(address: string, connection: Connection): void {
    const idle = this.#idle.get(address) ?? [];
    this.#idle.set(address, idle);
    idle.push(connection);
    connection.rest(idleMs);
    this.#waiting.shift()?.();
  }

  #forget(connection: Connection): void {
    this.#all.delete(connection);
    for (const idle of this.#idle.values()) {
      const at = idle.indexOf(connection);
      if (at >= 0) idle.splice(at, 1);
    }
    this.#waiting.shift()?.();
  }

  /** An idle connection to the address or a new one; undefined when there may be no more. */
  #acquire(address: string): Connection | undefined {
    const used = this.#idle.get(address)?.pop();
    if (used !== undefined) return used;
    if (this.#all.size >= this.#connectionsMax) {
      // One that is idle, to another address, makes room.
      const other = [...this.#idle.values()].find((each) => each.length > 0)?.shift();
      if (other === undefined) return undefined;
      this.#all.delete(other);
      other.destroy();
    }
    const connection = new Connection(address, (gone) => this.#forget(gone));
    this.#all.add(connection);
    return connection;
  }

  /** Resolves when a connection was given back or ended; fails at the deadline. */
  #change(address: string, deadlineMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const onChange = () => {
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        const at = this.#waiting.indexOf(onChange);
        if (at >= 0) this.#waiting.splice(at, 1);
        reject(late(address));
      }, deadlineMs - performance.now());
      this.#waiting.push(onChange);
    });
  }
}

type Outcome = LeanAnswer | Failure | "closed-before";

/** One connection, and the exchange that runs on it. */
class Connection {
  readonly #address: string;
  readonly #socket: Socket;
  #exchange: Exchange | undefined;
  #isEnded = false;
  #isFresh = true;

  constructor(address: string, onEnd: (connection: Connection) => void) {
    this.#address = address;
    const { hostname, port } = new URL(`http://${address}`);
    this.#socket = connect({
      host: hostname.replace(/^\[|\]$/g, ""),
      port: Number(port),
      noDelay: true,
      onread: {
        buffer: Buffer.allocUnsafeSlow(bufferBytes),
        callback: (count, buffer) => {
          this.#take((buffer as Buffer).subarray(0, count));
          return true;
        },
      },
    });
    const end = (why: string) => {
      this.#isEnded = true;
      this.#exchange?.end(why);
    };
    this.#socket.on("timeout", () => {
      this.#exchange?.fail(late(this.#address));
      this.#socket.destroy();
    });
    this.#socket.on("error", (error) => end(messageOf(error)));
    this.#socket.on("end", () => this.#socket.destroy());
    this.#socket.on("close", () => {
      end("the connection was closed");
      onEnd(this);
    });
  }

  /** Whether nothing was sent on it yet. */
  get isFresh(): boolean {
    return this.#isFresh;
  }

  /** Whether another request may be sent on it. */
  get isUsable(): boolean {
    return !this.#isEnded && this.#exchange === undefined && !this.#socket.destroyed;
  }

  exchange({
    path,
    headers,
    timeoutMs,
    signal,
    onLength,
    onPart,
  }: LeanGetOptions): Promise<Outcome> {
    return new Promise((resolve) => {
      const onAbort = () => {
        this.#exchange?.fail(nobodyWaits());
        this.#socket.destroy();
      };
      const settle = (outcome: Outcome) => {
        signal?.removeEventListener("abort", onAbort);
        this.#exchange = undefined;
        resolve(outcome);
      };
      this.#isFresh = false;
      this.#exchange = new Exchange(this.#address, { onLength, onPart, settle });
      if (signal?.aborted) {
        onAbort();
        return;
      }
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#socket.setTimeout(timeoutMs);
      const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
      this.#socket.write(`GET ${path} HTTP/1.1\r\nhost: ${this.#address}\r\n${lines.join("")}\r\n`);
    });
  }

  rest(limitMs: number): void {
    this.#socket.setTimeout(limitMs);
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #take(bytes: Buffer): void {
    if (this.#exchange === undefined) {
      // Nothing was asked for: whatever this is, the connection is out of step.
      this.#socket.destroy();
      return;
    }
    if (!this.#exchange.take(bytes)) this.#socket.destroy();
  }
}

interface ExchangeOptions {
  onLength: ((bytes: number) => void) | undefined;
  onPart: (part: Buffer) => void;
  settle: (outcome: Outcome) => void;
}

/** Reads one answer out of what comes in. */
class Exchange {
  readonly #address: string;
  readonly #options: ExchangeOptions;
  #head = "";
  #status = 0;
  #bodyBytes = -1;
  #readBytes = 0;
  #errorBody = "";
  #challenge: string | undefined;
  #closes = false;

  constructor(address: string, options: ExchangeOptions) {
    this.#address = address;
    this.#options = options;
  }

  /** Returns whether the connection may go on. */
  take(bytes: Buffer): boolean {
    try {
      const rest = this.#bodyBytes < 0 ? this.#takeHead(bytes) : bytes;
      if (rest === undefined) return true;
      if (this.#readBytes + rest.length > this.#bodyBytes) return this.#refuse("it sent too much");
      this.#takeBody(rest);
    } catch (error) {
      // What the receiver of the parts throws is the receiver's answer.
      this.fail(
        error instanceof Failure
          ? error
          : new Failure("internal", "Cannot take what came in", { cause: error }),
      );
      return false;
    }
    if (this.#readBytes < this.#bodyBytes) return true;
    this.#options.settle({
      status: this.#status,
      errorBody: this.#errorBody,
      challenge: this.#challenge,
    });
    return !this.#closes;
  }

  /** The connection is gone. */
  end(why: string): void {
    const isUntouched = this.#status === 0 && this.#head === "";
    if (isUntouched) this.#options.settle("closed-before");
    else this.#refuse(why);
  }

  fail(failure: Failure): void {
    this.#options.settle(failure);
  }

  #refuse(why: string): false {
    this.fail(
      new Failure("unavailable", `Cannot GET at ${this.#address}: ${why}`, {
        retryAfterSeconds: 1,
      }),
    );
    return false;
  }

  /** What follows the head, once it is whole. */
  #takeHead(bytes: Buffer): Buffer | undefined {
    const before = this.#head.length;
    this.#head += bytes.toString("latin1", 0, Math.min(bytes.length, headBytesMax));
    const end = this.#head.indexOf("\r\n\r\n", Math.max(before - 3, 0));
    if (end < 0) {
      if (this.#head.length > headBytesMax) this.#refuse("its head is too long");
      return undefined;
    }
    const head = this.#head.slice(0, end + 2);
    const status = /^HTTP\/1\.1 ([0-9]{3})[ \r]/.exec(head)?.[1];
    const length = /\r\ncontent-length: *([0-9]+) *\r\n/i.exec(head)?.[1];
    if (status === undefined || length === undefined) {
      throw new Failure("unavailable", `Cannot GET at ${this.#address}: its answer has no length`);
    }
    this.#status = Number(status);
    this.#bodyBytes = Number(length);
    this.#closes = /\r\nconnection: *close *\r\n/i.test(head);
    if (this.#status < 400) this.#options.onLength?.(this.#bodyBytes);
    else this.#challenge = challengeLine.exec(head)?.[1];
    return bytes.subarray(end + 4 - before);
  }

  #takeBody(part: Buffer): void {
    this.#readBytes += part.length;
    if (part.length === 0) return;
    if (this.#status < 400) this.#options.onPart(part);
    else if (this.#errorBody.length < errorBytesMax) this.#errorBody += part.toString("utf8");
  }
}

function late(address: string): Failure {
  return new Failure("timeout", `Cannot GET at ${address}: no answer in time`, {
    retryAfterSeconds: 1,
  });
}

function nobodyWaits(): Failure {
  return new Failure("unavailable", "Cannot GET: nobody waits for it any more");
}
