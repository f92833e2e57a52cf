/** The `Range` header of one byte range (RFC 9110, section 14). Several ranges are answered whole. */

export interface ByteRange {
  start: number;
  /** One past the last byte. */
  end: number;
}

const rangePattern = /^bytes=\s*([0-9]*)\s*-\s*([0-9]*)\s*$/i;

/**
 * The range that `header` asks for of something `length` bytes long: undefined when the header is to be
 * ignored (not a single byte range), "unsatisfiable" when it lies beyond the end.
 */
export function parseRange(
  header: string | undefined,
  length: number,
): ByteRange | "unsatisfiable" | undefined {
  const match = header === undefined ? null : rangePattern.exec(header);
  if (match === null) return undefined;
  const [, first = "", last = ""] = match;
  if (first === "" && last === "") return undefined;
  if (first === "") {
    const suffix = Math.min(Number(last), length);
    return suffix === 0 ? "unsatisfiable" : { start: length - suffix, end: length };
  }
  const start = Number(first);
  if (last !== "" && Number(last) < start) return undefined; // not a range at all: to be ignored
  if (start >= length) return "unsatisfiable";
  return { start, end: last === "" ? length : Math.min(Number(last) + 1, length) };
}
