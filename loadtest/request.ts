/**
 * One HTTP request as the runs need it: the path goes out as it is given, never normalised, and any
 * status is an answer. Only a connection that fails, or a deadline that passes, is an error.
 */

import { Agent, request as httpRequest, type IncomingHttpHeaders } from "node:http";
import { Failure, systemErrorCode } from "../base/failure.ts";

export interface RequestOptions {
  /** `host:port`. */
  address: string;
  method?: string;
  /** Path with query, encoded. */
  path: string;
  headers?: Record<string, string>;
  body?: Uint8Array | string;
  /** From the first byte sent to the last byte received. */
  timeoutMs?: number;
}

export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

export interface Credentials {
  accessKey: string;
  secretKey: string;
}

const agent = new Agent({ keepAlive: true, maxSockets: 256 });

export function request({
  address,
  method = "GET",
  path,
  headers = {},
  body,
  timeoutMs = 20_000,
}: RequestOptions): Promise<Answer> {
  const { hostname, port } = new URL(`http://${address}`);
  const length = body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) };
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({
      agent,
      hostname,
      port,
      method,
      path,
      headers: { ...length, ...headers },
    });
    const deadline = setTimeout(() => {
      outgoing.destroy();
      reject(new Failure("timeout", `Cannot ${method} ${path}: no answer within ${timeoutMs} ms`));
    }, timeoutMs);
    const fail = (error: Error) => {
      clearTimeout(deadline);
      reject(error);
    };
    outgoing.on("error", fail);
    outgoing.on("response", (incoming) => {
      const parts: Buffer[] = [];
      incoming.on("data", (part: Buffer) => parts.push(part));
      incoming.on("error", fail);
      incoming.on("end", () => {
        clearTimeout(deadline);
        const status = incoming.statusCode ?? 0;
        resolve({ status, headers: incoming.headers, body: Buffer.concat(parts) });
      });
    });
    outgoing.end(body);
  });
}

/** Whether a failed request never left: nobody listened. */
export function isUnsent(error: unknown): boolean {
  return systemErrorCode(error) === "ECONNREFUSED";
}

export function basicAuth({ accessKey, secretKey }: Credentials): string {
  return `Basic ${Buffer.from(`${accessKey}:${secretKey}`).toString("base64")}`;
}

/** A key as it stands in a path: every byte that could mean something is escaped, but for `/`. */
export function encodeKey(key: string): string {
  return key.split("/").map(encodeURIComponent).join("/");
}

/** The sum of a metric's samples whose labels include all of `labels`, out of a `/metrics` page. */
export function sumMetric(page: string, name: string, labels: Record<string, string> = {}): number {
  let sum = 0;
  for (const line of page.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match === null || match[1] !== name) continue;
    const text = match[2] ?? "";
    const isMatch = Object.entries(labels).every(([label, value]) =>
      text.includes(`${label}="${value}"`),
    );
    if (isMatch) sum += Number(match[3]);
  }
  return sum;
}
