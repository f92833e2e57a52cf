/** The headers of a blob's data, the same whichever way it is sent. */

// One slot for each second, the latest wins: what is read together was mostly stored together.
const slots = 1_024;
const seconds: number[] = new Array(slots).fill(-1);
const texts: string[] = new Array(slots).fill("");

/** Name and value in turn, as `writeHead` takes them. */
export function readHeaders({ timeMs, length }: { timeMs: number; length: number }): string[] {
  return [
    "Content-Type",
    "application/octet-stream",
    "Last-Modified",
    httpDate(timeMs),
    "Accept-Ranges",
    "bytes",
    "Content-Length",
    String(length),
  ];
}

/** The same as lines. */
export function readHeaderLines({ timeMs, length }: { timeMs: number; length: number }): string {
  return `Content-Type: application/octet-stream\r\nLast-Modified: ${httpDate(timeMs)}\r\nAccept-Ranges: bytes\r\nContent-Length: ${length}\r\n`;
}

/** A time as HTTP writes it. */
export function httpDate(timeMs: number): string {
  const second = Math.floor(timeMs / 1_000);
  const slot = second % slots;
  if (seconds[slot] !== second) {
    seconds[slot] = second;
    texts[slot] = new Date(second * 1_000).toUTCString();
  }
  return texts[slot] ?? "";
}
