/**
 * A server of node:http whose hot call, the GET of a fid, does not pass through node:http: simple
 * requests are read and answered here, straight from and to the socket. At the first request of another
 * kind its connection goes over to node:http, with all that was not answered yet, and stays there.
 *
 * Invariants:
 * - Never laxer than node:http: what is not simple to the last byte (lean-head.ts) is not answered here.
 * - Answers leave in the order of the requests: while one is awaited, or the reader is behind, nothing
 *   more is read, and a connection goes over only when all before was given to its socket.
 * - A connection holds one piece of input and one answer, or one piece of a large one.
 */

import assert from "node:assert/strict";
import { type RequestListener, Server, type ServerOptions } from "node:http";
import type { Socket } from "node:net";
import type { Fid } from "../base/fid.ts";
import { HeadReader } from "./lean-head.ts";
import { httpDate } from "./read-headers.ts";

export interface LeanAnswer {
  /** Header lines of a 200, each with its end; those that node:http adds by itself are added here. */
  headers: string;
  /** All of the body, or its beginning if there is a `rest`. */
  body: Buffer;
  rest?: AsyncIterable<Buffer>;
  /** Called once, when nobody looks at `body` nor asks for more of `rest`. */
  release?: () => void;
}

export interface LeanOptions {
  /** The blob, or undefined or a failure if `handle` is to answer instead. */
  find: (fid: Fid) => LeanAnswer | undefined | Promise<LeanAnswer | undefined>;
  /** Whether a request with this signature may have it. */
  admits: (signature: string) => boolean;
  /** Answers all other requests. */
  handle: RequestListener;
  /** Told why an answer was cut off in the middle. */
  onCut: (error: unknown) => void;
  /** Between two looks at who is idle. */
  sweepMs?: number;
  http?: ServerOptions;
}

/** Up to here copying head and body together costs less than handing over two pieces. */
const copyBytesMax = 16_384;
const outputBytes = 65_536;
/** For the kernel to take an answer, or one piece of it, or for the answer to be found. */
const busyMsMax = 60_000;
const nothing: Buffer = Buffer.alloc(0);
const badRequest = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";

export class LeanServer extends Server {
  readonly #byHttp: (socket: Socket) => void;
  readonly #connections = new Set<Connection>();
  readonly #turn = new TurnOutput();
  #ownHeaders = { second: 0, lines: "" };

  constructor(options: LeanOptions) {
    super(options.http ?? {}, options.handle);
    const [byHttp, ...others] = this.listeners("connection");
    assert(byHttp !== undefined && others.length === 0, "node:http listens for connections");
    this.#byHttp = byHttp as (socket: Socket) => void;
    this.removeAllListeners("connection");
    this.on("connection", (socket: Socket) => {
      this.#connections.add(new Connection(socket, this, options));
    });
    const { sweepMs = 1_000 } = options;
    this.on("listening", () => {
      const sweep = setInterval(() => this.#sweep(), sweepMs).unref();
      this.once("close", () => clearInterval(sweep));
    });
  }

  override closeIdleConnections(): void {
    this.#turn.flush();
    for (const connection of this.#connections) {
      if (connection.isIdle) connection.destroy();
    }
    super.closeIdleConnections();
  }

  override closeAllConnections(): void {
    for (const connection of this.#connections) connection.destroy();
    super.closeAllConnections();
  }

  /** The connection is closed, or no longer served here. */
  forget(connection: Connection): void {
    this.#connections.delete(connection);
  }

  serveByHttp(socket: Socket): void {
    this.#byHttp.call(this, socket);
  }

  /** Gives the answers of this turn to their sockets now. */
  flush(): void {
    this.#turn.flush();
  }

  send(connection: Connection, { headers, body, release }: LeanAnswer): void {
    const head = `HTTP/1.1 200 OK\r\n${headers}${this.#commonHeaders()}\r\n`;
    if (head.length + body.length <= copyBytesMax) {
      this.#turn.add(connection, head, body);
      release?.();
      return;
    }
    this.#turn.flush(); // may hold earlier answers of the connection
    const { socket } = connection;
    socket.cork();
    socket.write(head, "latin1");
    socket.write(body);
    socket.uncork();
    if (socket.writableLength === 0) release?.();
    else socket.write("", () => release?.());
    connection.written();
  }

  /** What node:http adds to an answer. */
  #commonHeaders(): string {
    const second = Math.floor(Date.now() / 1_000);
    if (second !== this.#ownHeaders.second) {
      const date = `Date: ${httpDate(second * 1_000)}\r\nConnection: keep-alive\r\n`;
      const keepAlive = `Keep-Alive: timeout=${Math.floor(this.keepAliveTimeout / 1_000)}\r\n`;
      this.#ownHeaders = { second, lines: this.keepAliveTimeout > 0 ? date + keepAlive : date };
    }
    return this.#ownHeaders.lines;
  }

  #sweep(): void {
    const nowMs = performance.now();
    const idleMsMax = this.keepAliveTimeout > 0 ? this.keepAliveTimeout : Infinity;
    for (const connection of this.#connections) connection.age(nowMs, idleMsMax);
  }
}

/**
 * The small answers of one turn of the event loop, given to their sockets at its end, right after one
 * another (answer-batch.ts tells why), out of one buffer that is used over and over.
 */
class TurnOutput {
  #bytes: Buffer = Buffer.allocUnsafeSlow(outputBytes);
  #length = 0;
  #parts: { connection: Connection; start: number }[] = [];

