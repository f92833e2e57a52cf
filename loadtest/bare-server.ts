/**
 * The baseline of the benchmark: node:http and nothing else, in a process of its own.
 *
 *     node loadtest/bare-server.ts ANSWERS
 *
 * ANSWERS is a JSON file (`BareAnswers`): what to answer to a GET, and to a body that was read and
 * dropped. The address it listens on is its first line of output; it ends with its standard input.
 */

import { readFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface BareAnswer {
  status: number;
  headers: Record<string, string>;
  bodyBase64: string;
}

/** Taken from real answers of the server under test: same bytes, same headers. */
export interface BareAnswers {
  get: BareAnswer;
  post: BareAnswer;
}

function main(file: string): void {
  const answers = JSON.parse(readFileSync(file, "utf8")) as BareAnswers;
  const get = prepare(answers.get);
  const post = prepare(answers.post);
  const server = createServer((request, response) => {
    if (request.method === "GET") {
      get(response);
      return;
    }
    request.on("data", () => {});
    request.on("end", () => post(response));
  });
  server.listen(0, "127.0.0.1", () => {
    console.log(`127.0.0.1:${(server.address() as AddressInfo).port}`);
  });
  process.stdin.on("end", () => process.exit(0)).resume();
}

function prepare({ status, headers, bodyBase64 }: BareAnswer): (response: ServerResponse) => void {
  const body = Buffer.from(bodyBase64, "base64");
  // A flat list is the cheapest form that writeHead takes.
  const list = Object.entries(headers).flat();
  return (response) => {
    response.writeHead(status, list);
    response.end(body);
  };
}

if (import.meta.main) main(process.argv[2] ?? "");
