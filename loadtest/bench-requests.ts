/** The benchmark's lines of small requests: GET and PUT at the store, GET by name at the gateway. */

import { writeFile } from "node:fs/promises";
import path from "node:path";
import { Failure } from "../base/failure.ts";
import type { VolumeStatus } from "../directory/client.ts";
import type { BareAnswer, BareAnswers } from "./bare-server.ts";
import type { LoadSpec } from "./bench-load.ts";
import { LineProcess, pinTo } from "./bench-process.ts";
import { type Bench, type Side, takeTurns } from "./bench-report.ts";
import { contentOf } from "./content.ts";
import { type Answer, basicAuth, type RequestOptions, request } from "./request.ts";
import { SignedCalls } from "./signed-calls.ts";

/** Blobs that a line reads in turn: enough that none is special, few enough to be hot. */
const blobs = 256;
export const smallBytes = 1_024;
const namedBytes = 4_096;
const getConnections = 32;
// Group commit wants company, as it has from many clients.
const putConnections = 64;

export async function benchGet(bench: Bench): Promise<void> {
  const { cluster, report } = bench;
  report.heading(
    "get: 1 KiB GET by fid at the store (hot) / bare node:http, same bytes and headers",
  );
  const address = cluster.storeAddress;
  const signed = new SignedCalls(cluster);
  const paths = (await storeSmallBlobs(bench)).map(({ path }) => path);
  const sample = await expectStatus(200, { address, path: paths[0] ?? "" }, signed);
  await compareWithBare(bench, {
    name: "store",
    pid: cluster.place("store").pid,
    answers: { get: copyOf(sample), post: copyOf(sample) },
    aim: 0.7,
    spec: { address, method: "GET", paths, headers: {}, signed, connections: getConnections },
  });
}

export async function benchPut(bench: Bench): Promise<void> {
  const { cluster, report } = bench;
  report.heading(
    "put: 1 KiB durable PUT at the store / bare node:http that reads and drops the body",
  );
  const address = cluster.storeAddress;
  const signed = new SignedCalls(cluster);
  const paths = [`/volumes/${await findOpenVolume(bench)}/needles`];
  const body = contentOf({ seed: bench.seed, id: 0 }, smallBytes);
  const [path = ""] = paths;
  const sample = await expectStatus(201, { address, method: "POST", path, body }, signed);
  await compareWithBare(bench, {
    name: "store",
    pid: cluster.place("store").pid,
    answers: { get: copyOf(sample), post: copyOf(sample) },
    aim: 0.4,
    spec: {
      ...{ address, method: "POST", paths, headers: {}, body, signed },
      connections: putConnections,
    },
  });
}

export async function benchName(bench: Bench): Promise<void> {
  const { cluster, report } = bench;
  report.heading(
    "name: 4 KiB GET by name at the gateway (hot) / bare node:http, same bytes and headers",
  );
  const address = cluster.gatewayAddress;
  const paths: string[] = [];
  for (let id = 0; id < blobs; id++) {
    const path = `/photos/bench/${id}.bin`;
    await expectStatus(200, {
      address,
      method: "PUT",
      path,
      headers: { authorization: basicAuth(cluster.credentials) },
      body: contentOf({ seed: bench.seed, id }, namedBytes),
    });
    paths.push(path);
  }
  const sample = await expectStatus(200, { address, path: paths[0] ?? "" });
  await compareWithBare(bench, {
    name: "gateway",
    pid: cluster.place("gateway").pid,
    answers: { get: copyOf(sample), post: copyOf(sample) },
    spec: { address, method: "GET", paths, headers: {}, connections: getConnections },
  });
}

interface Comparison {
  name: string;
  /** The process that answers: the one that is pinned. */
  pid: number;
  answers: BareAnswers;
  aim?: number;
  spec: Omit<LoadSpec, "seconds">;
}

async function compareWithBare(bench: Bench, comparison: Comparison): Promise<void> {
  const { tool, report, rounds, seconds, scratch, serverCore } = bench;
  const { name, pid, answers, aim, spec } = comparison;
  const file = path.join(scratch, "answers.json");
  await writeFile(file, JSON.stringify(answers));
  const bare = new LineProcess("bare-server.ts", [file]);
  try {
    const bareAddress = await bare.readLine();
    pinTo(serverCore, pid);
    pinTo(serverCore, bare.pid);
    let command = "";
    const side = (sideName: string, address: string): Side => ({
      name: sideName,
      run: async () => {
        const result = await tool.run({ ...spec, address, seconds });
        command = result.command;
        return result;
      },
    });
    const sides = [side(name, spec.address), side("bare server", bareAddress)];
    const taken = await takeTurns(sides, rounds);
    report.compare(taken, { unit: "requests", ...(aim === undefined ? {} : { aim }) });
    const pinned = serverCore === undefined ? "" : `, server process on core ${serverCore}`;
    report.note(`${command}, ${rounds} rounds each${pinned}`);
  } finally {
    await bare.close();
  }
}

/** An answer as the bare server is to give it: what Node adds by itself is left to Node. */
function copyOf({ status, headers, body }: Answer): BareAnswer {
  const ownHeaders = new Set(["date", "connection", "keep-alive", "transfer-encoding"]);
  return {
    status,
    headers: Object.fromEntries(
      Object.entries(headers)
        .filter(([name]) => !ownHeaders.has(name))
        .map(([name, value]) => [name, String(value)]),
    ),
    bodyBase64: body.toString("base64"),
  };
}

/** The blobs of a line that reads small ones, stored. */
export async function storeSmallBlobs(bench: Bench): Promise<{ path: string; content: Buffer }[]> {
  const { cluster, seed } = bench;
  const volume = await findOpenVolume(bench);
  const signed = new SignedCalls(cluster);
  const stored: { path: string; content: Buffer }[] = [];
  for (let id = 0; id < blobs; id++) {
    const content = contentOf({ seed, id }, smallBytes);
    const path = `/volumes/${volume}/needles`;
    const call = { address: cluster.storeAddress, method: "POST", path, body: content };
    const { body } = await expectStatus(201, call, signed);
    const { fid } = JSON.parse(body.toString()) as { fid: string };
    stored.push({ path: `/${fid}`, content });
  }
  return stored;
}

/** A volume that takes the catalog's blobs, none of `avoid`. */
export async function findOpenVolume(bench: Bench, avoid: readonly number[] = []): Promise<number> {
  const volumes = await readVolumes(bench);
  const open = volumes.find(
    (each) => each.class === "original" && each.isWritable && !avoid.includes(each.volume),
  );
  if (open === undefined) {
    const found = volumes.map((each) => `${each.volume} (${each.class}, ${each.state})`).join(", ");
    throw new Failure("unavailable", `Cannot find an open volume: there are ${found}`);
  }
  return open.volume;
}

/** What the store has at this moment. */
export async function readVolumes({ cluster }: Bench): Promise<VolumeStatus[]> {
  const call = { address: cluster.storeAddress, path: "/volumes" };
  const { body } = await expectStatus(200, call, new SignedCalls(cluster));
  return (JSON.parse(body.toString()) as { volumes: VolumeStatus[] }).volumes;
}

export async function expectStatus(
  status: number,
  options: RequestOptions,
  signed?: SignedCalls,
): Promise<Answer> {
  const answer = await (signed === undefined ? request(options) : signed.request(options));
  if (answer.status === status) return answer;
  const { method = "GET", path } = options;
  throw new Failure(
    "unavailable",
    `Cannot ${method} ${path}: status ${answer.status} ${answer.body.toString().slice(0, 300)}`,
  );
}
