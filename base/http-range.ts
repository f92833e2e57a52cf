/** The `Range` header (RFC 9110, section 14): of one byte range, or of a few. */

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

/** More than so many are answered whole: nobody honest asks for them. */
const rangesMax = 16;

/**
 * The ranges that `header` asks for, in its order and without those beyond the end: undefined when it is
 * to be ignored, which it also is when they are many or come to more than the whole.
 */
export function parseRanges(
  header: string | undefined,
  length: number,
): ByteRange[] | "unsatisfiable" | undefined {
  if (header === undefined) return undefined;
  const texts = header.replace(/^bytes=/i, "").split(",", rangesMax + 1);
  if (texts.length > rangesMax || !/^bytes=/i.test(header)) return undefined;
  const ranges: ByteRange[] = [];
  for (const text of texts) {
    if (text.trim() === "" && texts.length > 1) continue; // lists may have holes
    const range = parseRange(`bytes=${text.trim()}`, length);
    if (range === undefined) return undefined;
    if (range !== "unsatisfiable") ranges.push(range);
  }
  if (ranges.length === 0) return "unsatisfiable";
  const asked = ranges.reduce((sum, { start, end }) => sum + end - start, 0);
  return ranges.length > 1 && asked > length ? undefined : ranges;
}
