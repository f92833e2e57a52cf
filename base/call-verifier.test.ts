import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import {
  formatSignature,
  parseSignature,
  type SignedCall,
  signatureHeader,
  windowMs,
} from "./call-signature.ts";
import { CallSigner, type CallToSign, signingsMax } from "./call-signer.ts";
import { CallVerifier } from "./call-verifier.ts";
import { ClusterSecret } from "./cluster-secret.ts";
import { Caller } from "./http-call.ts";
import { answerFailure, answerJson, closeServer, listen, readBody } from "./http-serve.ts";
import { LeanGetter } from "./lean-get.ts";
import { makeLog } from "./log.ts";
import { seededRandom } from "./random.ts";

const old = "ab".repeat(32);
const secret = ClusterSecret.of(old);
const address = "127.0.0.1:1";
const log = makeLog("test", "silent");

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

/** A machine whose wall clock nobody may need, and whose other one begins anywhere. */
class Machine {
  nowMs = (): number => {
    throw new Error("the wall clock was asked");
  };
  monotonicMs = (): number => this.elapsedMs;
  elapsedMs: number;

  constructor(elapsedMs: number) {
    this.elapsedMs = elapsedMs;
  }
}

function headersOf({ headers }: CallToSign, signature: string): SignedCall["headers"] {
  return { ...headers, [signatureHeader]: signature };
}

/** Calls as a Caller does; returns how often it had to sign, or why it was refused. */
function talk(signer: CallSigner, verifier: CallVerifier, call: CallToSign): number | string {
  for (let signings = 1; ; signings++) {
    const signature = signer.sign(call);
    const refusal = verifier.check({ ...call, headers: headersOf(call, signature) });
    if (refusal === undefined) return signings;
    if (signings === signingsMax || !signer.learn(call.address, signature, refusal.challenge)) {
      return refusal.failure.message;
    }
  }
}

const get: CallToSign = { address, method: "GET", path: "/3,01637037d6", headers: {} };
const post: CallToSign = {
  ...{ address, method: "POST", path: "/volumes/3/needles?a=1", body: "hay" },
  headers: { "x-hayloft-owner": "c:1", "x-hayloft-metadata": "e30=", range: "bytes=0-1" },
};

test("A call is let in after the first has told which run answers, and then at once", () => {
  const verifier = new CallVerifier(secret);
  const signer = new CallSigner(secret);
  expect(talk(signer, verifier, get)).toBe(2);
  for (const call of [get, post, post, get]) expect(talk(signer, verifier, call)).toBe(1);
  // A restart, or another process at the same address.
  const next = new CallVerifier(secret);
  expect(talk(signer, next, post)).toBe(2);
  expect(talk(signer, next, post)).toBe(1);
});

test("Any change of any signed part is refused", () => {
  const verifier = new CallVerifier(secret);
  const signer = new CallSigner(secret);
  talk(signer, verifier, get);
  const changes = fc.record({
    part: fc.constantFrom("method", "path", "signature", "value", "name", "more", "less"),
    at: fc.nat(),
    byte: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)),
  });
  const change = (text: string, at: number, byte: string) => {
    const place = at % text.length;
    return text.slice(0, place) + byte + text.slice(place + 1);
  };
  fc.assert(
    fc.property(fc.constantFrom(get, post), changes, (call, { part, at, byte }) => {
      const signature = signer.sign(call);
      let { method, path: target } = call;
      let headers: Record<string, string> = { ...headersOf(call, signature) } as never;
      const names = Object.keys(call.headers);
      const name = names[at % Math.max(names.length, 1)] ?? "x-hayloft-owner";
      if (part === "method") method = change(method, at, byte);
      else if (part === "path") target = change(target, at, byte);
      else if (part === "signature") headers[signatureHeader] = change(signature, at, byte);
      else if (part === "value") headers[name] = change(headers[name] ?? "x", at, byte);
      else if (part === "more") headers["x-hayloft-durability"] = byte;
      else if (part === "less") delete headers[name];
      else {
        const { [name]: value = "x", ...rest } = headers;
        headers = { ...rest, [`${name}${byte}`]: value };
      }
      const before = { method: call.method, path: call.path, ...headersOf(call, signature) };
      fc.pre(JSON.stringify({ method, path: target, ...headers }) !== JSON.stringify(before));
      // A header whose new name means nothing, and one that was not there.
      const refusal = verifier.check({ method, path: target, headers });
      expect(refusal?.failure.kind).toBe("forbidden");
      if (part !== "signature") expect(refusal?.challenge).toBeUndefined();
    }),
    { numRuns: 3_000 },
  );
});

