/**
 * Reads along in the archive of a volume while it goes to where it is kept: what was left out stands in its
 * manifest, and that it came whole in the manifest's last line.
 */

import { once } from "node:events";
import { extract } from "tar-stream";
import { Failure, messageOf } from "./base/failure.ts";
import type { ExportSummary, ManifestLine } from "./store/client.ts";

export class ExportReader {
  readonly damage: NonNullable<ManifestLine["damage"]>[] = [];
  summary: ExportSummary | undefined;
  readonly #extract = extract();
  readonly #reading: Promise<void>;
  readonly #onBytes: (bytes: number) => void;

  /** `onBytes` is told how many have passed. */
  constructor(onBytes: (bytes: number) => void) {
    this.#onBytes = onBytes;
    this.#reading = this.#read();
    this.#reading.catch(() => undefined); // told at the end
  }

  /** The archive unchanged. Fails at its end if it is not whole. */
  async *pass(archive: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    let bytes = 0;
    for await (const piece of archive) {
      if (!this.#extract.write(piece))
        await Promise.race([once(this.#extract, "drain"), this.#reading]);
      bytes += piece.length;
      this.#onBytes(bytes);
      yield piece;
    }
    this.#extract.end(undefined);
    try {
      await this.#reading;
    } catch (error) {
      throw new Failure("corrupt", `Cannot export: the archive is cut off (${messageOf(error)})`);
    }
    if (this.summary === undefined) {
      throw new Failure("corrupt", "Cannot export: the archive ends without its manifest");
    }
  }

  async #read(): Promise<void> {
    for await (const entry of this.#extract) {
      if (!isManifest(entry.header.name)) {
        entry.resume();
        continue;
      }
      const parts: Buffer[] = [];
      for await (const part of entry) parts.push(part as Buffer);
      for (const line of Buffer.concat(parts).toString().trimEnd().split("\n")) {
        const { damage, summary } = JSON.parse(line) as ManifestLine;
        if (damage !== undefined) this.damage.push(damage);
        this.summary ??= summary;
      }
    }
  }
}

function isManifest(name: string): boolean {
  return /^manifest(?:-[0-9]{5})?\.ndjson$/.test(name);
}
