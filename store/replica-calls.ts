/**
 * What the primary of a volume asks of a store that has a replica, with the cluster's token:
 *
 *   POST /volumes/{id}/batches   take the body, a batch as it goes into the file (batch-head.ts)
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import { ByteBudget } from "../base/byte-budget.ts";
import { Failure } from "../base/failure.ts";
import { answerJson, readBody } from "../base/http-serve.ts";
import { batchBytesMax, batchHeader, parseBatchHead } from "./batch-head.ts";
import type { Store } from "./store.ts";

/** Of its own: a batch that is refused for want of memory ends the open life of its volume. */
const bodies = new ByteBudget(1_073_741_824);

/** Answers a request that is such a call; returns whether it is. */
export async function answerReplica(
  store: Store,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<boolean> {
  const match = /^\/volumes\/([0-9]{1,10})\/batches$/.exec(request.url ?? "");
  if (match === null || request.method !== "POST") return false;
  const volume = store.volume(Number(match[1]));
  if (volume === undefined) {
    throw new Failure("not-found", `Cannot take a batch: there is no volume ${match[1]}`);
  }
  const head = parseBatchHead(request.headers[batchHeader]);
  const giveBack = bodies.take(Number(request.headers["content-length"] ?? batchBytesMax));
  try {
    await volume.takeBatch(await readBody(request, { limitBytes: batchBytesMax }), head);
  } finally {
    giveBack();
  }
  answerJson(response, 200, {});
  return true;
}
