/**
 * The life of a volume, as pure functions: given what is on record of it and what its stores say, the next
 * steps. The directory commits them, and then they are orders; nothing is remembered here between two calls.
 *
 *   creating -> open <-> sealing -> sealed -> dropping -> dropped
 *
 * With one member a restart needs a new epoch and no more. With several, whatever befalls one of them ends
 * the open life: all are fenced, so that no batch of the old epoch is acknowledged any more. Should all come
 * back equal, it goes on under a new epoch; if not, it is sealed where its primary's acknowledgements ended,
 * or, with the primary's run gone, at the end of the longest that was fenced: what was acknowledged is in
 * each of them.
 *
 * Invariants:
 * - Nothing that counts is deleted before enough others are live, whole and serving, with the same deletes.
 * - Where a volume ends is decided once, from what fenced members say.
 */

import { domainOf } from "./place.ts";
import type { StoreState } from "./plan.ts";
import type { OrderKind, VolumeStatus } from "./protocol.ts";
import {
  membersOf,
  type OrderRecord,
  placementOf,
  type ReplicaRecord,
  type ReplicaState,
  type VolumeRecord,
} from "./records.ts";
import { openMsOf } from "./ttl-bucket.ts";

/** A copy as it is known now. */
export interface CopyView {
  replica: ReplicaRecord;
  place: { machine: string; rack: string; dataCentre: string };
  state: StoreState;
  silentMs: number;
  /** Of the store's process, as it was last heard of. */
  run: string;
  /** Whether it has told all that it has. */
  isKnown: boolean;
  isDraining: boolean;
  isUnreadable: boolean;
  /** None of another volume that claims the id. */
  report: VolumeStatus | undefined;
}

export interface VolumeView {
  record: VolumeRecord;
  /** Of each replica, the primary first. */
  copies: readonly CopyView[];
  pending: readonly Pick<OrderRecord, "number" | "store" | "kind">[];
  /** Whether an order failed so lately that it is not to be tried again yet. */
  hasFailed(kind: OrderKind, store: string): boolean;
  /** Whether one ended so lately, well or not, that another would come too soon. */
  hasEnded(kind: OrderKind, store: string): boolean;
  nowMs: number;
  /** Silence after which nobody waits any more for a member before a volume is sealed. */
  sealWaitMs: number;
  /** For how long there have been more members than are wanted, and members' deletes have differed. */
  surplusMs: number;
  differMs: number;
}

export type PlainOrder =
  | "create"
  | "begin-epoch"
  | "fence"
  | "seal"
  | "rejoin"
  | "delete-copy"
  | "drop";

export type Step =
  /** All members have it: it may be written. */
  | { kind: "opened" }
  /** It never was written, and is not wanted any more. */
  | { kind: "cancel"; reason: string }
  /** Ends the open life: `epoch` is what members are fenced with. A single member is told to seal at once. */
  | { kind: "close"; epoch: number; isFinal: boolean; reason: string }
  /** All members write under the epoch from now on. */
  | { kind: "begin"; epoch: number }
  | { kind: "sealed"; lengthBytes: number; lastDigest: string }
  /** Its one copy was compacted. */
  | { kind: "compacted"; generation: number; lengthBytes: number; lastDigest: string }
  | { kind: "drop" }
  | { kind: "dropped" }
  | { kind: "replica"; store: string; state: ReplicaState | "gone"; reason: string }
  | { kind: "order"; store: string; order: PlainOrder }
  | { kind: "withdraw"; order: number };

/** `whole` copies are live, have all of it and serve. */
export type CopyCondition =
  | "whole"
  /** It has all of it, and does not serve before it has merged deletes. */
  | "waiting"
  /** It was not told yet where the volume ends. */
  | "behind"
  | "damaged"
  /** Another length or generation than is on record. */
  | "differs"
  | "missing"
  | "unreadable"
  | "silent"
  | "lost";

/** How long members may differ in their deletes, and be too many, before something is done about it. */
const settleMs = 5_000;

/** How long a needle is kept beyond its life, for clocks that differ. */
const expiryMarginMs = 60_000;

