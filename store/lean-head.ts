/**
 * The head of a simple request: GET of a fid, signed, with nothing that could change the answer.
 *
 * Invariants:
 * - What is simple is told by what may be there, byte by byte, and never by what may not.
 * - node:http takes every simple head, too, and for the same request.
 */

import { signatureHeader } from "../base/call-signature.ts";
import { type Fid, parseFid } from "../base/fid.ts";
import { requestIdHeader } from "../base/http-serve.ts";

/** Of the bytes at some place: `partial` may still become simple, `other` never will. */
type Reading = "simple" | "partial" | "other";

/** Longer heads are not simple. */
const headBytesMax = 8_192;

const namesAllowed: readonly string[] = [
  "host",
  "user-agent",
  "accept",
  "accept-encoding",
  "connection",
  signatureHeader,
  requestIdHeader,
];
const requestLine = /GET (\/([0-9]{1,10},[0-9a-f]{10,16})) HTTP\/1\.1\r\n/y;
const headerLine = new RegExp(`(${namesAllowed.join("|")}): ([!-~][ -~]*)\r\n`, "iy");
const signatureLine = new RegExp(`${signatureHeader}: ([!-~]+)\r\n`, "iy");
const openLine = /[ -~]*\r?$/y;

/** Reads the heads of one connection, one after the other. */
export class HeadReader {
  readonly #admits: (path: string, signature: string) => boolean;
  /**
   * The headers of a head that was simple, before and after its signature: the next request of a client
   * mostly has the same.
   */
  #known = { before: "", after: "" };
  #fid: Fid = { volume: 0, ordinal: 0, cookie: 0 };
  #end = 0;

  constructor(admits: (path: string, signature: string) => boolean) {
    this.#admits = admits;
  }

  /** What the head that was simple asks for. */
  get fid(): Fid {
    return this.#fid;
  }

  /** Where the head that was simple ends. */
  get end(): number {
    return this.#end;
  }

  /** Looks for a head at `from`. `text` is the bytes as latin1, so that each is one character. */
  read(text: string, from: number): Reading {
    requestLine.lastIndex = from;
    const [, path = "", fidText = ""] = requestLine.exec(text) ?? [];
    if (path === "") {
      const isGet = "GET /".startsWith(text.slice(from, from + 5));
      return isGet && isOpen(text, from, from) ? "partial" : "other";
    }
    const headersAt = requestLine.lastIndex;
    const signature = this.#readKnown(text, headersAt) ?? this.#readHeaders(text, from, headersAt);
    if (signature === "partial" || signature === "other") return signature;
    const fid = parseFid(fidText);
    if (fid === undefined || !this.#admits(path, signature)) return "other";
    this.#fid = fid;
    return "simple";
  }

  /** The signature, if the headers are those of the request before. */
  #readKnown(text: string, headersAt: number): string | undefined {
    const { before, after } = this.#known;
    if (after === "" || !text.startsWith(before, headersAt)) return undefined;
    signatureLine.lastIndex = headersAt + before.length;
    const signature = signatureLine.exec(text)?.[1];
    if (signature === undefined || !text.startsWith(after, signatureLine.lastIndex)) {
      return undefined;
    }
    this.#end = signatureLine.lastIndex + after.length;
    return signature;
  }

  #readHeaders(text: string, from: number, headersAt: number): string {
    let signature = "";
    let signatureAt = 0;
    let signatureEnd = 0;
    let seen = 0;
    let at = headersAt;
    for (;;) {
      headerLine.lastIndex = at;
      const [, anyCase = "", value = ""] = headerLine.exec(text) ?? [];
      if (anyCase === "") break;
      const name = anyCase.toLowerCase();
      const bit = 1 << namesAllowed.indexOf(name);
      if ((seen & bit) !== 0) return "other";
      seen |= bit;
      if (name === signatureHeader) {
        signature = value;
        signatureAt = at;
        signatureEnd = headerLine.lastIndex;
      } else if (name === "connection" && !/^keep-alive$/i.test(value)) return "other";
      else if (name === "accept-encoding" && /zstd/i.test(value)) return "other";
      at = headerLine.lastIndex;
    }
    if (!text.startsWith("\r\n", at)) return isOpen(text, from, at) ? "partial" : "other";
    const end = at + 2;
    const hasHost = (seen & (1 << namesAllowed.indexOf("host"))) !== 0;
    if (!hasHost || signature === "" || end - from > headBytesMax) return "other";
    // A part of a text keeps all of it in memory.
    if (text.length <= headBytesMax) {
      this.#known = {
        before: text.slice(headersAt, signatureAt),
        after: text.slice(signatureEnd, end),
      };
    }
    this.#end = end;
    return signature;
  }
}

/** Whether the line at `at` of the head at `from` has not come to its end. */
function isOpen(text: string, from: number, at: number): boolean {
  openLine.lastIndex = at;
  return text.length - from <= headBytesMax && openLine.test(text);
}
