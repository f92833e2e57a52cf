/**
 * A volume as a tar archive: a file for each blob that lives, and what files can't say in a manifest, a line
 * of JSON for each. The manifest comes in parts, so that the memory does not grow with the volume.
 *
 * Invariant: no file begins before all of its blob was verified. A blob that does not verify is left out,
 * told in the manifest and counted in its last line, which only a whole archive has.
 */

import { Readable } from "node:stream";
import { type Header, type Pack, pack } from "tar-stream";
import { Failure } from "../base/failure.ts";
import { ArchivePaths, wantedPath } from "./archive-path.ts";
import { codecs, type NeedleHead } from "./volume/needle.ts";
import type { NeedleReader } from "./volume/needle-reader.ts";
import type { FoundRecord } from "./volume/records.ts";
import type { ScrubFinding } from "./volume/scrub.ts";
import type { Volume } from "./volume/volume.ts";
import {
  type DamageFacts,
  fidOf,
  isExpired,
  nameDamage,
  readMetadata,
  scanHeld,
} from "./volume-facts.ts";

export interface ExportSummary {
  volume: number;
  uuid: string;
  generation: number;
  files: number;
  bytes: number;
  /** Blobs that were left out because they do not verify. */
  damaged: number;
}

/** A line of the manifest: of a file, of a blob that is left out, or the last one. */
export interface ManifestLine {
  path?: string;
  fid?: string;
  bytes?: number;
  timeMs?: number;
  ttlSeconds?: number;
  metadata?: unknown;
  damage?: DamageFacts & { fid?: string };
  summary?: ExportSummary;
}

/** Of one part of the manifest. */
const manifestBytesMax = 4 * 1_048_576;
/** What the header of a file in the archive can say. */
const modifiedSecondsMax = 0x7fff_ffff;

export function exportVolume(volume: Volume, nowMs: number): Readable {
  const archive = pack();
  archive.on("error", () => undefined); // whoever reads is told; unheard it would end the process
  new VolumeExport(volume, archive, nowMs).run().then(
    () => archive.finalize(),
    (error: unknown) => archive.destroy(error as Error),
  );
  return Readable.from(archive, { objectMode: false });
}

type FileHeader = Pick<Header, "name" | "size" | "mtime">;

class VolumeExport {
  readonly #volume: Volume;
  readonly #archive: Pack;
  readonly #nowMs: number;
  readonly #paths: ArchivePaths;
  readonly #summary: ExportSummary;
  #lines: string[] = [];
  #lineBytes = 0;
  #partCount = 0;

  constructor(volume: Volume, archive: Pack, nowMs: number) {
    this.#volume = volume;
    this.#archive = archive;
    this.#nowMs = nowMs;
    const { uuid, generation, needleCount } = volume.report();
    this.#paths = new ArchivePaths(needleCount);
    const counts = { files: 0, bytes: 0, damaged: 0 };
    this.#summary = { volume: volume.superblock.volume, uuid, generation, ...counts };
  }

