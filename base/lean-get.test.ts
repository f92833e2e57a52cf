import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createServer as createRawServer, type Server as RawServer } from "node:net";
import { afterEach, expect, test } from "vitest";
import { LeanGetter } from "./lean-get.ts";
import { seededRandom } from "./random.ts";

const open: { close: () => void }[] = [];

afterEach(() => {
  for (const each of open.splice(0)) each.close();
});

function listen(server: Server | RawServer): Promise<string> {
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      resolve(`127.0.0.1:${(server.address() as AddressInfo).port}`);
    });
  });
}

async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  open.push({
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  });
  return await listen(server);
}

/** A server that answers each request's bytes with these pieces, then ends the connection if asked to. */
async function serveRaw(pieces: string[], { ends = false } = {}): Promise<string> {
  const server = createRawServer((socket) => {
    socket.on("error", () => undefined);
    socket.on("data", () => {
      void (async () => {
        for (const piece of pieces) {
          socket.write(piece);
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
        if (ends) socket.destroy();
      })();
    });
  });
  open.push({ close: () => server.close() });
  return await listen(server);
}

function makeGetter(connectionsMax?: number): LeanGetter {
  const getter = new LeanGetter(connectionsMax === undefined ? {} : { connectionsMax });
  open.push(getter);
  return getter;
}

async function read(getter: LeanGetter, address: string, path = "/", timeoutMs = 2_000) {
  const parts: Buffer[] = [];
  const { status, errorBody } = await getter.get({
    address,
    path,
    headers: { "x-test": "yes" },
    timeoutMs,
    onPart: (part) => parts.push(Buffer.from(part)),
  });
  return { status, errorBody, body: Buffer.concat(parts) };
}

test("Bodies of every size come through, over connections that are used again", async () => {
  const random = seededRandom(5);
  const bodies = [0, 1, 100, 65_536, 131_072, 1_000_003].map((size) => random.bytes(size));
  const sockets = new Set<unknown>();
  const address = await serve((request, response) => {
    sockets.add(request.socket);
    expect(request.headers["x-test"]).toBe("yes");
    response.setHeader("content-length", bodies[Number(request.url?.slice(1))]?.length ?? 0);
    response.end(bodies[Number(request.url?.slice(1))]);
  });
  const getter = makeGetter();
  for (const [at, body] of bodies.entries()) {
    expect((await read(getter, address, `/${at}`)).body.equals(body)).toBe(true);
  }
  expect(sockets.size).toBe(1);
  await Promise.all(
    Array.from({ length: 40 }, async (_, at) => {
      const { body } = await read(getter, address, `/${at % bodies.length}`);
      expect(body.equals(bodies[at % bodies.length] ?? body)).toBe(true);
    }),
  );
});

test("No more connections are open than may be", async () => {
  const sockets = new Set<unknown>();
  const address = await serve((request, response) => {
    sockets.add(request.socket);
    setTimeout(() => {
      response.setHeader("content-length", 2);
      response.end("ok");
    }, 5);
  });
  const getter = makeGetter(3);
  await Promise.all(Array.from({ length: 20 }, () => read(getter, address)));
  expect(sockets.size).toBe(3);
});

test("An answer of 400 or more is an answer, and nothing of it a part", async () => {
  const address = await serve((_request, response) => {
    response.writeHead(404, { "content-length": 4 }).end("gone");
  });
  expect(await read(makeGetter(), address)).toMatchObject({
    status: 404,
    errorBody: "gone",
    body: Buffer.alloc(0),
  });
});

test("A head that comes in pieces is read", async () => {
  const address = await serveRaw([
    "HTTP/1.1 200 O",
    "K\r\ncontent-len",
    "gth: 5\r\n\r",
    "\nhel",
    "lo",
  ]);
  expect((await read(makeGetter(), address)).body.toString()).toBe("hello");
});

test("What is cut short, too long, without a length or no HTTP is a failure", async () => {
  for (const pieces of [
    ["HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345"],
    ["HTTP/1.1 200 OK\r\ncontent-le"],
    ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n12345"],
    ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"],
    ["hello\r\n\r\n"],
    [`HTTP/1.1 200 OK\r\nx: ${"y".repeat(40_000)}`],
  ]) {
    const address = await serveRaw(pieces, { ends: true });
    await expect(read(makeGetter(), address), pieces[0]).rejects.toMatchObject({
      kind: "unavailable",
    });
  }
});

test("A connection that was closed while idle costs nobody an answer", async () => {
  let count = 0;
  const address = await serve((request, response) => {
    count += 1;
    response.setHeader("content-length", 1);
    response.end("x");
    response.on("finish", () => setTimeout(() => request.socket.destroy(), 10));
  });
  const getter = makeGetter();
  for (let round = 0; round < 5; round++) {
    expect((await read(getter, address)).body.toString()).toBe("x");
    await new Promise((resolve) => setTimeout(resolve, round * 6));
  }
  expect(count).toBeGreaterThanOrEqual(5);
});

test("Nobody there, nobody answering, nobody waiting: each ends in its time", async () => {
  const getter = makeGetter();
  await expect(read(getter, "127.0.0.1:1")).rejects.toMatchObject({ kind: "unavailable" });
  const silent = await serve(() => undefined);
  await expect(read(getter, silent, "/", 100)).rejects.toMatchObject({ kind: "timeout" });
  const stop = new AbortController();
  const waiting = getter.get({
    address: silent,
    path: "/",
    headers: {},
    timeoutMs: 5_000,
    signal: stop.signal,
    onPart: () => undefined,
  });
  setTimeout(() => stop.abort(), 20);
  await expect(waiting).rejects.toMatchObject({ kind: "unavailable" });
});

test("What the receiver throws is the failure", async () => {
  const address = await serve((_request, response) => {
    response.setHeader("content-length", 3);
    response.end("abc");
  });
  const getter = makeGetter();
  const answer = getter.get({
    address,
    path: "/",
    headers: {},
    timeoutMs: 1_000,
    onPart: () => {
      throw new Error("no room");
    },
  });
  await expect(answer).rejects.toMatchObject({ kind: "internal" });
  expect((await read(getter, address)).body.toString()).toBe("abc");
});
