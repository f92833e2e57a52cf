/**
 * What a store knows of one needle: where it lies, and whether its bytes verify, read anew for that.
 *
 * Invariant: who does not have the cookie learns nothing of the needle.
 */

import { Failure } from "../base/failure.ts";
import type { Fid } from "../base/fid.ts";
import type { Volume } from "./volume/volume.ts";
import { codecName } from "./volume-facts.ts";

export interface NeedleFacts {
  generation: number;
  /** Of the volume: under which it is, or was last, written. */
  epoch: number;
  volumeState: "open" | "sealed";
  /** Whether this copy answers reads. */
  isServing: boolean;
  /** When every byte of the volume was last verified; 0 if never. */
  scrubbedMs: number;
  /** Of the whole volume. */
  damagedBytes: number;
  needle?: NeedlePlace;
  /** Why there is no `needle`, or why its bytes do not verify. */
  problem?: string;
}

interface NeedlePlace {
  offset: number;
  /** Header, data and footer. */
  length: number;
  codec: string;
  /** Bytes as stored, and before the codec. */
  dataLength: number;
  contentLength: number;
  timeMs: number;
  ttlSeconds: number;
  isDeleted: boolean;
  /** Whether all its bytes were read just now and found well. */
  isVerified: boolean;
}

export async function needleFactsOf(
  volume: Volume,
  { ordinal, cookie }: Fid,
  { verifies }: { verifies: boolean },
): Promise<NeedleFacts> {
  const { generation, epoch, state, isServing, scrubbedMs, damagedBytes } = volume.report();
  const facts: NeedleFacts = {
    ...{ generation, epoch, volumeState: state, isServing, scrubbedMs, damagedBytes },
  };
  try {
    const reader = await volume.find(ordinal, cookie, { deletedToo: true });
    if (reader === undefined) return { ...facts, problem: "it has no such needle" };
    try {
      const { head } = reader;
      const { offset, length, dataLength, contentLength, timeMs, ttlSeconds } = head;
      facts.needle = {
        ...{ offset, length, dataLength, contentLength, timeMs, ttlSeconds },
        codec: codecName(head),
        isDeleted: volume.isDeleted(ordinal),
        isVerified: false,
      };
      if (verifies) {
        for await (const _ of reader.pieces(0, dataLength)); // read for their checksums alone
        facts.needle.isVerified = true;
      }
    } finally {
      reader.close();
    }
    return facts;
  } catch (error) {
    if (error instanceof Failure) return { ...facts, problem: error.message };
    throw error;
  }
}
