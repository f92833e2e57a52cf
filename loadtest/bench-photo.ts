/**
 * The benchmark's pictures: photos of 2560x1600 to 512 wide, each rendered for the first time, against
 * a loop of sharp alone with as many at once; then the same pictures again, rendered already.
 */

import { readFile, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import path from "node:path";
import sharp from "sharp";
import { Failure } from "../base/failure.ts";
import { LeanGetter } from "../base/lean-get.ts";
import type { LoadResult } from "./bench-load.ts";
import { LineProcess } from "./bench-process.ts";
import { type Bench, median, takeTurns } from "./bench-report.ts";
import type { Cluster } from "./cluster.ts";
import { makePhoto } from "./photo.ts";
import { basicAuth, request } from "./request.ts";

/** Copies that one round renders: some seconds' work on two cores, so that its ends weigh little. */
const copiesPerRound = 500;
const uploadsAtOnce = 8;
const hotConnections = 32;
const transform = "?w=512";
const photoNames = ["garden.jpg", "lady-bird.jpg", "two-wings.jpg", "yellow-flower.jpg"];

export async function benchPhoto(bench: Bench): Promise<void> {
  const { cluster, report, rounds } = bench;
  // Enough to keep every core busy however the answers come in, and few enough that none waits long.
  const atOnce = availableParallelism() * 4;
  report.heading(
    `photo: 2560x1600 to 512 wide, cold, ${atOnce} at once / a loop of sharp alone, ${atOnce} at once`,
  );
  const files = await findPhotos(bench);
  const photos = await Promise.all(files.map((file) => readFile(file)));
  // So that as many really are under way: sharp works in libuv's pool.
  const threads = String(atOnce);
  const bare = new LineProcess("bare-sharp.ts", [String(atOnce), ...files], {
    env: { UV_THREADPOOL_SIZE: threads },
  });

  let batch = 0;
  const rendered: string[] = [];
  const renderCold = async (): Promise<LoadResult> => {
    batch += 1;
    const paths = Array.from({ length: copiesPerRound }, (_, at) => `/photos/${batch}/${at}.jpg`);
    await uploadCopies(cluster, paths, photos);
    rendered.push(...paths);
    return await renderEachOnce(cluster, paths, atOnce);
  };
  const renderBare = async (): Promise<LoadResult> => {
    const seconds = Number(await bare.ask(String(copiesPerRound)));
    const latencyMs = (seconds * 1_000 * atOnce) / copiesPerRound;
    return {
      perSecond: copiesPerRound / seconds,
      latencyMsP50: latencyMs,
      latencyMsP99: latencyMs,
      bad: 0,
      command: "node loadtest/bare-sharp.ts",
    };
  };
  try {
    const sides = [
      { name: "gateway", run: renderCold },
      { name: "sharp alone", run: renderBare },
    ];
    report.compare(await takeTurns(sides, rounds), { unit: "pictures", aim: 0.85 });
    report.note(
      `${rounds} rounds of ${copiesPerRound} copies that were never rendered before, of ` +
        `${files.map((file) => path.basename(file)).join(", ")}; not pinned; UV_THREADPOOL_SIZE=${threads} for sharp alone`,
    );
  } finally {
    await bare.close();
  }
  await benchHot(bench, rendered.slice(-copiesPerRound));
}

async function benchHot(bench: Bench, paths: string[]): Promise<void> {
  const { cluster, report, rounds, seconds, tool } = bench;
  report.heading("photo, hot: the same pictures once more, rendered already (no aim)");
  let command = "";
  const run = async () => {
    const result = await tool.run({
      address: cluster.gatewayAddress,
      method: "GET",
      paths: paths.map((each) => each + transform),
      headers: {},
      connections: hotConnections,
      seconds,
    });
    command = result.command;
    return result;
  };
  const before = await countRenders(cluster);
  report.compare(await takeTurns([{ name: "gateway", run }], rounds), { unit: "pictures" });
  const renders = (await countRenders(cluster)) - before;
  report.note(`${command}, ${rounds} rounds, ${renders} of them rendered again`);
}

/** Files of 2560x1600: those that PHOTOS has, or one that is made. */
async function findPhotos({ scratch, seed }: Bench): Promise<string[]> {
  const folder = process.env.PHOTOS;
  if (folder !== undefined && folder !== "")
    return photoNames.map((name) => path.join(folder, name));
  const file = path.join(scratch, "made.jpg");
  await writeFile(file, await makePhoto({ seed, width: 2560, height: 1600 }));
  return [file];
}

async function uploadCopies(cluster: Cluster, paths: string[], photos: Buffer[]): Promise<void> {
  const headers = {
    authorization: basicAuth(cluster.credentials),
    "content-type": "image/jpeg",
  };
  await forEachAtOnce(paths, uploadsAtOnce, async (target, at) => {
    const body = photos[at % photos.length] ?? Buffer.alloc(0);
    const options = { address: cluster.gatewayAddress, method: "PUT", path: target, headers, body };
    const { status } = await request(options);
    if (status !== 200) throw new Failure("unavailable", `Cannot upload: status ${status}`);
  });
}

async function renderEachOnce(
  cluster: Cluster,
  paths: string[],
  atOnce: number,
): Promise<LoadResult> {
  const rendersBefore = await countRenders(cluster);
  const latenciesMs: number[] = [];
  let bad = 0;
  let sample: Buffer[] = [];
  // A client that costs next to nothing: it shares the cores with what is measured.
  const getter = new LeanGetter();
  const startedMs = performance.now();
  await forEachAtOnce(paths, atOnce, async (target) => {
    const sentMs = performance.now();
    const parts: Buffer[] = [];
    const { status } = await getter.get({
      address: cluster.gatewayAddress,
      path: target + transform,
      headers: {},
      timeoutMs: 20_000,
      onPart: (part) => parts.push(Buffer.from(part)),
    });
    latenciesMs.push(performance.now() - sentMs);
    if (status !== 200) bad += 1;
    sample = parts;
  });
  const seconds = (performance.now() - startedMs) / 1_000;
  getter.close();

  const renders = (await countRenders(cluster)) - rendersBefore;
  const { width, height, format } = await sharp(Buffer.concat(sample)).metadata();
  if (renders !== paths.length || width !== 512 || height !== 320 || format !== "jpeg") {
    throw new Failure(
      "internal",
      `Cannot count a round: ${renders} renders for ${paths.length} pictures, ${width}x${height} ${format}`,
    );
  }
  latenciesMs.sort((left, right) => left - right);
  return {
    perSecond: paths.length / seconds,
    latencyMsP50: median(latenciesMs),
    latencyMsP99: latenciesMs[Math.floor(latenciesMs.length * 0.99)] ?? Number.NaN,
    bad,
    command: "loadtest's own client",
  };
}

function countRenders(cluster: Cluster): Promise<number> {
  return cluster.metric("gateway", "hayloft_image_renders_total");
}

async function forEachAtOnce<Item>(
  items: readonly Item[],
  atOnce: number,
  act: (item: Item, at: number) => Promise<void>,
): Promise<void> {
  const rest = items.entries();
  const actOnRest = async () => {
    for (const [at, item] of rest) await act(item, at);
  };
  await Promise.all(Array.from({ length: atOnce }, actOnRest));
}
