/**
 * What was promised in a run, and whether it is kept: looked at whenever a store answers, and at the end.
 *
 * Invariants (DESIGN.md, section 7, as far as the protocol goes):
 * - What a primary has acknowledged is at every copy that serves, with its bytes, until somebody deletes it.
 * - What all members have deleted is read nowhere again.
 * - No ordinal of a volume is given to two blobs, no epoch to two runs of a store, no id to two volumes,
 *   no number to two orders.
 */

import { Failure, messageOf } from "../../base/failure.ts";
import type { HeartbeatReply, Order } from "../../directory/client.ts";
import type { Trace } from "./trace.ts";

/** A blob that a primary has acknowledged, whether or not anybody heard of it. */
export interface PromisedBlob {
  fid: string;
  volume: number;
  data: Buffer;
  /** `asked` may be deleted anywhere, `done` is said to be everywhere. */
  deletion: "none" | "asked" | "done";
}

export interface Violation {
  kind: "lost" | "ghost" | "wrong" | "twice" | "diverged" | "stuck" | "broken";
  text: string;
  /** What tells of it in the trace. */
  words: string[];
}

/** Of a run that is broken the rest says nothing new. */
const violationsMax = 20;

export class Promises {
  readonly violations: Violation[] = [];
  readonly blobs: Map<string, PromisedBlob> = new Map();
  /** Those that a client has got the fid of. */
  readonly known: PromisedBlob[] = [];
  readonly counts: { puts: number; refusedPuts: number; reads: number; deletes: number } = {
    ...{ puts: 0, refusedPuts: 0, reads: 0, deletes: 0 },
  };
  readonly #trace: Trace;
  /** What a name was given to, first and for ever. */
  readonly #givenTo = new Map<string, string>();

  constructor(trace: Trace) {
    this.#trace = trace;
  }

  violate(kind: Violation["kind"], text: string, words: string[] = []): void {
    this.#trace.add("JUDGE", `${kind}: ${text}`);
    if (this.violations.length < violationsMax) this.violations.push({ kind, text, words });
  }

  /** A primary has acknowledged a blob. */
  appended(
    { fid, volume, ordinal, data }: Omit<PromisedBlob, "deletion"> & { ordinal: number },
    { epoch, run }: { epoch: number; run: string },
  ): void {
    this.#give(`ordinal ${ordinal} of volume ${volume}`, fid, [fid], volume);
    this.#give(`epoch ${epoch} of volume ${volume}`, run, [], volume);
    this.blobs.set(fid, { fid, volume, data, deletion: "none" });
  }

  /** A gateway has told a client that its blob is stored. */
  acknowledged(fid: string, data: Buffer): void {
    this.counts.puts += 1;
    const blob = this.blobs.get(fid);
    if (blob?.data.equals(data) === true) this.known.push(blob);
    else this.violate("wrong", `${fid} was given to a client for a blob that is not there`, [fid]);
  }

  replied(store: string, { orders, boot }: HeartbeatReply): void {
    for (const order of orders) {
      const { number, what } = { number: order.order, what: `${order.kind} ${order.volume}` };
      this.#give(`order ${number}`, `${what} at ${store}`, [], order.volume);
      this.#replied(order);
    }
    this.#trace.add("directory", `to ${store}: ${orders.map(describeOrder).join(", ")} (${boot})`);
  }

  /** What a copy answered that was asked for a blob; `before` is how far its deletion was then. */
  readAt(
    store: string,
    blob: PromisedBlob,
    before: PromisedBlob["deletion"],
    found: Buffer | undefined,
  ): void {
    const { fid, data, deletion } = blob;
    const words = [fid, `volume ${blob.volume}`];
    if (found === undefined) {
      if (deletion === "none")
        this.violate("lost", `${fid} is not at ${store}, which serves`, words);
    } else if (before === "done") {
      this.violate("ghost", `${fid} was deleted everywhere, and is at ${store}`, words);
    } else if (!found.equals(data)) {
      this.violate("wrong", `${fid} has other bytes at ${store}`, words);
    }
  }

  /** A call failed: with a reason that may be, or with one that must not. */
  failed(what: string, error: unknown, words: string[]): void {
    if (error instanceof Failure && error.kind !== "corrupt" && error.kind !== "internal") return;
    if (error instanceof Failure && /no store gives it/.test(error.message)) return;
    const text = error instanceof Failure ? messageOf(error) : `${(error as Error).stack}`;
    this.violate("broken", `${what}: ${text}`, words);
  }

  #replied(order: Order): void {
    const { kind, volume } = order;
    if (kind === "create") this.#give(`id ${volume}`, order.uuid, [], volume);
    if (kind !== "create" && kind !== "begin-epoch") return;
    const members = order.members.map(({ store }) => store).join();
    this.#give(`the members of epoch ${order.epoch} of volume ${volume}`, members, [], volume);
  }

  #give(name: string, to: string, words: string[], volume: number): void {
    const before = this.#givenTo.get(name);
    if (before === undefined) this.#givenTo.set(name, to);
    else if (before !== to || name.startsWith("ordinal")) {
      const all = [...words, `volume ${volume}`, `volume":${volume}`];
      this.violate("twice", `${name} is ${before}, and then ${to}`, all);
    }
  }
}

function describeOrder(order: Order): string {
  const { kind, volume } = order;
  const epoch = "epoch" in order ? ` epoch ${order.epoch}` : "";
  const at =
    order.kind === "seal" && order.at !== undefined
      ? ` at ${order.at.lengthBytes} epoch ${order.at.epoch}`
      : "";
  return `${order.order} ${kind} volume ${volume}${epoch}${at}`;
}
