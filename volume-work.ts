/**
 * What the commands of volumes.ts do.
 *
 * Invariants:
 * - The result goes to standard output, everything else to standard error: with --json the output is one
 *   JSON document, with `dump --json` a line of JSON for each record.
 * - What could not be done is a sentence and exit code 1; so is damage that was found.
 */

import { createWriteStream, existsSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { ClusterSecret } from "./base/cluster-secret.ts";
import { Failure, messageOf, systemErrorCode } from "./base/failure.ts";
import { formatBytes, formatDuration } from "./base/units.ts";
import { ExportReader } from "./export-reader.ts";
import { ProgressDisplay } from "./progress.ts";
import { RunningVolumes } from "./running-volumes.ts";
import type { CompactionPlan, ImportSource, OfflineStore } from "./store/offline.ts";
import {
  formatCompacted,
  formatCount,
  formatDamage,
  formatFacts,
  formatList,
  formatMany,
  formatPlan,
  formatRecord,
  formatVerified,
  printable,
  recordHead,
} from "./volume-text.ts";

/** Where the volumes are, and for whom to write. */
interface WhereOptions {
  data: string;
  directory?: string;
  tokenFile?: string;
  folder?: string;
  json?: boolean;
}

type Volumes = OfflineStore | RunningVolumes;

/** Does something with the volumes that the options name, and tells how it failed if it did. */
export async function runVolumeWork(
  options: WhereOptions,
  use: (work: VolumeWork) => Promise<void>,
  kind: "looks" | "orders" = "looks",
): Promise<void> {
  process.stdout.on("error", (error) => {
    // Whoever reads has had enough, as `head` does.
    if (systemErrorCode(error) === "EPIPE") process.exit();
    throw error;
  });
  let volumes: Volumes | undefined;
  try {
    volumes = await open(options);
    if (kind === "orders" && volumes instanceof RunningVolumes) sayOnInterrupt();
    await use(new VolumeWork(volumes));
  } catch (error) {
    fail(toSentence(error));
  } finally {
    await volumes?.close();
  }
}

/** A failure as it is, and what the system refuses; anything else is a mistake of ours, and thrown. */
function toSentence(error: unknown): Failure {
  if (error instanceof Failure) return error;
  const isOurs = /^(?:ERR_|$)/.test(systemErrorCode(error) ?? "");
  if (isOurs) throw error;
  return new Failure("unavailable", `Cannot go on: ${messageOf(error)}`, { cause: error });
}

async function open({ data, directory, tokenFile, folder }: WhereOptions): Promise<Volumes> {
  if (folder !== undefined) {
    const { OfflineStore } = await import("./store/offline.ts");
    return await OfflineStore.open(folder, say);
  }
  if (directory === undefined) return RunningVolumes.ofInstallation(data);
  if (tokenFile === undefined) {
    throw new Failure("bad-request", "Cannot use --directory without --token-file");
  }
  return new RunningVolumes(directory, ClusterSecret.read(tokenFile));
}

/** The commands, on the volumes that they are for. */
export class VolumeWork {
  readonly #volumes: Volumes;

  constructor(volumes: Volumes) {
    this.#volumes = volumes;
  }

  async list({ json }: WhereOptions): Promise<void> {
    const listed = await this.#volumes.list();
    if (json) printJson(listed);
    else print(formatList(listed, Date.now()));
  }

  async info(id: number, { json }: WhereOptions): Promise<void> {
    const facts = await this.#volumes.facts(id);
    if (json) printJson(facts);
    else print(formatFacts(facts, Date.now()));
  }

  async dump(
    id: number,
    {
      json,
      from,
      count,
      cookies = false,
    }: WhereOptions & { from: number; count?: number; cookies?: boolean },
  ): Promise<void> {
    const slices = this.#volumes.records(id, { from, count, withCookies: cookies });
    const format = json ? JSON.stringify : formatRecord;
    const lines = async function* () {
      let head = json ? "" : `${recordHead}\n`;
      for await (const slice of slices) {
        yield head + slice.map((record) => `${format(record)}\n`).join("");
        head = "";
      }
    };
    await pipeline(Readable.from(lines()), process.stdout, { end: false });
  }

  async verify(
    ids: number[],
    { json = false, all = false, rate }: WhereOptions & { all?: boolean; rate: number },
  ): Promise<void> {
    if (all === ids.length > 0) {
      throw new Failure("bad-request", "Cannot verify: name volumes, or give --all");
    }
    const results = await this.#forEachVolume(all ? undefined : ids, async (volume) => {
      const { lengthBytes } = await this.#volumes.facts(volume);
      const display = new ProgressDisplay(`volume ${volume}: verifying`, { isQuiet: json });
      const findings = await display.during((progress) => {
        return this.#volumes.verify(volume, rate, progress);
      });
      if (findings.length > 0) process.exitCode = 1;
      const result = { volume, lengthBytes, tookMs: Math.round(display.elapsedMs), findings };
      if (!json) print(formatVerified(result));
      return result;
    });
    if (json) printJson(results);
  }

  async exportTo(
    id: number,
    { output, json = false }: WhereOptions & { output: string },
  ): Promise<void> {
    const isStdout = output === "-";
    if (isStdout && json) {
      throw new Failure(
        "bad-request",
        "Cannot put archive and JSON on standard output: give --output",
      );
    }
    if (isStdout && process.stdout.isTTY) {
      throw new Failure("bad-request", "Cannot put an archive on a terminal: give --output <file>");
    }
    const { lengthBytes } = await this.#volumes.facts(id);
    const display = new ProgressDisplay(`volume ${id}: exporting`, { isQuiet: json });
    const reader = await display.during(async (progress) => {
      const reading = new ExportReader((bytes) =>
        progress(Math.min(bytes, lengthBytes), lengthBytes),
      );
      const archive = await this.#volumes.export(id);
      await keep(reading.pass(archive), isStdout ? undefined : output);
      return reading;
    });
    const { damage, summary } = reader;
    if (damage.length > 0) process.exitCode = 1;
    if (json) {
      printJson({ ...summary, output, damage });
      return;
    }
    for (const each of damage) process.stderr.write(`${formatDamage(each)}\n`);
    const { files = 0, bytes = 0, damaged = 0 } = summary ?? {};
    const left = damaged === 0 ? "" : `, ${formatMany(damaged, "blob")} left out as damaged`;
    const what = `volume ${id}: ${formatMany(files, "file")}, ${formatBytes(bytes)}${left}`;
    if (isStdout) say(what);
    else print(`${what}, in ${output}\n`);
  }

  async compact(
    ids: number[],
    {
      json = false,
      purge = false,
      seal: isSealing = false,
      rate: rateBytes,
      ...options
    }: CompactOptions,
  ): Promise<void> {
    const isByName = ids.length > 0;
    const plans = await this.#volumes.planCompaction(isByName ? ids : undefined, options.garbage);
    this.#refuseOpen(plans, isSealing);
    if (options.dryRun || plans.length === 0) {
      const timed = plans.map((plan) => ({ ...plan, takesMs: takesMs(plan, rateBytes) }));
      const nothing = `No sealed volume is ${Math.round(options.garbage * 100)}% dead: there is nothing to compact.\n`;
      if (json) printJson(timed);
      else print(plans.length === 0 ? nothing : formatPlan(plans, { rateBytes }));
      return;
    }
    const states = new Map(plans.map(({ volume, state }) => [volume, state]));
    const results = await this.#forEachVolume([...states.keys()], async (volume) => {
      if (states.get(volume) === "open") say(`volume ${volume} is open, and sealed first`);
      const display = new ProgressDisplay(`volume ${volume}: compacting`, { isQuiet: json });
      const outcome = await display.during((progress) => {
        return this.#volumes.compact(volume, { rateBytes, purge, seal: isSealing }, progress);
      });
      const tookMs = Math.round(display.elapsedMs);
      if (!json) print(formatCompacted(outcome, { tookMs, purge }));
      return { ...outcome, tookMs };
    });
    if (json) printJson(results);
  }

  async seal(
    volume: number,
    { json, dryRun = false }: WhereOptions & { dryRun?: boolean },
  ): Promise<void> {
    const before = await this.#volumes.facts(volume);
    const isNew = before.state === "open";
    if (isNew && !dryRun) await this.#volumes.seal(volume);
    if (json) {
      printJson({
        volume,
        state: dryRun ? before.state : "sealed",
        isNew,
        lengthBytes: before.lengthBytes,
      });
      return;
    }
    const how = !isNew ? "was sealed before" : dryRun ? "would be sealed" : "is sealed";
    print(`volume ${volume} ${how}, ${formatBytes(before.lengthBytes)} long\n`);
  }

  async importFrom(file: string, options: ImportOptions): Promise<void> {
    const volumes = this.#volumes;
    const { json = false, dryRun = false, store } = options;
    const source = sourceOf(file, options);
    await volumes.requireImportable(source);
    const label = `volume ${source.volume}: ${dryRun ? "reading" : "importing"}`;
    // A store that runs tells how far it is in bytes.
    const isCounted = dryRun || !(volumes instanceof RunningVolumes);
    const format = isCounted ? formatBlobs : formatBytes;
    const display = new ProgressDisplay(label, { isQuiet: json, format });
    const result = await display.during(async (progress): Promise<ShownImport> => {
      if (dryRun) {
        const { surveySeaweedVolume } = await import("./store/offline.ts");
        return { volume: source.volume, ...(await surveySeaweedVolume(source, progress)) };
      }
      if (!(volumes instanceof RunningVolumes)) return await volumes.import(source, progress);
      return await compareWithSource(await volumes.import({ ...source, store }, progress), source);
    });
    const how = dryRun ? "would be imported" : "imported";
    showImport(result, { json, how, tookMs: display.elapsedMs });
  }

  /**
   * Does something with volumes, one after the other; all if none are named. One that fails is told of and the
   * others are done all the same; one that is not there keeps all from beginning.
   */
  async #forEachVolume<Result>(
    named: readonly number[] | undefined,
    work: (volume: number) => Promise<Result>,
  ): Promise<(Result | { volume: number; error: string })[]> {
    const known = await this.#volumes.ids();
    const unknown = named?.find((id) => !known.includes(id));
    if (unknown !== undefined) throw new Failure("not-found", `Cannot find volume ${unknown}`);
    const results: (Result | { volume: number; error: string })[] = [];
    for (const volume of named ?? known) {
      try {
        results.push(await work(volume));
      } catch (error) {
        const failure = toSentence(error);
        fail(failure);
        results.push({ volume, error: failure.message });
      }
    }
    return results;
  }

  /** What runs seals by itself; where nothing runs, somebody has to want it. */
  #refuseOpen(plans: readonly CompactionPlan[], isSealing: boolean): void {
    const opened = plans.find(({ state }) => state === "open");
    if (opened === undefined || isSealing || this.#volumes instanceof RunningVolumes) return;
    throw new Failure(
      "conflict",
      `Cannot compact volume ${opened.volume}: it is open; add --seal to seal it first`,
    );
  }
}