export function planVolume(view: VolumeView): Step[] {
  const { record } = view;
  const isSingle = membersOf(record).length <= 1;
  switch (record.state) {
    case "creating":
      return planCreating(view);
    case "open":
      return isSingle ? planSingle(view) : planOpen(view);
    case "importing":
      return planSingle(view);
    case "sealing":
      return isSingle ? planSingle(view) : planSealing(view);
    case "sealed":
      return planSealed(view);
    case "dropping":
      return planDropping(view);
    case "dropped":
      return [];
  }
}

/** What a copy of a sealed volume is worth. */
export function conditionOf(record: VolumeRecord, copy: CopyView): CopyCondition {
  const { state, report, isKnown, isUnreadable } = copy;
  if (state !== "live") return state === "lost" ? "lost" : "silent";
  if (isUnreadable) return "unreadable";
  if (report === undefined) return isKnown ? "missing" : "silent";
  if (report.generation !== record.generation) return "differs";
  if (report.state === "open") return "behind";
  const { sealedLength, sealedDigest } = record;
  if (sealedLength !== null && report.lengthBytes !== sealedLength) return "differs";
  if (sealedDigest !== null && report.lastDigest !== sealedDigest) return "differs";
  if (report.damagedBytes > 0) return "damaged";
  return report.isServing ? "whole" : "waiting";
}

interface VolumeHealth {
  wantedCount: number;
  /** Copies that are there or may be back before another answer is known. */
  presentCount: number;
  /** How many have to be made. */
  missingCount: number;
  /** Stores to copy from, the best first. */
  sources: string[];
}

/** Whether a sealed volume has the copies that it is to have. */
export function healthOf(view: Pick<VolumeView, "record" | "copies">): VolumeHealth {
  const { record, copies } = view;
  const wantedCount = placementOf(record).copies;
  const rated = copies.map((copy) => ({ copy, condition: conditionOf(record, copy) }));
  const isPresent = (condition: CopyCondition) =>
    condition === "whole" ||
    condition === "waiting" ||
    condition === "silent" ||
    condition === "behind";
  const present = rated.filter(({ copy, condition }) => isMember(copy) && isPresent(condition));
  const staying = present.filter(({ copy }) => copy.replica.state === "member").length;
  const joining = copies.filter(({ replica }) => replica.state === "joining").length;
  const sourcesOf = (wanted: CopyCondition) =>
    rated
      .filter(({ copy, condition }) => isMember(copy) && condition === wanted)
      .map(({ copy }) => copy.replica.store);
  const whole = [...sourcesOf("whole"), ...sourcesOf("waiting")];
  // A copy that was never one of several stays where it is, whatever befalls its store: no other has it.
  const isAlone = wantedCount === 1 && copies.every(({ replica }) => replica.state === "member");
  const isWanted = record.state === "sealed" && !isAlone;
  return {
    wantedCount,
    presentCount: present.length,
    missingCount: isWanted ? Math.max(wantedCount - staying - joining, 0) : 0,
    // What of a damaged copy verifies is better than nothing.
    sources: whole.length > 0 ? whole : sourcesOf("damaged"),
  };
}

/** Whether a sealed volume holds nothing that lives, by a report of it. */
function isExpired(ttlSeconds: number, status: VolumeStatus, nowMs: number): boolean {
  if (ttlSeconds === 0 || status.operation !== undefined) return false;
  if (status.state !== "sealed" || status.damagedBytes > 0) return false;
  if (status.needleCount === 0) return true;
  if (status.expiresMs === 0) return false;
  // No needle can be older than its volume, whatever a report says.
  const expiresMs = Math.max(status.expiresMs, status.createdMs + ttlSeconds * 1_000);
  return nowMs > expiresMs + expiryMarginMs;
}

function isMember({ replica: { state } }: CopyView): boolean {
  return state === "member" || state === "moving";
}

function membersIn({ copies }: VolumeView): CopyView[] {
  return copies.filter(isMember);
}

function isPending({ pending }: VolumeView, kind: OrderKind, store: string): boolean {
  return pending.some((order) => order.kind === kind && order.store === store);
}

/** An order, unless it is on its way or has just ended. */
function orderOnce(view: VolumeView, store: string, order: PlainOrder): Step[] {
  if (isPending(view, order, store) || view.hasEnded(order, store)) return [];
  return [{ kind: "order", store, order }];
}