test("Each field of a signature is covered by its MAC, also where it stays well formed", () => {
  const verifier = new CallVerifier(secret);
  const signer = new CallSigner(secret);
  talk(signer, verifier, post);
  const text = signer.sign(post);
  const signature = parseSignature(text);
  if (signature === undefined) throw new Error("it is one of ours");
  for (const other of [
    { run: "1".repeat(16) },
    { timeMs: signature.timeMs + 1 },
    { caller: "1".repeat(16) },
    { count: signature.count + 1 },
    { body: "-" },
    { body: "1".repeat(64) },
    { mac: "A".repeat(43) },
  ]) {
    const changed = formatSignature({ ...signature, ...other });
    const refusal = verifier.check({ ...post, headers: headersOf(post, changed) });
    expect(refusal?.failure.message).toContain("another secret");
  }
  expect(verifier.check({ ...post, headers: headersOf(post, text) })).toBeUndefined();
});

test("A call that changes something is let in once, a read again", () => {
  const verifier = new CallVerifier(secret);
  const signer = new CallSigner(secret);
  talk(signer, verifier, get);
  const read = headersOf(get, signer.sign(get));
  const change = headersOf(post, signer.sign(post));
  for (const again of [false, true]) {
    expect(verifier.check({ ...get, headers: read })).toBeUndefined();
    const refusal = verifier.check({ ...post, headers: change });
    if (again) expect(refusal?.failure.message).toContain("came before");
    else expect(refusal).toBeUndefined();
  }
  // Nor at another process, nor at this one after a restart.
  const other = new CallVerifier(secret).check({ ...post, headers: change });
  expect(other?.failure.message).toContain("another run");
});

test("Signatures made in any order are let in, each once", async () => {
  const verifier = new CallVerifier(secret);
  const signer = new CallSigner(secret);
  const random = seededRandom(4);
  talk(signer, verifier, get);
  const calls = Array.from({ length: 2_000 }, () => headersOf(post, signer.sign(post)));
  calls.sort(() => random.fraction() - 0.5);
  for (const headers of calls) expect(verifier.check({ ...post, headers })).toBeUndefined();
  for (const headers of calls) expect(verifier.check({ ...post, headers })).toBeDefined();
});

test("Clocks may be apart, run apart and jump: a caller is told the time and let in", () => {
  const there = new Machine(5);
  const here = new Machine(9e9);
  const verifier = new CallVerifier(secret, { clock: there });
  const signer = new CallSigner(secret, { clock: here });
  expect(talk(signer, verifier, post)).toBe(2);
  expect(talk(signer, verifier, post)).toBe(1);
  const captured = headersOf(post, signer.sign(post));
  for (const jumpMs of [windowMs + 1, 3_600_000, 400 * 86_400_000]) {
    here.elapsedMs += jumpMs;
    const text = signer.sign(post);
    const refusal = verifier.check({ ...post, headers: headersOf(post, text) });
    expect(refusal?.failure.message).toContain(`${Math.round(jumpMs / 1_000)} s ahead`);
    expect(talk(signer, verifier, post)).toBe(2);
    there.elapsedMs += 2 * jumpMs;
    expect(talk(signer, verifier, post)).toBe(2);
    expect(talk(signer, verifier, post)).toBe(1);
  }
  // What was kept all the time is too old by now.
  expect(verifier.check({ ...post, headers: captured })?.failure.message).toContain("s ago");
});

test("A challenge that is not of the secret, not for this call, or changed teaches nothing", () => {
  const verifier = new CallVerifier(secret);
  const signer = new CallSigner(secret);
  const first = signer.sign(get);
  const second = signer.sign({ ...get, path: "/3,02637037d6" });
  const refusal = verifier.check({ ...get, headers: headersOf(get, first) });
  const challenge = refusal?.challenge ?? "";
  expect(signer.learn(address, second, challenge)).toBe(false);
  expect(signer.learn(address, first, challenge.replace(/:([0-9]+):/, ":1$1:"))).toBe(false);
  expect(signer.learn(address, first, undefined)).toBe(false);
  expect(signer.learn(address, first, "")).toBe(false);
  const stranger = new CallSigner(ClusterSecret.of("cd".repeat(32)));
  expect(stranger.learn(address, first, challenge)).toBe(false);
  expect(signer.learn(address, first, challenge)).toBe(true);
  // Who does not have the secret gets none.
  const unknown = verifier.check({ ...get, headers: headersOf(get, stranger.sign(get)) });
  expect(unknown?.challenge).toBeUndefined();
});

