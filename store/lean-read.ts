/** What a GET of a whole blob is answered with, on the way that does not pass through node:http. */

import type { Fid } from "../base/fid.ts";
import type { LeanAnswer } from "./lean-server.ts";
import type { StoreMetrics } from "./metrics.ts";
import { readHeaderLines } from "./read-headers.ts";
import type { Store } from "./store.ts";
import { codecs } from "./volume/needle.ts";
import type { NeedleReader } from "./volume/needle-reader.ts";

/** Undefined if there is no such blob; at once if its volume has it at once. */
export function readLean(
  { store, metrics }: { store: Store; metrics: StoreMetrics },
  { volume, ordinal, cookie }: Fid,
): LeanAnswer | undefined | Promise<LeanAnswer | undefined> {
  const startedMs = performance.now();
  const observe = (answer: LeanAnswer | undefined) => {
    if (answer !== undefined) metrics.readSeconds.observe((performance.now() - startedMs) / 1_000);
    return answer;
  };
  const found = store.volume(volume)?.find(ordinal, cookie);
  const answer = found instanceof Promise ? found.then(answerOf) : answerOf(found);
  return answer instanceof Promise ? answer.then(observe) : observe(answer);
}

function answerOf(
  needle: NeedleReader | undefined,
): LeanAnswer | undefined | Promise<LeanAnswer | undefined> {
  if (needle === undefined) return undefined;
  const { timeMs, contentLength, codec } = needle.head;
  const headers = readHeaderLines({ timeMs, length: contentLength });
  const release = () => needle.close();
  try {
    const body = codec === codecs.none ? needle.whole() : undefined;
    if (body !== undefined) return { headers, body, release };
  } catch (error) {
    release();
    throw error;
  }
  return begin(needle).then(
    (start) => ({ headers, ...start, release }),
    (error: unknown) => {
      release();
      throw error;
    },
  );
}

/** The head goes out with the first piece, so that damage in it still gets an honest status. */
async function begin(needle: NeedleReader): Promise<Pick<LeanAnswer, "body" | "rest">> {
  const { codec, dataLength } = needle.head;
  if (codec !== codecs.none) return { body: await needle.content() };
  const rest = needle.pieces(0, dataLength);
  const first = await rest.next();
  return { body: first.done === true ? Buffer.alloc(0) : first.value, rest };
}