function withdrawAll({ pending }: VolumeView, store: string, kind: OrderKind): Step[] {
  return pending
    .filter((order) => order.store === store && order.kind === kind)
    .map(({ number }) => ({ kind: "withdraw", order: number }));
}

function planCreating(view: VolumeView): Step[] {
  const { record } = view;
  const members = membersIn(view);
  if (members.every(({ report }) => report !== undefined)) {
    const others = members.filter((copy, at) => !hasBegun(copy, at === 0));
    if (others.length === 0) return [{ kind: "opened" }];
    if (others.some(({ replica }) => isPending(view, "create", replica.store))) return [];
    // Made, and restarted before it was heard of: the epoch was that of a run which is gone.
    const epochs = members.map(({ report }) => report?.epoch ?? 0);
    return [{ kind: "begin", epoch: Math.max(record.epoch, ...epochs) + 1 }];
  }
  // Whatever was written to it, by whoever it was, is not thrown away.
  if (members.some(({ report }) => (report?.needleCount ?? 0) > 0)) return [{ kind: "opened" }];
  for (const { replica, state, report, isKnown } of members) {
    const { store } = replica;
    if (members.length > 1 && state !== "live") {
      return [{ kind: "cancel", reason: `store ${store} fell silent` }];
    }
    const isGone = state === "live" && isKnown && report === undefined;
    if (isGone && !isPending(view, "create", store)) {
      return [{ kind: "cancel", reason: `store ${store} has not made it` }];
    }
  }
  return [];
}

/** Whether the present run of a new copy's store writes it under its epoch. */
function hasBegun({ report }: CopyView, isPrimary: boolean): boolean {
  if (report === undefined || !report.isServing) return false;
  return !isPrimary || report.isWritable || report.closedBecause !== undefined;
}

/** The open life of a volume with one copy: nobody else could know what was acknowledged. */
function planSingle(view: VolumeView): Step[] {
  const { record, nowMs } = view;
  const [copy] = membersIn(view);
  if (copy === undefined) return [];
  const { replica, report, state, run } = copy;
  const { store } = replica;
  if (report === undefined || state !== "live") return [];
  const { generation, lengthBytes, lastDigest, closedBecause } = report;
  const steps: Step[] = [];
  if (generation > record.generation) {
    steps.push({ kind: "compacted", generation, lengthBytes, lastDigest });
  }
  const close = (reason: string): Step[] => [
    ...steps,
    { kind: "close", epoch: record.epoch, isFinal: true, reason },
  ];
  if (report.state === "sealed") {
    return [...steps, { kind: "sealed", lengthBytes, lastDigest }];
  }
  if (record.state !== "open") {
    const isImporting = isPending(view, "import", store);
    return isImporting ? steps : [...steps, ...orderOnce(view, store, "seal")];
  }
  if (closedBecause !== undefined) return close(closedBecause);
  if (view.hasFailed("begin-epoch", store)) return close("its epoch can't begin");
  if (copy.isDraining) return close("its store is drained");
  if (isOld(record, report, nowMs)) return close(oldBecause);
  if (replica.run === run) {
    // The order was taken for that of the run before, and ended.
    const isUnheard = report.epoch < record.epoch;
    return isUnheard ? [...steps, ...orderOnce(view, store, "begin-epoch")] : steps;
  }
  // An epoch belongs to one run, so that nobody writes under that of a process which may still be alive.
  return [...steps, { kind: "begin", epoch: Math.max(record.epoch, report.epoch) + 1 }];
}

const oldBecause = "it has taken needles for long enough: they are to expire together";

function isOld({ ttlSeconds }: VolumeRecord, { createdMs }: VolumeStatus, nowMs: number): boolean {
  return ttlSeconds > 0 && nowMs >= createdMs + openMsOf(ttlSeconds);
}