test("The secret is changed in three steps, in any order of the processes, without a call lost", () => {
  const next = "cd".repeat(32);
  const steps = [[old], [old, next], [next, old], [next]];
  for (let step = 1; step < steps.length; step++) {
    for (const [caller = [], callee = []] of [
      [steps[step - 1], steps[step]],
      [steps[step], steps[step - 1]],
      [steps[step], steps[step]],
    ]) {
      const signer = new CallSigner(ClusterSecret.of(...caller));
      const verifier = new CallVerifier(ClusterSecret.of(...callee));
      expect(talk(signer, verifier, post), `${step}`).toBe(2);
    }
  }
  const late = new CallSigner(ClusterSecret.of(old));
  expect(talk(late, new CallVerifier(ClusterSecret.of(next)), post)).toContain("another secret");
});

test("A pass reads blobs by their fids, again and again, and does nothing else", () => {
  const clock = new Machine(0);
  const verifier = new CallVerifier(secret, { clock });
  const signer = new CallSigner(secret, { clock });
  const early = signer.pass(address);
  expect(verifier.admitsRead(early)).toBe(false);
  const refusal = verifier.check({ ...get, headers: headersOf(get, early) });
  expect(signer.learn(address, early, refusal?.challenge)).toBe(true);
  const pass = signer.pass(address);
  for (const again of [1, 2]) {
    expect(verifier.admitsRead(pass), `${again}`).toBe(true);
    for (const method of ["GET", "HEAD"]) {
      const read = {
        ...get,
        method,
        headers: headersOf({ ...get, headers: { range: "x" } }, pass),
      };
      expect(verifier.check(read)).toBeUndefined();
    }
  }
  for (const [method, target] of [
    ...[
      ["GET", "/volumes"],
      ["GET", "/3,01637037d6?a=1"],
      ["GET", "/map"],
      ["GET", "/"],
    ],
    ...[
      ["POST", get.path],
      ["DELETE", get.path],
      ["PUT", get.path],
      ["POST", "/needles/delete"],
    ],
  ] as [string, string][]) {
    const call = { ...get, method, path: target };
    const refused = verifier.check({ ...call, headers: headersOf(call, pass) });
    expect(refused?.failure.message, `${method} ${target}`).toContain("for reading blobs alone");
  }
  for (let at = 0; at < pass.length; at++) {
    const changed = pass.slice(0, at) + (pass[at] === "1" ? "2" : "1") + pass.slice(at + 1);
    expect(verifier.admitsRead(changed), changed).toBe(false);
  }
  expect(verifier.admitsRead(signer.sign(get))).toBe(false);
  expect(new CallVerifier(secret, { clock }).admitsRead(pass)).toBe(false);
  expect(verifier.admitsRead(new CallSigner(ClusterSecret.of("cd".repeat(32))).pass(address))).toBe(
    false,
  );
  // Renewed long before it ends, and no good after that.
  clock.elapsedMs += 60_000;
  expect(signer.pass(address)).toBe(pass);
  clock.elapsedMs += 1;
  const next = signer.pass(address);
  expect(next).not.toBe(pass);
  clock.elapsedMs += windowMs - 60_001;
  expect(verifier.admitsRead(pass)).toBe(true);
  clock.elapsedMs += 1;
  expect(verifier.admitsRead(pass)).toBe(false);
  expect(verifier.admitsRead(next)).toBe(true);
});

test("A pass goes with the secret that it was made with", () => {
  const next = "cd".repeat(32);
  const folder = mkdtempSync(path.join(tmpdir(), "hayloft-pass-"));
  cleanUps.push(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, "token");
  const write = (text: string) => writeFileSync(file, text, { mode: 0o600 });
  write(old);
  const clock = new Machine(0);
  const shared = ClusterSecret.read(file, { clock });
  const verifier = new CallVerifier(shared, { clock });
  const signer = new CallSigner(shared, { clock });
  talk(signer, verifier, get);
  const pass = signer.pass(address);
  expect(verifier.admitsRead(pass)).toBe(true);
  for (const [text, isGood] of [
    [`${next}\n${old}`, true],
    [next, false],
  ] as const) {
    write(text);
    clock.elapsedMs += 1_000;
    expect(verifier.admitsRead(pass)).toBe(isGood);
    expect(verifier.admitsRead(signer.pass(address))).toBe(true);
  }
});

