/** A child that scrubs a volume, and for comparison does nothing to the same bytes but checksums. */

import { createHash } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { crc32 } from "node:zlib";
import type { Volume } from "../../store/volume/volume.ts";
import { volumeFile } from "../../store/volume/volume-files.ts";
import { serve } from "./child.ts";
import { onlyVolume, openStore } from "./folder.ts";

export type ScrubRequest =
  | { kind: "open"; folder: string }
  | { kind: "scrub" }
  /** CRC-32 and SHA-256 of the file, a MiB at a time. */
  | { kind: "checksums" };

export interface ScrubAnswer {
  seconds: number;
  lengthBytes: number;
}

const pieceBytes = 2 ** 20;

let volume: Volume | undefined;
let file = "";

async function answer(request: ScrubRequest): Promise<ScrubAnswer> {
  if (request.kind === "open") {
    volume = onlyVolume(await openStore(request.folder));
    file = volumeFile(request.folder, volume.superblock);
  }
  if (volume === undefined) throw new Error("Cannot scrub: nothing is open");
  const startedMs = performance.now();
  if (request.kind === "scrub") {
    const findings = await volume.scrub({ rateBytes: 0 });
    if (findings.length > 0)
      throw new Error(`Cannot count a scrub with ${findings.length} findings`);
  }
  if (request.kind === "checksums") checksumFile(file);
  const seconds = (performance.now() - startedMs) / 1_000;
  return { seconds, lengthBytes: volume.report().lengthBytes };
}

function checksumFile(name: string): void {
  const descriptor = openSync(name, "r");
  const piece = Buffer.allocUnsafeSlow(pieceBytes);
  const sha256 = createHash("sha256");
  let crc = 0;
  for (;;) {
    const count = readSync(descriptor, piece);
    if (count === 0) break;
    crc = crc32(piece.subarray(0, count), crc);
    sha256.update(piece.subarray(0, count));
  }
  closeSync(descriptor);
  sha256.digest();
}

await serve(answer);