/** The open life of a volume with several copies. */
function planOpen(view: VolumeView): Step[] {
  const { record } = view;
  const members = membersIn(view);
  for (const copy of members) {
    const found = reasonToClose(view, copy);
    if (found !== undefined) {
      const epochs = members.map(({ report }) => report?.epoch ?? 0);
      return [{ kind: "close", epoch: Math.max(record.epoch, ...epochs) + 1, ...found }];
    }
  }
  return members.flatMap(({ replica: { store }, report }) =>
    report !== undefined && report.epoch < record.epoch
      ? orderOnce(view, store, "begin-epoch")
      : [],
  );
}

function reasonToClose(
  view: VolumeView,
  { replica, state, report, run, isKnown, isDraining }: CopyView,
): { isFinal: boolean; reason: string } | undefined {
  const { record, nowMs } = view;
  const { store } = replica;
  if (state !== "live") return { isFinal: false, reason: `store ${store} fell silent` };
  // Before it calls a directory that has just started, nothing is known of its run.
  if (run !== "" && run !== replica.run) {
    return { isFinal: false, reason: `store ${store} was restarted` };
  }
  if (report === undefined) {
    return isKnown ? { isFinal: true, reason: `store ${store} has no copy any more` } : undefined;
  }
  if (view.hasFailed("begin-epoch", store)) {
    return { isFinal: true, reason: `its epoch can't begin at store ${store}` };
  }
  if (report.state === "sealed" || report.epoch > record.epoch) {
    return { isFinal: report.state === "sealed", reason: `store ${store} has ended it` };
  }
  const { closedBecause, canReopen = false } = report;
  // Until the epoch has begun there, this is what ended the one before.
  const isOfNow = report.epoch === record.epoch || !canReopen;
  if (closedBecause !== undefined && isOfNow) {
    return { isFinal: !canReopen, reason: closedBecause };
  }
  if (isDraining) return { isFinal: true, reason: `store ${store} is drained` };
  if (isOld(record, report, nowMs)) return { isFinal: true, reason: oldBecause };
  return undefined;
}

/** Fences, then reopens if nothing is amiss, else finds where the volume ends. */
function planSealing(view: VolumeView): Step[] {
  const { record, sealWaitMs } = view;
  const members = membersIn(view);
  const fences = members.flatMap((copy): Step[] =>
    copy.report === undefined || isFenced(record, copy)
      ? []
      : orderOnce(view, copy.replica.store, "fence"),
  );
  // One that can't write down its epoch may still take batches, but none is acknowledged without the others.
  const isWaitedFor = ({ replica, state, silentMs, report, isKnown, ...copy }: CopyView) => {
    if (state !== "live") return silentMs < sealWaitMs;
    if (report === undefined) return !isKnown;
    if (view.hasFailed("fence", replica.store)) return false;
    return !isFenced(record, { replica, state, silentMs, report, isKnown, ...copy });
  };
  const fenced = members.filter((copy) => copy.state === "live" && isFenced(record, copy));
  if (fenced.length === 0 || members.some(isWaitedFor)) return fences;
  const epochs = fenced.map(({ report }) => report?.epoch ?? 0);
  if (fenced.length === members.length && canGoOn(view, fenced)) {
    return [{ kind: "begin", epoch: Math.max(record.epoch, ...epochs) + 1 }];
  }
  const end = sealPoint(members[0], fenced);
  return end === undefined ? fences : [{ kind: "sealed", ...end }];
}

/** A copy that is sealed takes nothing any more, whatever its epoch. */
function isFenced(record: VolumeRecord, { report }: CopyView): boolean {
  return report !== undefined && (report.epoch >= record.epoch || report.state === "sealed");
}

function canGoOn({ record }: VolumeView, fenced: readonly CopyView[]): boolean {
  const [first] = fenced;
  return (
    !record.isFinal &&
    first?.report !== undefined &&
    fenced.every(({ report, isDraining }) => {
      if (report === undefined || report.state !== "open" || isDraining) return false;
      const isClosed = report.closedBecause !== undefined && report.canReopen !== true;
      return (
        !isClosed &&
        report.damagedBytes === 0 &&
        report.lengthBytes === first.report?.lengthBytes &&
        report.lastDigest === first.report.lastDigest
      );
    })
  );
}

/**
 * Where a volume ends. A primary whose run held the epoch knows what it acknowledged. Else it is in each
 * member, so in the longest that was fenced; what is in that beyond is kept too, for it may have been.
 */