/** Puts pieces on standard output, or in a file that gets its name when it is whole. */
async function keep(pieces: AsyncIterable<Buffer>, output: string | undefined): Promise<void> {
  if (output === undefined) {
    await pipeline(pieces, process.stdout, { end: false });
    return;
  }
  const unfinished = `${output}.new`;
  try {
    await pipeline(pieces, createWriteStream(unfinished, { mode: 0o600, flush: true }));
    await rename(unfinished, output);
  } catch (error) {
    await rm(unfinished, { force: true });
    const code = systemErrorCode(error);
    if (error instanceof Failure || code === undefined) throw error;
    throw new Failure("unavailable", `Cannot write ${output}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

interface CompactOptions extends WhereOptions {
  garbage: number;
  rate: number;
  purge?: boolean;
  seal?: boolean;
  dryRun?: boolean;
}

function takesMs({ copyBytes }: CompactionPlan, rateBytes: number): number | undefined {
  return rateBytes === 0 ? undefined : Math.round((copyBytes / rateBytes) * 1_000);
}

interface ImportOptions extends WhereOptions {
  idx?: string;
  volume?: number;
  store?: string;
  dryRun?: boolean;
}

/** What a store that runs has made of a source, and how much of that is missing if it can be seen from here. */
async function compareWithSource(
  result: { blobs: number; storedBytes: number },
  source: ImportSource,
): Promise<ShownImport> {
  if (!existsSync(source.dat)) return { ...result, volume: source.volume };
  const { peekSeaweedVolume } = await import("./store/offline.ts");
  const { blobs, warnings } = await peekSeaweedVolume(source);
  return { ...result, volume: source.volume, leftOut: Math.max(blobs - result.blobs, 0), warnings };
}

interface ShownImport {
  volume: number;
  blobs: number;
  /** Before and after compression, as far as each is known. */
  bytes?: number;
  storedBytes?: number;
  damaged?: { key: string; offset: number; why: string }[];
  /** How many blobs were damaged or over their time, where only that is known. */
  leftOut?: number;
  warnings?: readonly string[];
}

function showImport(
  result: ShownImport,
  { json, how, tookMs }: { json: boolean; how: string; tookMs: number },
): void {
  const {
    volume,
    blobs,
    bytes,
    storedBytes = 0,
    damaged = [],
    leftOut = 0,
    warnings = [],
  } = result;
  if (damaged.length > 0 || leftOut > 0) process.exitCode = 1;
  if (json) {
    printJson(result);
    return;
  }
  for (const warning of warnings) say(printable(warning));
  const size = bytes === undefined ? `${formatBytes(storedBytes)} as stored` : formatBytes(bytes);
  const took = formatDuration(tookMs);
  print(`volume ${volume}: ${formatMany(blobs, "blob")} ${how}, ${size}, in ${took}\n`);
  if (leftOut > 0) {
    const what = `${formatMany(leftOut, "blob")}, damaged or expired`;
    print(`  left out: ${what}; the store's log names them, and import --dry-run\n`);
  }
  for (const { key, offset, why } of damaged) {
    print(`  left out: key ${key} at ${formatCount(offset)}: ${printable(why)}\n`);
  }
}

function formatBlobs(count: number): string {
  return formatMany(Math.round(count), "blob");
}

/** The files of a SeaweedFS volume, and the id that its name tells: `3.dat`, `photos_3.dat`. */
function sourceOf(file: string, { idx, volume }: { idx?: string; volume?: number }): ImportSource {
  const dat = path.resolve(file);
  const named = /(?:^|_)([1-9][0-9]{0,9})\.dat$/.exec(path.basename(dat))?.[1];
  const id = volume ?? (named === undefined ? undefined : Number(named));
  if (id === undefined) {
    throw new Failure(
      "bad-request",
      `Cannot tell the id of ${file}: its name is not like 3.dat or photos_3.dat; give --volume`,
    );
  }
  if (idx !== undefined && !existsSync(idx)) {
    const instead = "leave out --idx to have the .dat searched instead";
    throw new Failure("not-found", `Cannot read ${idx}: there is no such file; ${instead}`);
  }
  return { dat, idx: path.resolve(idx ?? dat.replace(/(?:\.dat)?$/, ".idx")), volume: id };
}

function sayOnInterrupt(): void {
  process.once("SIGINT", () => {
    say("no longer watching; what was ordered goes on, see hayloft volume ls");
    process.exit(130);
  });
}

function say(text: string): void {
  process.stderr.write(`hayloft: ${text}\n`);
}

function fail(failure: Failure): void {
  say(failure.message);
  process.exitCode = 1;
}

function print(text: string): void {
  process.stdout.write(text);
}

function printJson(value: unknown): void {
  print(`${JSON.stringify(value)}\n`);
}
