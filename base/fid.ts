/**
 * A fid names one blob for ever: `<volume>,<ordinal hex><cookie, 8 hex digits>`, as in `3,01637037d6`.
 *
 * The form is SeaweedFS's: the ordinal has an even number of hex digits, at least two, and no leading
 * zero bytes; the cookie always has eight. `formatFid` writes only that form, `parseFid` takes only it.
 */

export interface Fid {
  /** Volume id, 1 … 2^32 − 1. */
  volume: number;
  /** Place of the needle in its volume: 0, 1, 2, … */
  ordinal: number;
  /** 32 random bits; a reader who can't present them gets 404. */
  cookie: number;
}

const fidPattern = /^([1-9][0-9]{0,9}),((?:[0-9a-f]{2}){1,4})([0-9a-f]{8})$/;

export function formatFid({ volume, ordinal, cookie }: Fid): string {
  const digits = ordinal.toString(16);
  const even = digits.length % 2 === 0 ? digits : `0${digits}`;
  return `${volume},${even}${cookie.toString(16).padStart(8, "0")}`;
}

/** The fid that `text` writes, or undefined if it writes none. */
export function parseFid(text: string): Fid | undefined {
  const match = fidPattern.exec(text);
  if (match === null) return undefined;
  const [, volumeText = "", ordinalText = "", cookieText = ""] = match;
  const volume = Number(volumeText);
  if (volume > 0xffff_ffff) return undefined;
  if (ordinalText.length > 2 && ordinalText.startsWith("00")) return undefined;
  return {
    volume,
    ordinal: Number.parseInt(ordinalText, 16),
    cookie: Number.parseInt(cookieText, 16),
  };
}
