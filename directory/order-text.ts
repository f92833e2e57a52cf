/**
 * What an order says, made from what is on record and known now. Members and sources are filled in anew
 * whenever it is sent: addresses change, and stores come and go, while it waits.
 */

import type { OrderBody } from "./ledger.ts";
import { type CopyView, conditionOf, type PlainOrder } from "./plan-life.ts";
import type { Member, Order, SealPoint } from "./protocol.ts";
import { membersOf, type VolumeRecord } from "./records.ts";

export interface OrderView {
  record: VolumeRecord;
  copies: readonly CopyView[];
  addressOf(store: string): string;
  nowMs: number;
}

/** The order that a step of plan-life.ts calls for. */
export function orderBody(kind: PlainOrder, view: OrderView, store: string): OrderBody {
  const { record, nowMs } = view;
  const { volume, uuid, generation, epoch } = record;
  const members = memberList(view);
  switch (kind) {
    case "create": {
      const { recordMagic, ttlSeconds } = record;
      return {
        ...{ kind, volume, uuid, class: record.class, generation, recordMagic, epoch },
        ...{ members, createdMs: Math.floor(nowMs), ttlSeconds },
      };
    }
    case "begin-epoch":
      return { kind, volume, epoch, members };
    case "fence":
      return { kind, volume, epoch };
    case "seal":
      return { kind, volume, at: sealPointOf(view, store) };
    case "rejoin":
      return {
        ...{ kind, volume, generation, lengthBytes: record.sealedLength ?? 0, members },
        from: mergeSources(view, store),
      };
    case "delete-copy":
    case "drop":
      return { kind, volume, uuid };
  }
}

/** A copy of a sealed volume for `store`, which is or becomes a member; `first` is to be asked first. */
export function copyBody(
  view: OrderView,
  store: string,
  { first, rateBytes }: { first: string; rateBytes: number },
): OrderBody {
  const { volume, uuid, generation, epoch, sealedLength } = view.record;
  const digest = view.copies
    .filter((copy) => conditionOf(view.record, copy) === "whole")
    .map(({ report }) => report?.digest)
    .find((known) => known !== undefined);
  return {
    ...{ kind: "copy", volume, uuid, generation, epoch, lengthBytes: sealedLength ?? 0 },
    ...(digest === undefined ? {} : { digest }),
    ...{ members: withStore(view, store), from: copySources(view, store, first), rateBytes },
  };
}

/** The order as it is to be said now. */
export function renewed(order: Order, view: OrderView, store: string): Order {
  switch (order.kind) {
    case "create":
    case "begin-epoch":
      return { ...order, members: memberList(view) };
    case "seal":
      return order.at === undefined
        ? order
        : { ...order, at: sealPointOf(view, store) ?? order.at };
    case "copy": {
      const from = copySources(view, store, order.from[0]?.store);
      return { ...order, members: withStore(view, store), from };
    }
    case "rejoin":
      return { ...order, members: memberList(view), from: mergeSources(view, store) };
    default:
      return order;
  }
}

function memberList({ record, addressOf }: OrderView): Member[] {
  return membersOf(record).map(({ store }) => ({ store, address: addressOf(store) }));
}

function withStore(view: OrderView, store: string): Member[] {
  const members = memberList(view);
  if (members.some((member) => member.store === store)) return members;
  return [...members, { store, address: view.addressOf(store) }];
}

function sealPointOf(view: OrderView, store: string): SealPoint | undefined {
  const { record, copies, addressOf } = view;
  const { state, epoch, sealedLength, sealedDigest } = record;
  if (state !== "sealed" || sealedLength === null || sealedDigest === null) return undefined;
  // Those that end there first: in a longer one the end lies somewhere inside.
  const from = copies
    .filter(({ replica, state, report }) => {
      if (replica.store === store || state !== "live" || report === undefined) return false;
      if (report.generation !== record.generation || report.damagedBytes > 0) return false;
      if (report.lengthBytes === sealedLength) return report.lastDigest === sealedDigest;
      return report.state === "open" && report.lengthBytes > sealedLength;
    })
    .sort((left, right) => (left.report?.lengthBytes ?? 0) - (right.report?.lengthBytes ?? 0))
    .map(({ replica }) => ({ store: replica.store, address: addressOf(replica.store) }));
  const members = memberList(view);
  return { epoch, lengthBytes: sealedLength, lastDigest: sealedDigest, members, from };
}

/** Members that can be asked what they have deleted. */
function mergeSources({ record, copies, addressOf }: OrderView, store: string): Member[] {
  const members = new Set(membersOf(record).map((replica) => replica.store));
  return copies
    .filter(({ replica, state, report }) => {
      if (replica.store === store || !members.has(replica.store)) return false;
      return state === "live" && report !== undefined;
    })
    .map(({ replica }) => ({ store: replica.store, address: addressOf(replica.store) }));
}

/** Whole copies; those with damage only where there is no other. */
function copySources(
  { record, copies, addressOf }: OrderView,
  store: string,
  first: string | undefined,
): Member[] {
  const members = new Set(membersOf(record).map((replica) => replica.store));
  const others = copies.filter(
    ({ replica }) => replica.store !== store && members.has(replica.store),
  );
  const rated = (wanted: string) => others.filter((copy) => conditionOf(record, copy) === wanted);
  const whole = [...rated("whole"), ...rated("waiting")];
  const sources = (whole.length > 0 ? whole : rated("damaged")).map(({ replica }) => replica.store);
  const ordered = [
    ...sources.filter((source) => source === first),
    ...sources.filter((source) => source !== first),
  ];
  return ordered.map((source) => ({ store: source, address: addressOf(source) }));
}
