/** How orders ended lately: what failed is not tried again at once, nor is the same said twice in a row. */

import type { OrderKind } from "./protocol.ts";

/** After an order of a kind failed, how long the same is not ordered again by itself. */
const failureMs: Record<OrderKind, number> = {
  create: 10_000,
  "begin-epoch": 60_000,
  fence: 5_000,
  seal: 60_000,
  copy: 60_000,
  rejoin: 5_000,
  "delete-copy": 60_000,
  compact: 86_400_000,
  verify: 0,
  drop: 60_000,
  import: 0,
};

/** A report that shows the effect comes with the end of the order; one that does not gets this long. */
const doneMs = 5_000;

interface Setback {
  kind: OrderKind;
  volume: number;
  store: string;
  /** Of the store: what another run did counts for nothing. Undefined of what failed. */
  run: string | undefined;
  untilMs: number;
}

export class Setbacks {
  readonly #byKey = new Map<string, Setback>();

  note(ended: Omit<Setback, "untilMs">, nowMs: number): void {
    const waitMs = ended.run === undefined ? failureMs[ended.kind] : doneMs;
    if (waitMs === 0) return;
    this.#byKey.set(keyOf(ended), { ...ended, untilMs: nowMs + waitMs });
  }

  hasFailed(kind: OrderKind, volume: number, store: string): boolean {
    const setback = this.#byKey.get(keyOf({ kind, volume, store }));
    return setback !== undefined && setback.run === undefined;
  }

  hasEnded(kind: OrderKind, volume: number, store: string, run: string): boolean {
    const setback = this.#byKey.get(keyOf({ kind, volume, store }));
    return setback !== undefined && (setback.run === undefined || setback.run === run);
  }

  /** Whether the store lately failed at an order of a kind, of whichever volume. */
  hasFailedAt(kind: OrderKind, store: string): boolean {
    for (const setback of this.#byKey.values()) {
      if (setback.kind === kind && setback.store === store && setback.run === undefined)
        return true;
    }
    return false;
  }

  /** Stores that lately failed at an order of a kind for the volume. */
  storesOf(kind: OrderKind, volume: number): string[] {
    return [...this.#byKey.values()]
      .filter((each) => each.volume === volume && each.kind === kind && each.run === undefined)
      .map(({ store }) => store);
  }

  failuresOf(store: string, kind: OrderKind): number[] {
    return [...this.#byKey.values()]
      .filter((each) => each.store === store && each.kind === kind && each.run === undefined)
      .map(({ volume }) => volume);
  }

  /** Forgets what is over, and returns the volumes of it. */
  expire(nowMs: number): Set<number> {
    const volumes = new Set<number>();
    for (const [key, { untilMs, volume }] of this.#byKey) {
      if (untilMs > nowMs) continue;
      this.#byKey.delete(key);
      volumes.add(volume);
    }
    return volumes;
  }
}

function keyOf({
  kind,
  volume,
  store,
}: {
  kind: OrderKind;
  volume: number;
  store: string;
}): string {
  return `${kind}/${volume}/${store}`;
}
