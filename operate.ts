/** What operators do from the command line through a gateway: status, buckets and their settings; and keys shown. */

import Table from "cli-table3";
import { ClusterSecret } from "./base/cluster-secret.ts";
import { Failure } from "./base/failure.ts";
import { formatBytes, parseBytes } from "./base/units.ts";
import {
  type Credentials,
  GatewayClient,
  type GatewayStatus,
  readCredentials,
} from "./gateway/client.ts";
import { Installation } from "./installation.ts";

/** Makes the bucket that every new Hayloft has. */
export async function makeFirstBucket(address: string, credentials: Credentials): Promise<void> {
  const client = new GatewayClient(`http://${address}`, credentials);
  if ((await client.buckets()).length > 0) return;
  await client.makeBucket("photos");
  await client.changeSettings("photos", { publicRead: true });
}

/** What clients of SeaweedFS's calls show where they are not open. */
export function printNativeToken({ data, tokenFile }: { data: string; tokenFile?: string }): void {
  const secret = ClusterSecret.read(tokenFile ?? new Installation(data).tokenFile);
  process.stdout.write(`${secret.nativeBearer}\n`);
}

/** Where a gateway is found: of the `hayloft up` in `data`, or the one that is named. */
export interface GatewayPlace {
  data: string;
  gateway?: string;
  credentials?: string;
}

/** As `curl -u` takes them. */
export function printCredentials({ data, credentials }: Omit<GatewayPlace, "gateway">): void {
  const file = credentials ?? new Installation(data).credentialsFile;
  const { accessKey, secretKey } = readCredentials(file);
  process.stdout.write(`${accessKey}:${secretKey}\n`);
}

export async function printStatus(options: GatewayPlace & { json?: boolean }): Promise<void> {
  const { json } = options;
  const status = await connect(options).status();
  process.stdout.write(json === true ? `${JSON.stringify(status)}\n` : formatStatus(status));
}

function formatStatus({ buckets, stores }: GatewayStatus): string {
  const storeTable = makeTable(["store", "address", "state", "volumes", "stored", "free"]);
  for (const { store, address, state, volumes, freeBytes } of stores) {
    const stored = volumes.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    const sizes = [formatBytes(stored), formatBytes(freeBytes)];
    storeTable.push([store, address, state, volumes.length, ...sizes]);
  }
  const volumeTable = makeTable([
    "volume",
    "class",
    "state",
    "needles",
    "deleted",
    "length",
    "damaged",
  ]);
  for (const volume of stores.flatMap(({ volumes }) => volumes)) {
    volumeTable.push([
      volume.volume,
      volume.class,
      volume.state,
      volume.needleCount,
      volume.deletedCount,
      formatBytes(volume.lengthBytes),
      volume.damagedBytes === 0 ? "none" : formatBytes(volume.damagedBytes),
    ]);
  }
  const bucketTable = makeTable([
    "bucket",
    "objects",
    "bytes",
    "public",
    "versioning",
    "images",
    "durability",
    "copies",
  ]);
  for (const { name, objects, bytes, settings } of buckets) {
    const { publicRead, versioning, images, durability, copies, spread, minCopies } = settings;
    const least = minCopies === copies ? "" : `, ${minCopies} at least`;
    bucketTable.push([
      name,
      objects,
      formatBytes(bytes),
      publicRead ? "read" : "no",
      versioning,
      images,
      durability,
      copies === 1 ? copies : `${copies} by ${spread}${least}`,
    ]);
  }
  return `${[storeTable, volumeTable, bucketTable].join("\n\n")}\n`;
}

/** Columns and nothing between them: easy to read, and to cut up. */
function makeTable(head: string[]): InstanceType<typeof Table> {
  const none = Object.fromEntries(
    ["top", "bottom", "left", "right", "mid"]
      .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`, `mid-${side}`])
      .concat("left-mid", "right-mid", "mid-mid")
      .map((name) => [name, ""]),
  );
  return new Table({
    head,
    chars: { ...none, middle: "  " },
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
  });
}

export async function makeBucket(
  bucket: string,
  settings: string[],
  place: GatewayPlace,
): Promise<void> {
  // Before anything is made: a typing error leaves no bucket without its settings.
  const patch = Object.fromEntries(settings.map(parseSetting));
  const client = connect(place);
  await client.makeBucket(bucket);
  process.stdout.write(`${JSON.stringify(await client.changeSettings(bucket, patch))}\n`);
}

export async function setBucket(
  bucket: string,
  settings: string[],
  place: GatewayPlace,
): Promise<void> {
  const patch = Object.fromEntries(settings.map(parseSetting));
  const changed = await connect(place).changeSettings(bucket, patch);
  process.stdout.write(`${JSON.stringify(changed)}\n`);
}

/** One `name=value` of the command line as the settings' JSON has it. The gateway checks the values. */
function parseSetting(text: string): [string, unknown] {
  const [name = "", value] = text.split("=", 2);
  if (value === undefined) {
    throw new Failure("bad-request", `Cannot set "${text}": a setting is given as name=value`);
  }
  switch (name) {
    case "public-read":
      return ["publicRead", value === "true" ? true : value === "false" ? false : value];
    case "versioning":
    case "images":
    case "durability":
    case "spread":
      return [name, value];
    case "copies":
      // SeaweedFS's three digits are no number.
      return [name, /^[0-9]{3}$/.test(value) ? value : wholeNumber(value)];
    case "min":
      return ["minCopies", wholeNumber(value)];
    case "max-object-bytes":
      return ["maxObjectBytes", parseBytes(value) ?? value];
    default:
      throw new Failure(
        "bad-request",
        `Cannot set "${name}": the settings are public-read, versioning, images, max-object-bytes, durability, copies, spread and min`,
      );
  }
}

function wholeNumber(text: string): number | string {
  return /^[0-9]+$/.test(text) ? Number(text) : text;
}

export function connect({ data, gateway: address, credentials }: GatewayPlace): GatewayClient {
  if (address !== undefined) {
    if (credentials === undefined) {
      throw new Failure("bad-request", "Cannot ask a gateway without --credentials");
    }
    return new GatewayClient(`http://${address}`, readCredentials(credentials));
  }
  const installation = new Installation(data);
  const { gateway } = installation.readRun();
  if (gateway === undefined) {
    throw new Failure(
      "unavailable",
      `Cannot reach Hayloft: no gateway runs in ${installation.folder}`,
    );
  }
  return new GatewayClient(`http://${gateway.address}`, installation.readCredentials());
}
