/**
 * The head of a simple request: GET of a fid with a pass, and nothing that could change the answer.
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
const requestLine = /GET \/([0-9]{1,10},[0-9a-f]{10,16}) HTTP\/1\.1\r\n/y;
const headerLine = new RegExp(`(${namesAllowed.join("|")}): ([!-~][ -~]*)\r\n`, "iy");
const openLine = /[ -~]*\r?$/y;

/** Reads the heads of one connection, one after the other. */
export class HeadReader {
  readonly #admits: (signature: string) => boolean;
  /** Headers and end of a head that was simple: the next request of a client mostly has the same. */
  #knownHeaders = "";
  /** The same text as long as it does not change: looking it up is cheap then. */
  #signature = "";
  #fid: Fid = { volume: 0, ordinal: 0, cookie: 0 };
  #end = 0;

  constructor(admits: (signature: string) => boolean) {
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
    const fidText = requestLine.exec(text)?.[1];
    if (fidText === undefined) {
      const isGet = "GET /".startsWith(text.slice(from, from + 5));
      return isGet && isOpen(text, from, from) ? "partial" : "other";
    }
    const headersAt = requestLine.lastIndex;
    if (this.#knownHeaders !== "" && text.startsWith(this.#knownHeaders, headersAt)) {
      this.#end = headersAt + this.#knownHeaders.length;
    } else {
      const reading = this.#readHeaders(text, from, headersAt);
      if (reading !== "simple") return reading;
    }
    // Each time: a signature grows too old.
    if (!this.#admits(this.#signature)) return "other";
    const fid = parseFid(fidText);
    if (fid === undefined) return "other";
    this.#fid = fid;
    return "simple";
  }

  #readHeaders(text: string, from: number, headersAt: number): Reading {
    let signature = "";
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
      if (name === signatureHeader) signature = value;
      else if (name === "connection" && !/^keep-alive$/i.test(value)) return "other";
      else if (name === "accept-encoding" && /zstd/i.test(value)) return "other";
      at = headerLine.lastIndex;
    }
    if (!text.startsWith("\r\n", at)) return isOpen(text, from, at) ? "partial" : "other";
    const end = at + 2;
    const hasHost = (seen & (1 << namesAllowed.indexOf("host"))) !== 0;
    if (!hasHost || end - from > headBytesMax) return "other";
    if (signature === "") return "other";
    // A part of a text keeps all of it in memory: hence the copy, and no long heads.
    if (signature !== this.#signature) this.#signature = Buffer.from(signature).toString();
    this.#knownHeaders = text.length <= headBytesMax ? text.slice(headersAt, end) : "";
    this.#end = end;
    return "simple";
  }
}

/** Whether the line at `at` of the head at `from` has not come to its end. */
function isOpen(text: string, from: number, at: number): boolean {
  openLine.lastIndex = at;
  return text.length - from <= headBytesMax && openLine.test(text);
}
