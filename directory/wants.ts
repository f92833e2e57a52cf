/**
 * Which volumes gateways want to write to: a class and a placement, as `copies=2 spread=rack` for originals
 * and `variant/copies=1 spread=machine` for another class. Remembered for a while after a gateway last said
 * so; nothing is written down, since gateways say it again and again.
 */

import { Failure } from "../base/failure.ts";
import { parsePlacement, placementText } from "./placement.ts";
import type { VolumeClass } from "./protocol.ts";
import { onePlacementText } from "./records.ts";

export interface Want {
  class: VolumeClass;
  /** `placementText` of placement.ts. */
  placement: string;
}

const wantMs = 600_000;

/** So that nobody fills the memory with what nobody uses. */
const wantsMax = 100;

const classes: ReadonlySet<string> = new Set<VolumeClass>(["original", "variant", "journal"]);

export function wantText({ class: volumeClass, placement }: Want): string {
  return volumeClass === "original" ? placement : `${volumeClass}/${placement}`;
}

function parseWant(text: string): Want {
  const at = text.indexOf("/");
  const volumeClass = at === -1 ? "original" : text.slice(0, at);
  if (!classes.has(volumeClass)) {
    throw new Failure(
      "bad-request",
      `Cannot want volumes of class "${volumeClass}": gateways write original, variant and journal`,
    );
  }
  const placement = placementText(parsePlacement(text.slice(at + 1)));
  return { class: volumeClass as VolumeClass, placement };
}

export class Wants {
  readonly #wants = new Map<string, { want: Want; saidMs: number }>();

  /** Returns whether one of them is news. */
  add(texts: readonly string[], nowMs: number): boolean {
    let isNews = false;
    for (const text of texts) {
      const want = parseWant(text);
      const key = wantText(want);
      isNews ||= !this.#wants.has(key);
      this.#wants.delete(key);
      this.#wants.set(key, { want, saidMs: nowMs });
    }
    for (const [key, { saidMs }] of this.#wants) {
      if (this.#wants.size > wantsMax || nowMs - saidMs > wantMs) this.#wants.delete(key);
    }
    return isNews;
  }

  /** One copy of originals is always wanted: it is what buckets have that ask for nothing else. */
  all(nowMs: number): Want[] {
    const one = { class: "original", placement: onePlacementText } as const;
    const said = [...this.#wants.values()].filter(({ saidMs }) => nowMs - saidMs <= wantMs);
    const others = said.filter(({ want }) => wantText(want) !== wantText(one));
    return [one, ...others.map(({ want }) => want)];
  }
}
