/**
 * How blobs are stored smaller: LZ4 or zstd where the media type promises something and trying keeps the
 * promise. Pictures, films and archives are compressed already and stay as they are.
 *
 * Invariant: what comes out is byte for byte what went in, of exactly the length that was noted.
 */

import { promisify } from "node:util";
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import { compress as lz4Compress, uncompress as lz4Decompress } from "lz4-napi";
import { Failure, messageOf } from "../../base/failure.ts";
import { type Codec, codecs } from "./needle.ts";

/** Under this there is nothing to gain that the needle's own overhead would not eat. */
const triedBytesMin = 256;
/** A codec has to save an eighth, and zstd another eighth of what LZ4 leaves: it is slower to read. */
const savedShareMin = 1 / 8;
/** The level that zstd itself takes when nobody says; higher ones cost uploads more than they save. */
const zstdLevel = 3;
/** The form that lz4-napi writes: the length before compression as a u32, then one LZ4 block. */
const lz4LengthBytes = 4;

const compressibleTypes = new Set([
  "application/geo+json",
  "application/graphql",
  "application/javascript",
  "application/json",
  "application/ld+json",
  "application/manifest+json",
  "application/msword",
  "application/pdf",
  "application/rtf",
  "application/sql",
  "application/toml",
  "application/vnd.ms-fontobject",
  "application/wasm",
  "application/x-ndjson",
  "application/x-sh",
  "application/x-tar",
  "application/xml",
  "application/yaml",
  "audio/wav",
  "audio/x-wav",
  "font/otf",
  "font/ttf",
  "image/bmp",
  "image/svg+xml",
  "image/tiff",
  "image/x-portable-pixmap",
]);

const zstd = { compress: promisify(zstdCompress), decompress: promisify(zstdDecompress) };

function isCompressible(type: string): boolean {
  const bare = type.split(";", 1)[0]?.trim().toLowerCase() ?? "";
  const isText = bare.startsWith("text/") || bare.endsWith("+json") || bare.endsWith("+xml");
  return isText || compressibleTypes.has(bare);
}

/** `content` of media type `type` as it is to be stored. */
export async function encodeContent(
  content: Buffer,
  type: string,
): Promise<{ codec: Codec; data: Buffer }> {
  const plain = { codec: codecs.none, data: content };
  if (content.length < triedBytesMin || !isCompressible(type)) return plain;
  // LZ4 first, because it tells in little time whether there is anything to gain.
  const fast = await lz4Compress(content);
  if (fast.length > content.length * (1 - savedShareMin)) return plain;
  const small = await zstd.compress(content, {
    params: { [constants.ZSTD_c_compressionLevel]: zstdLevel },
  });
  return small.length <= fast.length * (1 - savedShareMin)
    ? { codec: codecs.zstd, data: small }
    : { codec: codecs.lz4, data: fast };
}

/** The content of `contentLength` bytes that was stored as `data`. Fails with `corrupt` if it is another. */
export async function decodeContent(
  codec: Codec,
  data: Buffer,
  contentLength: number,
): Promise<Buffer> {
  try {
    const content = await decode(codec, data, contentLength);
    if (content.length === contentLength) return content;
    throw new Error(`there are ${content.length} bytes and ${contentLength} were stored`);
  } catch (error) {
    throw new Failure("corrupt", `Cannot decompress a blob: ${messageOf(error)}`, { cause: error });
  }
}

async function decode(codec: Codec, data: Buffer, contentLength: number): Promise<Buffer> {
  switch (codec) {
    case codecs.none:
      return data;
    case codecs.lz4:
      // Looked at before anything is allocated for it.
      if (data.length < lz4LengthBytes || data.readUInt32LE(0) !== contentLength) {
        throw new Error("its length is another than was noted");
      }
      return await lz4Decompress(data);
    case codecs.zstd:
      return await zstd.decompress(data, { maxOutputLength: Math.max(contentLength, 1) });
  }
}