  async run(): Promise<void> {
    const stretches: ScrubFinding[] = [];
    for await (const { slice, generation } of scanHeld(this.#volume)) {
      for (const found of slice) {
        if (found.kind === "damage") {
          const { offset, length, why } = found;
          stretches.push({ offset, length, why });
          continue;
        }
        const { record } = found;
        const { ordinal, offset, isReservation } = record.head;
        if (isReservation || this.#volume.isDeleted(ordinal)) continue;
        if (isExpired(record.head, this.#nowMs)) continue;
        const isLost = generation.index.get(ordinal) !== offset;
        await this.#take(record, isLost ? "the index does not lead to it" : found.problem);
      }
    }
    for (const damage of await nameDamage(this.#volume, stretches)) {
      if (damage.isDeleted !== true) await this.#tellDamage(damage);
    }
    await this.#tell({ summary: this.#summary });
    await this.#writeManifest("last");
  }

  async #take(record: FoundRecord, problem: string | undefined): Promise<void> {
    const { head } = record;
    const { offset, length, ordinal, cookie } = head;
    const damaged = async (why: string) => {
      await this.#tellDamage({ offset, length, ordinal, fid: fidOf(this.#volume, head), why });
    };
    if (problem !== undefined) {
      await damaged(problem);
      return;
    }
    const reader = await this.#volume.find(ordinal, cookie);
    if (reader === undefined) return; // deleted just now
    try {
      const content = await contentOf(reader);
      if (content instanceof Failure) await damaged(content.message);
      else await this.#store(record, content ?? reader);
    } finally {
      reader.close();
    }
  }

  async #store(record: FoundRecord, content: Buffer | NeedleReader): Promise<void> {
    const { contentLength, timeMs, ttlSeconds } = record.head;
    const fid = fidOf(this.#volume, record.head);
    const metadata = readMetadata(record);
    const path = this.#paths.claim(wantedPath({ fid, metadata, contentLength }), fid);
    const mtime = new Date(modifiedSeconds(record.head, metadata) * 1_000);
    const header = { name: path, size: contentLength, mtime };
    if (Buffer.isBuffer(content)) await this.#write(header, content);
    else await this.#writePieces(header, content);
    this.#summary.files += 1;
    this.#summary.bytes += contentLength;
    const life = ttlSeconds === 0 ? {} : { ttlSeconds };
    await this.#tell({ path, fid, bytes: contentLength, timeMs, ...life, metadata });
  }

  #write(header: FileHeader, content: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      const entry = this.#archive.entry(header, content, (error) => {
        if (error) reject(error);
        else resolve();
      });
      entry.on("error", reject);
    });
  }

  async #writePieces(header: FileHeader, reader: NeedleReader): Promise<void> {
    const written = Promise.withResolvers<void>();
    written.promise.catch(() => undefined); // it is waited for below, and may fail before
    const entry = this.#archive.entry(header, (error) => {
      if (error) written.reject(error);
      else written.resolve();
    });
    entry.on("error", written.reject);
    try {
      for await (const piece of reader.pieces(0, reader.head.dataLength)) {
        if (entry.write(piece)) continue;
        const drained = new Promise<void>((resolve) => entry.once("drain", resolve));
        await Promise.race([drained, written.promise]);
      }
    } catch (error) {
      // The file has begun, and there is no honest way to go on with it.
      entry.destroy(error as Error);
      throw error;
    }
    entry.end(undefined);
    await written.promise;
  }

  async #tellDamage(damage: NonNullable<ManifestLine["damage"]>): Promise<void> {
    this.#summary.damaged += 1;
    await this.#tell({ damage });
  }

  async #tell(line: ManifestLine): Promise<void> {
    const text = `${JSON.stringify(line)}\n`;
    this.#lines.push(text);
    this.#lineBytes += text.length;
    if (this.#lineBytes >= manifestBytesMax) await this.#writeManifest("one of several");
  }

  async #writeManifest(part: "last" | "one of several"): Promise<void> {
    this.#partCount += 1;
    const isOnly = part === "last" && this.#partCount === 1;
    const suffix = isOnly ? "" : `-${String(this.#partCount).padStart(5, "0")}`;
    const content = Buffer.from(this.#lines.join(""));
    this.#lines = [];
    this.#lineBytes = 0;
    const mtime = new Date(this.#nowMs);
    await this.#write({ name: `manifest${suffix}.ndjson`, size: content.length, mtime }, content);
  }
}

/**
 * A blob as it was given, if it is in memory or has to be; undefined if it is better read in pieces. What
 * does not verify or unpack after all is a value.
 */
async function contentOf(reader: NeedleReader): Promise<Buffer | undefined | Failure> {
  try {
    if (reader.head.codec !== codecs.none) return await reader.content();
    const whole = reader.whole();
    return whole === undefined ? undefined : Buffer.from(whole); // that memory is used again
  } catch (error) {
    if (error instanceof Failure && error.kind === "corrupt") return error;
    throw error;
  }
}

/** When the blob was made, if whoever stored it said so, else when it was stored. */
function modifiedSeconds({ timeMs }: NeedleHead, metadata: unknown): number {
  const { modified } = (metadata ?? {}) as { modified?: unknown };
  const seconds = typeof modified === "number" ? modified : timeMs / 1_000;
  return Math.min(Math.max(Math.floor(seconds), 0), modifiedSecondsMax);
}
