/**
 * The volume descriptor: the small file beside a volume that says what may be done with it. It changes
 * when an epoch begins or the volume is sealed, and is replaced whole each time.
 */

import { z } from "zod";
import { crc32 } from "../../base/checksum.ts";
import { Failure, messageOf } from "../../base/failure.ts";
import type { FileSystem } from "../../base/files.ts";

export interface Descriptor {
  format: 1;
  volume: number;
  /** 32 hex digits. */
  uuid: string;
  generation: number;
  /** The highest epoch this copy has ever obeyed. */
  epoch: number;
  /** Ids of the stores that have a copy, the primary first: those that an append has to reach. */
  members: string[];
  state: "open" | "sealed" | "dropped" | "trashed";
  /** Since when a volume in the trash is there. */
  trashedMs?: number | undefined;
  /** Bytes of the volume file that count, once sealed, and their digest (hex) where it is known. */
  sealedLength?: number | undefined;
  sealedDigest?: string | undefined;
  /** Bytes that were acknowledged when the store last stopped in good order. */
  closedLength?: number | undefined;
  /** Records that the delete log had when this was written: so many are there, or it is damaged. */
  deleteRecords?: number | undefined;
  /** When every byte was last read and verified, milliseconds since 1970. */
  scrubbedMs?: number | undefined;
  /** Bytes that did not verify when they were last read: a start need not come upon them again. */
  damagedBytes?: number | undefined;
  /**
   * The volume's file is a copy that may still have its temporary name, and what it takes the place of the
   * volume's: that one is set aside under this time.
   */
  switching?: { sinceMs: number } | undefined;
  /** Other generations whose files are kept for a while, and since when. */
  trash?: { generation: number; sinceMs: number }[] | undefined;
}

const descriptorSchema: z.ZodType<Descriptor> = z.strictObject({
  format: z.literal(1),
  volume: z.int().positive(),
  uuid: z.string().regex(/^[0-9a-f]{32}$/),
  generation: z.int().nonnegative(),
  epoch: z.int().nonnegative(),
  members: z.array(z.string().regex(/^[0-9a-f]{16}$/)),
  state: z.enum(["open", "sealed", "dropped", "trashed"]),
  trashedMs: z.int().nonnegative().optional(),
  sealedLength: z.int().positive().optional(),
  sealedDigest: z.string().optional(),
  closedLength: z.int().positive().optional(),
  deleteRecords: z.int().nonnegative().optional(),
  scrubbedMs: z.int().positive().optional(),
  damagedBytes: z.int().nonnegative().optional(),
  switching: z.strictObject({ sinceMs: z.int().nonnegative() }).optional(),
  trash: z
    .array(z.strictObject({ generation: z.int().nonnegative(), sinceMs: z.int().nonnegative() }))
    .optional(),
});

/** One line of JSON, and a line with its CRC-32 in hex. */
function encodeDescriptor(descriptor: Descriptor): Buffer {
  const json = JSON.stringify(descriptor);
  return Buffer.from(`${json}\n${crc32(Buffer.from(json)).toString(16).padStart(8, "0")}\n`);
}

export function decodeDescriptor(bytes: Buffer, file: string): Descriptor {
  const [json = "", crc] = bytes.toString("utf8").split("\n");
  if (crc !== crc32(Buffer.from(json)).toString(16).padStart(8, "0")) {
    throw new Failure("corrupt", `Cannot read ${file}: its checksum does not match`);
  }
  try {
    return descriptorSchema.parse(JSON.parse(json));
  } catch (error) {
    throw new Failure("corrupt", `Cannot read ${file}: ${messageOf(error)}`, { cause: error });
  }
}

export async function writeDescriptor(
  files: FileSystem,
  file: string,
  descriptor: Descriptor,
): Promise<void> {
  await files.replace(file, encodeDescriptor(descriptor));
}
