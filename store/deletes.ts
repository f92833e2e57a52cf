/** Deletes that may be for any volume: each fid by itself, so that one that can't be does not stop the others. */

import { Failure } from "../base/failure.ts";
import { parseFid } from "../base/fid.ts";
import type { DeleteReply } from "./protocol.ts";
import type { Store } from "./store.ts";

/** Deletes what is here; returns when that is on the disk, with what became of each. */
export async function deleteFids(store: Store, fids: readonly string[]): Promise<DeleteReply> {
  const outcomes = await Promise.all(
    fids.map(async (text) => {
      const fid = parseFid(text);
      const volume = fid === undefined ? undefined : store.volume(fid.volume);
      if (fid === undefined || volume === undefined) return "unknown";
      try {
        return (await volume.delete(fid.ordinal, fid.cookie)) !== undefined ? "deleted" : "absent";
      } catch (error) {
        // Nothing that can't be read can be shown to belong to this fid: left for the scrub.
        if (error instanceof Failure && error.kind === "corrupt") return "corrupt";
        throw error;
      }
    }),
  );
  return { outcomes: Object.fromEntries(fids.map((fid, at) => [fid, outcomes[at] ?? "unknown"])) };
}