function sealPoint(
  primary: CopyView | undefined,
  fenced: readonly CopyView[],
): { lengthBytes: number; lastDigest: string } | undefined {
  const holder =
    primary !== undefined && fenced.includes(primary) && primary.run === primary.replica.run
      ? primary
      : undefined;
  let best = holder?.report;
  for (const { report } of holder === undefined ? fenced : []) {
    if (report !== undefined && report.lengthBytes > (best?.lengthBytes ?? -1)) best = report;
  }
  return best && { lengthBytes: best.lengthBytes, lastDigest: best.lastDigest };
}

function planDropping(view: VolumeView): Step[] {
  const steps = view.copies.flatMap(({ replica, state, report, isKnown, isUnreadable }): Step[] => {
    const { store } = replica;
    if (report !== undefined) return orderOnce(view, store, "drop");
    if (state !== "live" || !isKnown || isUnreadable || isPending(view, "drop", store)) return [];
    return [{ kind: "replica", store, state: "gone", reason: "it is dropped" }];
  });
  return view.copies.length === 0 ? [{ kind: "dropped" }] : steps;
}

function planSealed(view: VolumeView): Step[] {
  const { record, nowMs } = view;
  const members = membersIn(view);
  const isOver = members.some(
    ({ report }) => report !== undefined && isExpired(record.ttlSeconds, report, nowMs),
  );
  if (isOver) return [{ kind: "drop" }];
  const [single] = members;
  if (single?.report !== undefined && view.copies.length === 1) {
    const { generation, lengthBytes, lastDigest, state } = single.report;
    if (generation > record.generation && state === "sealed") {
      return [{ kind: "compacted", generation, lengthBytes, lastDigest }];
    }
  }
  const rated = view.copies.map((copy) => ({ ...copy, condition: conditionOf(record, copy) }));
  return [
    ...rated.flatMap((copy) => planCopy(view, copy)),
    ...planRejoining(view, rated),
    ...planCount(view, rated),
  ];
}

type RatedCopy = CopyView & { condition: CopyCondition };

/** What is to be done with one copy of a sealed volume, whatever the others are. */
function planCopy(view: VolumeView, copy: RatedCopy): Step[] {
  const { replica, condition, isDraining } = copy;
  const { store, state } = replica;
  const become = (next: ReplicaState | "gone", reason: string): Step[] => [
    { kind: "replica", store, state: next, reason },
  ];
  switch (state) {
    case "member":
      if (isDraining) return become("moving", "its store is drained");
      return condition === "behind" || condition === "differs" ? planEnd(view, copy) : [];
    case "moving":
      return condition === "behind" || condition === "differs" ? planEnd(view, copy) : [];
    case "joining":
      if (isPending(view, "copy", store)) {
        return condition === "lost"
          ? [...withdrawAll(view, store, "copy"), ...become("surplus", "its store is lost")]
          : [];
      }
      if (condition === "silent") return [];
      return condition === "whole" || condition === "waiting"
        ? become("member", "it was copied")
        : become("surplus", `it was not copied: it is ${condition}`);
    case "surplus":
      return condition === "missing" ? become("gone", "nothing is there") : [];
    case "leaving":
      if (isPending(view, "delete-copy", store) || condition === "silent") return [];
      if (condition === "lost" || condition === "unreadable") return [];
      return condition === "missing"
        ? become("gone", "it is deleted")
        : become("surplus", "it was not deleted");
  }
}

/** Has a copy end where the volume does. */
function planEnd(view: VolumeView, { replica: { store }, report }: RatedCopy): Step[] {
  const { generation, sealedLength, sealedDigest } = view.record;
  // One that is alone ends at its tail.
  if (sealedLength === null || sealedDigest === null || view.copies.length < 2) return [];
  if (report?.generation !== generation || isPending(view, "copy", store)) return [];
  return orderOnce(view, store, "seal");
}

