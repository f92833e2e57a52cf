/**
 * Text in header fields. Node reads and writes the bytes of a header as Latin-1, while people mean UTF-8.
 */

/** What a header's value says: UTF-8 where it is that, else Latin-1. */
export function decodeHeaderText(value: string): string {
  if (/^\p{ASCII}*$/u.test(value)) return value;
  const bytes = Buffer.from(value, "latin1");
  const text = bytes.toString("utf8");
  return Buffer.from(text, "utf8").equals(bytes) ? text : value;
}

/** `text` in the form that Node writes out as UTF-8: the reverse of `decodeHeaderText`. */
export function encodeHeaderText(text: string): string {
  return /^\p{ASCII}*$/u.test(text) ? text : Buffer.from(text, "utf8").toString("latin1");
}
