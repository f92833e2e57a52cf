/** `hayloft explain`: where an object is, as the gateway tells it, for people and for machines. */

import { Failure } from "./base/failure.ts";
import { formatBytes, formatDuration } from "./base/units.ts";
import type { Explanation } from "./gateway/client.ts";
import { connect, type GatewayPlace } from "./operate.ts";
import { formatCount, formatTable, printable } from "./volume-text.ts";

type Chunk = Explanation["chunks"][number];
type Copy = Chunk["copies"][number];

export async function printExplanation(
  target: string,
  { json, versionId, ...place }: GatewayPlace & { json?: boolean; versionId?: string },
): Promise<void> {
  const slash = target.indexOf("/");
  if (slash <= 0 || slash === target.length - 1) {
    throw new Failure("bad-request", `Cannot explain "${target}": an object is BUCKET/KEY`);
  }
  const [bucket, key] = [target.slice(0, slash), target.slice(slash + 1)];
  const explanation = await connect(place).explain(bucket, key, versionId);
  const text = json === true ? `${JSON.stringify(explanation)}\n` : undefined;
  process.stdout.write(text ?? formatExplanation(explanation, Date.now()));
}

function formatExplanation(explanation: Explanation, nowMs: number): string {
  const { bucket, key, versionId, isLatest, isDeleteMarker, size, image } = explanation;
  const { etag, contentType, modifiedMs, chunkCount, chunks, variantsInMemory } = explanation;
  const what = isDeleteMarker
    ? "delete marker"
    : `${formatCount(size)} bytes, ${printable(contentType)}, ETag ${etag}`;
  const lines = [
    `object    ${printable(`${bucket}/${key}`)}`,
    `version   ${versionId}${isLatest ? ", the latest" : ""}, of ${new Date(modifiedMs).toISOString()}`,
    `content   ${what}`,
  ];
  if (image !== undefined) {
    lines.push(`picture   ${image.width}x${image.height} ${image.format}`);
    const variants = variantsInMemory.map((query) => `?${query}`).join(" ");
    lines.push(`in memory ${variants === "" ? "no variant" : variants} (at the gateway asked)`);
  }
  for (const [at, chunk] of chunks.entries()) {
    lines.push("", ...formatChunk(chunk, { number: at + 1, chunkCount, nowMs }));
  }
  const hidden = chunkCount - chunks.length;
  if (hidden > 0) lines.push("", `and ${hidden} chunks more`);
  return `${lines.join("\n")}\n`;
}

function formatChunk(
  { fid, length, isInMemory, volume, copies, problem }: Chunk,
  { number, chunkCount, nowMs }: { number: number; chunkCount: number; nowMs: number },
): string[] {
  const memory = isInMemory ? "in memory" : "not in memory";
  const lines = [
    `chunk ${number} of ${chunkCount}: fid ${fid}, ${formatCount(length)} bytes, ${memory}`,
  ];
  if (problem !== undefined) lines.push(`  ${problem}`);
  if (volume !== undefined) {
    const short = volume.missingCount === 0 ? "" : `, short of ${volume.missingCount}`;
    lines.push(
      `volume ${volume.volume}: ${volume.class}, ${volume.state}, ${volume.placement}${short}, generation ${volume.generation}, epoch ${volume.epoch}`,
    );
  }
  if (copies.length > 0) {
    const names = ["copy at", "machine", "rack", "state", "offset", "length", "gen", "epoch"];
    const rest = ["this needle", "last scrub", "damaged"];
    const rows = copies.map((copy) => copyRow(copy, nowMs));
    lines.push(formatTable([...names, ...rest], rows).trimEnd());
  }
  return lines;
}

function copyRow(
  { address, store, machine, rack, role, condition, storeState, facts, problem }: Copy,
  nowMs: number,
): Record<string, string> {
  const row = {
    "copy at": address === "" ? store : address,
    ...{ machine, rack },
    state: [
      ...(role === "member" ? [] : [role]),
      ...(storeState === "live" ? [] : [storeState]),
      condition === "live" ? "" : condition,
      facts === undefined ? "" : facts.isServing ? "serving" : "not serving",
    ]
      .filter((word, at, all) => word !== "" && all.indexOf(word) === at)
      .join(", "),
  };
  if (facts === undefined) return { ...row, "this needle": problem ?? "" };
  const { needle, generation, epoch, scrubbedMs, damagedBytes } = facts;
  const whole = scrubbedMs === 0 ? "not yet" : `${formatDuration(nowMs - scrubbedMs)} ago`;
  const isWell = facts.problem === undefined && needle?.isVerified === true;
  return {
    ...row,
    offset: needle === undefined ? "" : formatCount(needle.offset),
    length: needle === undefined ? "" : formatCount(needle.length),
    gen: String(generation),
    epoch: String(epoch),
    "this needle": `${needle?.isDeleted === true ? "deleted, " : ""}${isWell ? "verified now" : (facts.problem ?? "")}`,
    "last scrub": whole,
    damaged: damagedBytes === 0 ? "no" : formatBytes(damagedBytes),
  };
}