/** Has copies merge the deletes of the others: those that do not serve yet, and those that differ. */
function planRejoining(view: VolumeView, rated: readonly RatedCopy[]): Step[] {
  const members = rated.filter(isMember);
  // Somebody may have deleted meanwhile at one that is about to be back.
  const isHeard = members.every(
    ({ state, silentMs }) => state === "live" || silentMs >= view.sealWaitMs,
  );
  const waiting = isHeard ? members.filter(({ condition }) => condition === "waiting") : [];
  const serving = members.filter(({ condition }) => condition === "whole");
  const differing = view.differMs < settleMs ? [] : withFewerDeletes(serving);
  return [...waiting, ...differing].flatMap(({ replica: { store } }) =>
    isPending(view, "copy", store) ? [] : orderOnce(view, store, "rejoin"),
  );
}

/** All that differ from the one with the most deletes. */
function withFewerDeletes(serving: readonly RatedCopy[]): RatedCopy[] {
  const countOf = ({ report }: RatedCopy) => report?.deletedCount ?? 0;
  const [most] = [...serving].sort((left, right) => countOf(right) - countOf(left));
  return serving.filter(({ report }) => report?.deletesDigest !== most?.report?.deletesDigest);
}

/** Whether members that serve have deleted different needles. */
export function doDeletesDiffer({
  record,
  copies,
}: Pick<VolumeView, "record" | "copies">): boolean {
  if (copies.length < 2) return false;
  const digests = new Set<string>();
  for (const copy of copies) {
    if (!isMember(copy) || conditionOf(record, copy) !== "whole") continue;
    digests.add(copy.report?.deletesDigest ?? "");
  }
  return digests.size > 1;
}

/** Brings the number of copies down to what is wanted, and takes back what is needed. */
function planCount(view: VolumeView, rated: readonly RatedCopy[]): Step[] {
  const { copies: wantedCount, spread } = placementOf(view.record);
  const members = rated.filter(isMember);
  const staying = members.filter(({ replica }) => replica.state === "member");
  const isThere = ({ condition }: RatedCopy) =>
    condition === "whole" || condition === "waiting" || condition === "behind";
  const thereCount = staying.filter((copy) => isThere(copy) || copy.condition === "silent").length;

  // What others lack is here already, and need not be copied.
  const surplus = rated.filter(({ replica }) => replica.state === "surplus");
  const back = surplus.find((copy) => copy.state === "live" && !copy.isDraining && isThere(copy));
  if (thereCount < wantedCount && back !== undefined) {
    const { store } = back.replica;
    return [{ kind: "replica", store, state: "member", reason: "its copy is needed" }];
  }

  const joining = rated.find(({ replica }) => replica.state === "joining");
  if (joining !== undefined && thereCount >= wantedCount) {
    const { store } = joining.replica;
    return [
      ...withdrawAll(view, store, "copy"),
      { kind: "replica", store, state: "surplus", reason: "others are back" },
    ];
  }

  const verified = (copy: RatedCopy) => copy.condition === "whole";
  const domainCount = (copies: readonly RatedCopy[]) =>
    new Set(copies.map(({ place }) => domainOf(place, spread))).size;
  const isEnoughWithout = (leaver: RatedCopy) => {
    const others = members.filter((copy) => copy !== leaver && verified(copy));
    const digests = new Set(
      [...others, ...(verified(leaver) ? [leaver] : [])].map(({ report }) => report?.deletesDigest),
    );
    const isSpread = domainCount(others) >= Math.min(wantedCount, domainCount([...others, leaver]));
    return others.length >= wantedCount && digests.size === 1 && isSpread;
  };

  if (members.length > wantedCount && view.surplusMs >= settleMs) {
    const leaver = [...members]
      .sort((left, right) => usefulness(left) - usefulness(right))
      .find(isEnoughWithout);
    if (leaver !== undefined) {
      const { store } = leaver.replica;
      const reason = "others have enough copies";
      return [{ kind: "replica", store, state: "surplus", reason }];
    }
  }
  return surplus
    .filter((copy) => copy.state === "live" && copy.report !== undefined)
    .filter(isEnoughWithout)
    .flatMap(({ replica: { store } }) => orderOnce(view, store, "delete-copy"));
}

/** The least useful copy goes first. */
function usefulness({ condition, replica }: RatedCopy): number {
  if (condition === "silent") return 2;
  if (condition !== "whole") return 0;
  return replica.state === "moving" ? 1 : 3;
}