  add(connection: Connection, head: string, body: Buffer): void {
    if (this.#length + head.length + body.length > outputBytes) this.flush();
    const last = this.#parts.at(-1);
    if (last === undefined) setImmediate(() => this.flush());
    if (last?.connection !== connection) this.#parts.push({ connection, start: this.#length });
    this.#bytes.write(head, this.#length, "latin1");
    this.#bytes.set(body, this.#length + head.length);
    this.#length += head.length + body.length;
  }

  flush(): void {
    if (this.#length === 0) return;
    const bytes = this.#bytes;
    const parts = this.#parts;
    const end = this.#length;
    this.#parts = [];
    this.#length = 0;
    let isTaken = true;
    for (const [at, { connection, start }] of parts.entries()) {
      const next = parts[at + 1]?.start ?? end;
      if (connection.socket.destroyed) continue;
      connection.socket.write(bytes.subarray(start, next));
      if (connection.socket.writableLength > 0) isTaken = false;
    }
    // The kernel mostly takes all at once, and then nobody looks at these bytes any more.
    if (!isTaken) this.#bytes = Buffer.allocUnsafeSlow(outputBytes);
    for (const { connection } of parts) connection.written();
  }
}

/** A connection while it is served here. */
class Connection {
  readonly socket: Socket;
  readonly #server: LeanServer;
  readonly #options: LeanOptions;
  readonly #head: HeadReader;
  /** What came in and is not answered. */
  #input: Buffer = nothing;
  /** Whether `input` is the beginning of a head that may become simple. */
  #isPartial = false;
  /** Whether an answer is awaited, or the kernel has not taken all of one. */
  #isBusy = false;
  #isEnded = false;
  #hasAnswered = false;
  /** Since the last look. */
  #isActive = true;
  #idleSinceMs = 0;

  constructor(socket: Socket, server: LeanServer, options: LeanOptions) {
    this.socket = socket;
    this.#server = server;
    this.#options = options;
    this.#head = new HeadReader(options.admits);
    socket.on("data", this.#onData);
    socket.on("end", this.#onEnd);
    socket.on("close", this.#onClose);
    socket.on("error", ignore); // what matters of it is the close that follows
  }

  get isIdle(): boolean {
    return !this.#isBusy && this.#input.length === 0;
  }

  destroy(): void {
    this.socket.destroy();
  }

  /** Called at each look at who is idle. */
  age(nowMs: number, idleMsMax: number): void {
    if (this.#isActive) {
      this.#isActive = false;
      this.#idleSinceMs = nowMs;
      return;
    }
    const idleMs = nowMs - this.#idleSinceMs;
    if (this.#isBusy || this.#isEnded) {
      if (idleMs > busyMsMax) this.destroy();
    } else if (idleMs > idleMsMax) {
      if (this.isIdle && this.#hasAnswered) this.destroy();
      else this.#handOver(); // node:http has a limit for heads that do not come
    }
  }

  readonly #onData = (bytes: Buffer): void => {
    this.#isActive = true;
    this.#input = this.#input.length === 0 ? bytes : Buffer.concat([this.#input, bytes]);
    if (this.#isBusy) this.socket.pause();
    else this.#serve();
  };

  readonly #onEnd = (): void => {
    this.#isEnded = true;
    if (!this.#isBusy) this.#finish();
  };

  readonly #onClose = (): void => {
    this.#server.forget(this);
    this.#input = nothing;
  };

  /** Answers what came in, as far as that goes without waiting. */
  #serve(): void {
    const text = this.#input.toString("latin1");
    let at = 0;
    while (at < text.length && !this.#isBusy && !this.socket.destroyed) {
      const reading = this.#head.read(text, at);
      // A head in more than two pieces is left to node:http: reading it over and over would cost.
      if (reading === "partial" && !this.#isPartial) {
        this.#isPartial = true;
        break;
      }
      const found = reading === "simple" ? this.#find() : undefined;
      if (found === undefined) {
        this.#input = this.#input.subarray(at);
        this.#handOver();
        return;
      }
      this.#isPartial = false;
      const length = this.#head.end - at;
      if (found instanceof Promise) {
        this.#isBusy = true;
        found.then(
          (answer) => this.#settle(answer, length),
          () => this.#settle(undefined, length),
        );
        break;
      }
      at += length;
      this.#send(found);
    }
    this.#input = at === text.length ? nothing : this.#input.subarray(at);
    if (this.#isEnded && !this.#isBusy) this.#finish();
  }

  /** A failure is found once more by who answers with it. */
  #find(): ReturnType<LeanOptions["find"]> {
    try {
      return this.#options.find(this.#head.fid);
    } catch {
      return undefined;
    }
  }

  /** Goes on with what was awaited: the answer to the first `length` bytes of the input. */
  #settle(answer: LeanAnswer | undefined, length: number): void {
    if (this.socket.destroyed) {
      answer?.release?.();
      return;
    }
    this.#isBusy = false;
    if (answer === undefined) {
      this.#handOver();
      return;
    }
    this.#input = this.#input.subarray(length);
    this.#send(answer);
    if (!this.#isBusy) this.#goOn();
  }

  #send(answer: LeanAnswer): void {
    this.#isActive = true;
    this.#hasAnswered = true;
    const { headers, body, rest, release } = answer;
    if (rest === undefined) {
      this.#server.send(this, answer);
      return;
    }
    this.#isBusy = true;
    this.#server.send(this, { headers, body });
    this.#sendRest(rest)
      .finally(release)
      .then(this.#goOn, (error: unknown) => {
        // Too late for a status: a cut connection is the only honest end.
        this.destroy();
        this.#options.onCut(error);
      });
  }

  /** Called when answers were given to the socket. */
  written(): void {
    if (this.#isBusy || this.socket.writableLength === 0) return;
    this.#isBusy = true;
    this.#taken().then(this.#goOn, ignore);
  }

  async #sendRest(pieces: AsyncIterable<Buffer>): Promise<void> {
    for await (const piece of pieces) {
      await this.#taken();
      if (this.socket.destroyed) return;
      this.#isActive = true;
      this.socket.write(piece);
    }
    await this.#taken();
  }

  /** Resolves when the kernel has taken all that was written, or the connection is closed. */
  #taken(): Promise<void> {
    return new Promise((resolve) => this.socket.write("", () => resolve()));
  }

  readonly #goOn = (): void => {
    if (this.socket.destroyed) return;
    this.#isActive = true;
    this.#isBusy = false;
    this.written(); // what came since then may not be taken
    if (this.#isBusy) return;
    this.#serve();
    if (!this.#isBusy && this.socket.isPaused()) this.socket.resume();
  };

  /** The other side has sent all it wanted to. */
  #finish(): void {
    this.#server.flush();
    if (this.#isBusy) return; // the last answer is on its way
    if (this.#input.length > 0) this.socket.write(badRequest); // it ends within a head
    this.socket.end();
  }

  /** Gives the connection, with the input, to node:http. */
  #handOver(): void {
    const socket = this.socket;
    if (socket.destroyed) return;
    this.#isBusy = true; // for ever: nothing more is read here
    this.#server.flush();
    if (this.#isEnded) {
      // Nothing can be put back any more; node:http would not answer either.
      socket.end();
      return;
    }
    this.#server.forget(this);
    socket.off("data", this.#onData);
    socket.off("end", this.#onEnd);
    socket.off("close", this.#onClose);
    socket.off("error", ignore);
    socket.pause(); // else what is put back could come before anyone listens
    if (this.#input.length > 0) socket.unshift(this.#input);
    this.#server.serveByHttp(socket);
    socket.resume();
  }
}

function ignore(): void {}