test("When too many processes have called, new ones are told to wait, and reads go on", () => {
  const clock = new Machine(0);
  const verifier = new CallVerifier(secret, { clock, callersMax: 2 });
  const signers = Array.from({ length: 3 }, () => new CallSigner(secret, { clock }));
  const [first, second, third] = signers as [CallSigner, CallSigner, CallSigner];
  expect(talk(first, verifier, post)).toBe(2);
  expect(talk(second, verifier, post)).toBe(2);
  expect(talk(third, verifier, post)).toContain("too many processes");
  expect(talk(third, verifier, get)).toBe(1);
  clock.elapsedMs += 2 * windowMs + 1;
  expect(talk(third, verifier, post)).toBe(1);
});

async function serve(port = 0): Promise<{ at: string; port: number; bodies: number[] }> {
  const verifier = new CallVerifier(secret);
  const bodies: number[] = [];
  const server = createServer((request, response) => {
    const answer = async () => {
      await verifier.admit(request, response);
      const body = await readBody(request, { limitBytes: 16_777_216 });
      bodies.push(body.length);
      answerJson(response, 200, { length: body.length });
    };
    answer().catch((error: unknown) => answerFailure(response, error, { log, requestId: "1" }));
  });
  const listening = await listen(server, { host: "127.0.0.1", port });
  cleanUps.push(() => closeServer(server, 0));
  return { at: `127.0.0.1:${listening.port}`, port: listening.port, bodies };
}

test("Bodies of every size come through, the first call and one after a restart too", async () => {
  const caller = new Caller(secret);
  cleanUps.push(() => caller.close());
  const getter = new LeanGetter({ signer: new CallSigner(secret) });
  cleanUps.push(() => getter.close());
  const random = seededRandom(3);
  let port = 0;
  for (const round of [1, 2]) {
    const { at, bodies, ...listening } = await serve(port);
    port = listening.port;
    const sizes = [8_388_608, 0, 1, 65_536, 65_537, 1_000_000];
    for (const size of sizes) {
      const call = { method: "POST", address: at, path: "/x", timeoutMs: 5_000 } as const;
      await caller.call({ ...call, body: random.bytes(size) });
    }
    await caller.call({ method: "GET", address: at, path: "/y?z=1", timeoutMs: 5_000 });
    expect(bodies, `${round}`).toEqual([...sizes, 0]);
    const onPart = () => undefined;
    const read = { address: at, path: "/3,01637037d6", headers: {}, timeoutMs: 5_000, onPart };
    expect((await getter.get(read)).status).toBe(200);
    await cleanUps.pop()?.();
    // The caller is to see that its connections are closed: on those nothing can come through.
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

test("Another body than the signed one is refused, whatever its size", async () => {
  const { at, bodies } = await serve();
  const caller = new Caller(secret);
  cleanUps.push(() => caller.close());
  const call = { method: "POST", address: at, path: "/x", timeoutMs: 5_000 } as const;
  await caller.call(call);
  const random = seededRandom(3);
  for (const size of [1, 65_536, 65_537, 3_000_000]) {
    const sent = random.bytes(size);
    for (const signed of [random.bytes(size), sent.subarray(1), undefined]) {
      const [host = "", port] = at.split(":");
      const signature = caller.signer.sign({ ...call, headers: {}, body: signed });
      const answer = await new Promise<string>((resolve) => {
        const socket = connect(Number(port), host);
        socket.once("data", (bytes) => resolve(bytes.toString()));
        socket.on("error", () => undefined);
        cleanUps.push(() => socket.destroy());
        const head = `POST /x HTTP/1.1\r\nhost: x\r\n${signatureHeader}: ${signature}\r\n`;
        socket.write(`${head}content-length: ${size}\r\n\r\n`);
        socket.write(sent);
      });
      expect(answer.slice(9, 12)).toBe("403");
      expect(answer).toContain("not the one that was signed");
    }
  }
  expect(bodies).toEqual([0]);
});
