/**
 * HTTP by hand, for what a client library would mend or refuse: every byte goes out as it is written,
 * and the connection can be cut where it hurts.
 */

import { connect, type Socket } from "node:net";
import { Failure } from "../base/failure.ts";

export interface RawRequest {
  method: string;
  /** As it stands in the request line; a Buffer for bytes that are no text. */
  target: string | Buffer;
  headers?: Record<string, string>;
  /** Sent as it is. Its length is announced unless `headers` says something else about that. */
  body?: Buffer | string;
}

export interface RawAnswer {
  status: number;
  /** By lower-case name. */
  headers: Map<string, string>;
  /** All that came before the connection was closed. */
  body: Buffer;
}

const answerLimitMs = 15_000;

/** Sends the request and reads until the server closes, which it is asked to. */
export async function sendRaw(address: string, request: RawRequest): Promise<RawAnswer> {
  const socket = await open(address);
  const answered = readAnswer(socket, request.method);
  socket.write(encode(address, request));
  try {
    return await answered;
  } finally {
    socket.destroy();
  }
}

/** Sends a part of the request and cuts the connection. */
export async function sendCut(address: string, request: RawRequest): Promise<void> {
  const socket = await open(address);
  socket.resume();
  await new Promise<void>((resolve) => {
    socket.on("error", () => undefined); // the server may cut it first
    socket.on("close", () => resolve());
    // Given to the kernel before the end, so that the server does see this much.
    socket.write(encode(address, request), () => setTimeout(() => socket.resetAndDestroy(), 50));
  });
}

function open(address: string): Promise<Socket> {
  const { hostname, port } = new URL(`http://${address}`);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => {
      socket.off("error", reject);
      resolve(socket);
    });
    socket.once("error", reject);
  });
}

function encode(address: string, { method, target, headers = {}, body = "" }: RawRequest): Buffer {
  const all: Record<string, string> = { Host: address, Connection: "close", ...headers };
  const names = Object.keys(all).map((name) => name.toLowerCase());
  if (!names.includes("content-length") && !names.includes("transfer-encoding") && body !== "") {
    all["Content-Length"] = String(Buffer.byteLength(body));
  }
  const head = Object.entries(all)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
  return Buffer.concat([
    Buffer.from(`${method} `),
    Buffer.from(target),
    Buffer.from(` HTTP/1.1\r\n${head}\r\n`),
    Buffer.from(body),
  ]);
}

function readAnswer(socket: Socket, method: string): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    const late = setTimeout(() => {
      reject(new Failure("timeout", `Cannot ${method}: no whole answer in ${answerLimitMs} ms`));
    }, answerLimitMs);
    const finish = () => {
      clearTimeout(late);
      const answer = parseAnswer(Buffer.concat(parts));
      if (answer === undefined) {
        reject(new Failure("unavailable", `Cannot ${method}: the connection ended in the answer`));
      } else {
        resolve(answer);
      }
    };
    socket.on("data", (part) => {
      parts.push(part);
      // A server that still waits for a body has answered all the same.
      const answer = parseAnswer(Buffer.concat(parts));
      const announced = answer?.headers.get("content-length");
      if (
        method !== "HEAD" &&
        announced !== undefined &&
        answer?.body.length === Number(announced)
      ) {
        finish();
      }
    });
    socket.on("end", finish);
    // What was sent too much ends in a reset; an answer may have come before it.
    socket.on("error", finish);
    socket.on("close", finish);
  });
}

function parseAnswer(bytes: Buffer): RawAnswer | undefined {
  const end = bytes.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const [statusLine = "", ...lines] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(statusLine)?.[1] ?? Number.NaN);
  const rest = bytes.subarray(end + 4);
  if (status === 100) return parseAnswer(rest);
  const headers = new Map(
    lines.map((line): [string, string] => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const isChunked = headers.get("transfer-encoding") === "chunked";
  return { status, headers, body: isChunked ? joinChunks(rest) : rest };
}

function joinChunks(bytes: Buffer): Buffer {
  const chunks: Buffer[] = [];
  for (let at = 0; ; ) {
    const end = bytes.indexOf("\r\n", at);
    const length = Number.parseInt(bytes.subarray(at, end).toString("latin1"), 16);
    if (end < 0 || !(length > 0)) return Buffer.concat(chunks);
    chunks.push(bytes.subarray(end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
}

/** A body as chunked transfer encoding writes it. */
export function encodeChunked(body: Buffer): Buffer {
  return Buffer.concat([
    Buffer.from(`${body.length.toString(16)}\r\n`),
    body,
    Buffer.from("\r\n0\r\n\r\n"),
  ]);
}
