/** Sizes, rates and times as people write and read them. */

const factors: Record<string, number> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/** Bytes that `text` says (`4096`, `50MB`, `1.5GiB`), or undefined if it says none. */
export function parseBytes(text: string): number | undefined {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)$/i.exec(text.trim());
  const factor = factors[(match?.[2] ?? "").toLowerCase()];
  if (match === null || factor === undefined) return undefined;
  const bytes = Math.round(Number(match[1]) * factor);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Bytes a second that `text` says (`50MB/s`, `50MB`; 0 is no limit), or undefined if it says none. */
export function parseRate(text: string): number | undefined {
  return parseBytes(text.trim().replace(/\s*\/\s*s$/i, ""));
}

/** Bytes in the largest binary unit that leaves a number of one to three digits before the point. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1_000 && unit < units.length - 1) {
    value /= 1_024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** A time in its two largest units: `40 ms`, `1.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`. */
export function formatDuration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  const units = [
    { name: "d", seconds: 86_400 },
    { name: "h", seconds: 3_600 },
    { name: "min", seconds: 60 },
    { name: "s", seconds: 1 },
  ];
  let seconds = Math.round(ms / 1_000);
  const first = units.findIndex((unit) => seconds >= unit.seconds);
  const parts: string[] = [];
  for (const unit of units.slice(first, first + 2)) {
    const count = Math.floor(seconds / unit.seconds);
    if (count > 0) parts.push(`${count} ${unit.name}`);
    seconds -= count * unit.seconds;
  }
  return parts.join(" ");
}
