/**
 * The path of a native call: SeaweedFS's five forms of a fid in a URL.
 *
 *   /3,01637037d6   /3,01637037d6.jpg   /3/01637037d6   /3/01637037d6.jpg   /3/01637037d6/name.jpg
 *
 * In each the fid may end in `_<delta>`: the blob that many keys further on (base/reserved-cookie.ts).
 */

import path from "node:path";

export interface NativePath {
  volume: number;
  /** With the delta. */
  key: bigint;
  /** Without it. */
  runKey: bigint;
  cookie: number;
  /** The last segment, decoded: what a blob is called that brings no name. */
  lastSegment: string;
  /** The name in the form `/3/01637037d6/name.jpg`. */
  fileName: string | undefined;
  /** With its dot, of the last segment; "" if there is none. */
  extension: string;
}

const forms = /^\/([0-9]{1,10})(?:,([^/]+)|\/([^/]+)(?:\/([^/]*))?)$/;
const fidPattern = /^([0-9a-f]{1,16})([0-9a-f]{8})(?:_([0-9]{1,20}))?$/i;
const keyMax = 0xffff_ffff_ffff_ffffn;

/** Whether a path is meant to name a blob, well or badly. */
export function isNativePath(pathname: string): boolean {
  return /^\/[0-9]+(?:,|%2c|\/)/i.test(pathname);
}

/** What a path (still percent-encoded, without its query) names, or undefined if it is none of the forms. */
export function parseNativePath(pathname: string): NativePath | undefined {
  let decoded: string;
  try {
    decoded = decodeURIComponent(pathname);
  } catch {
    return undefined;
  }
  const match = forms.exec(decoded);
  if (match === null) return undefined;
  const [, volumeText = "", afterComma, afterSlash, fileName] = match;
  const segment = afterComma ?? afterSlash ?? "";
  const extension = path.posix.extname(fileName ?? segment);
  const fid = fidPattern.exec(
    fileName === undefined ? segment.slice(0, segment.length - extension.length) : segment,
  );
  if (fid === null) return undefined;
  const [, keyText = "", cookieText = "", deltaText = "0"] = fid;
  const runKey = BigInt(`0x${keyText}`);
  const key = runKey + BigInt(deltaText);
  const volume = Number(volumeText);
  if (key > keyMax || volume > 0xffff_ffff) return undefined;
  return {
    volume,
    key,
    runKey,
    cookie: Number.parseInt(cookieText, 16),
    lastSegment: path.posix.basename(decoded),
    fileName: fileName || undefined,
    extension,
  };
}
