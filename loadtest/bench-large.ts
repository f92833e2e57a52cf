/** The benchmark's large object: up and down once, streamed, and what it costs the gateway in memory. */

import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { Failure } from "../base/failure.ts";
import { formatBytes } from "../base/units.ts";
import type { Bench } from "./bench-report.ts";
import { contentParts } from "./content.ts";
import { basicAuth } from "./request.ts";

const memoryMaxBytes = 300 * 2 ** 20;
const sampleEveryMs = 100;
const transferLimitMs = 600_000;
const path = "/photos/bench/large.bin";

export async function benchLarge(bench: Bench): Promise<void> {
  const { cluster, report, largeBytes } = bench;
  report.heading(`large: ${formatBytes(largeBytes)} up and down by name, streamed`);
  const { pid } = cluster.place("gateway");
  const idle = readMemory(pid);
  const sampler = new MemorySampler(pid);
  try {
    const up = await upload(bench);
    report.note(`up    ${formatBytes(largeBytes / up.seconds)}/s, ETag as sent`);
    const down = await download(bench, up.sha256);
    report.note(`down  ${formatBytes(largeBytes / down.seconds)}/s, SHA-256 as sent`);
  } finally {
    sampler.stop();
  }
  const peak = readMemory(pid)?.peakBytes ?? sampler.peakBytes;
  if (peak === 0) {
    report.note("the gateway's memory can't be read here: there is no /proc");
    return;
  }
  const verdict = report.judge(peak < memoryMaxBytes, `under ${formatBytes(memoryMaxBytes)}`);
  report.note(
    `the gateway's memory: idle ${formatBytes(idle?.residentBytes ?? 0)}, peak ${formatBytes(peak)} ` +
      `(VmHWM; highest sample ${formatBytes(sampler.peakBytes)}), ${verdict}`,
  );
}

async function upload({
  cluster,
  seed,
  largeBytes,
}: Bench): Promise<{ seconds: number; sha256: string }> {
  const startedMs = performance.now();
  const outgoing = httpRequest(`http://${cluster.gatewayAddress}${path}`, {
    method: "PUT",
    headers: {
      authorization: basicAuth(cluster.credentials),
      "content-length": String(largeBytes),
      "content-type": "application/octet-stream",
    },
    signal: AbortSignal.timeout(transferLimitMs),
  });
  const answered = once(outgoing, "response") as Promise<[IncomingMessage]>;
  answered.catch(() => undefined); // thrown where it is awaited
  const sha256 = createHash("sha256");
  const md5 = createHash("md5");
  for (const part of contentParts({ seed, id: 0 }, largeBytes)) {
    sha256.update(part);
    md5.update(part);
    if (!outgoing.write(part)) await Promise.race([once(outgoing, "drain"), answered]);
  }
  outgoing.end();
  const [answer] = await answered;
  answer.resume();
  const etag = `"${md5.digest("hex")}"`;
  if (answer.statusCode !== 200 || answer.headers.etag !== etag) {
    throw new Failure(
      "unavailable",
      `Cannot upload: status ${answer.statusCode}, ETag ${answer.headers.etag}, expected ${etag}`,
    );
  }
  return { seconds: (performance.now() - startedMs) / 1_000, sha256: sha256.digest("hex") };
}

async function download(
  { cluster, largeBytes }: Bench,
  sha256: string,
): Promise<{ seconds: number }> {
  const startedMs = performance.now();
  const outgoing = httpRequest(`http://${cluster.gatewayAddress}${path}`, {
    signal: AbortSignal.timeout(transferLimitMs),
  }).end();
  const [answer] = (await once(outgoing, "response")) as [IncomingMessage];
  const hash = createHash("sha256");
  let length = 0;
  for await (const part of answer as AsyncIterable<Buffer>) {
    hash.update(part);
    length += part.length;
  }
  if (answer.statusCode !== 200 || length !== largeBytes || hash.digest("hex") !== sha256) {
    throw new Failure(
      "corrupt",
      `Cannot download what was uploaded: status ${answer.statusCode}, ${length} bytes, other hash or length`,
    );
  }
  return { seconds: (performance.now() - startedMs) / 1_000 };
}

interface Memory {
  residentBytes: number;
  peakBytes: number;
}

function readMemory(pid: number): Memory | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/status`, "utf8");
    const read = (name: string) =>
      Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? 0) * 1_024;
    return { residentBytes: read("VmRSS"), peakBytes: read("VmHWM") };
  } catch {
    return undefined;
  }
}

class MemorySampler {
  peakBytes = 0;
  readonly #timer: NodeJS.Timeout;

  constructor(pid: number) {
    this.#timer = setInterval(() => {
      this.peakBytes = Math.max(this.peakBytes, readMemory(pid)?.residentBytes ?? 0);
    }, sampleEveryMs);
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
