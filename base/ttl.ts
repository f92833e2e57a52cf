/** How long a blob lives, in SeaweedFS's grammar: `3m`, `4h`, `5d`, `6w`, `7M`, `8y`; a bare number is minutes. */

const minutesByUnit = { m: 1, h: 60, d: 1_440, w: 10_080, M: 43_200, y: 525_600 } as const;
type Unit = keyof typeof minutesByUnit;

const units = Object.keys(minutesByUnit) as Unit[];

/** The most that still fits in 32 bits of seconds when it is rounded up to a power of two: 127 years. */
const minutesMax = 2 ** 26;

/** SeaweedFS writes a life as a byte and a unit. */
const unitCountMax = 255;

/** The seconds that `text` says, 0 if it is empty or zero, or undefined if it says none. */
export function parseTtl(text: string): number | undefined {
  if (text === "") return 0;
  const match = /^([0-9]{1,10})([mhdwMy]?)$/.exec(text);
  if (match === null) return undefined;
  const unit = (match[2] === "" ? "m" : match[2]) as Unit;
  const minutes = Number(match[1]) * minutesByUnit[unit];
  return minutes <= minutesMax ? minutes * 60 : undefined;
}

/** Count and unit as SeaweedFS shows a life, rounded up where it has no such number. */
export function splitTtl(ttlSeconds: number): { count: number; unit: Unit } | undefined {
  if (ttlSeconds === 0) return undefined;
  const countIn = (unit: Unit) => Math.ceil(ttlSeconds / 60 / minutesByUnit[unit]);
  const unit = units.find((each) => countIn(each) <= unitCountMax) ?? "y";
  return { count: countIn(unit), unit };
}

/** The number that SeaweedFS has for a unit, from 1. */
export function ttlUnitNumber(unit: Unit): number {
  return units.indexOf(unit) + 1;
}
