/**
 * Whether an `Accept-Encoding` header wants `coding` at least as much as the plain form (RFC 9110, 12.5.3).
 * It has to name it: who sends `*` seldom knows the newer ones.
 */
export function wantsCoding(header: string | undefined, coding: string): boolean {
  const weights = new Map<string, number>();
  for (const part of header?.split(",") ?? []) {
    const [name = "", ...parameters] = part.split(";");
    const weight = parameters.map((text) => /^\s*q=([0-9.]+)\s*$/i.exec(text)?.[1]).find(Boolean);
    weights.set(name.trim().toLowerCase(), weight === undefined ? 1 : Number(weight));
  }
  const wanted = weights.get(coding) ?? 0;
  return wanted > 0 && wanted >= (weights.get("identity") ?? 0);
}
