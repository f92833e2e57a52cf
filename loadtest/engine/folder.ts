/** A store's folder as the benchmark's children open it: by the engine itself, without a server. */

import { systemClock } from "../../base/clock.ts";
import { Failure } from "../../base/failure.ts";
import { diskFiles } from "../../base/files.ts";
import { makeLog } from "../../base/log.ts";
import { systemRandom } from "../../base/random.ts";
import { Store } from "../../store/store.ts";
import type { Volume } from "../../store/volume/volume.ts";
import { volumeFile } from "../../store/volume/volume-files.ts";

const volumeBytes = 32 * 2 ** 30;

export async function openStore(folder: string): Promise<Store> {
  const store = await Store.open({
    files: diskFiles,
    clock: systemClock,
    random: systemRandom,
    log: makeLog("bench", "error"),
    folder,
    volumeBytes,
    reserveBytes: 0,
    trashMs: 0,
  });
  const damaged = store.reports().filter(({ damagedBytes }) => damagedBytes > 0);
  if (store.unreadable.length > 0 || damaged.length > 0) {
    throw new Failure("corrupt", `Cannot measure ${folder}: it does not open whole`);
  }
  return store;
}

export function onlyVolume(store: Store): Volume {
  const [volume, ...others] = store.volumes();
  if (volume === undefined || others.length > 0) {
    throw new Failure("internal", "Cannot choose a volume: there is not exactly one");
  }
  return volume;
}

/** The file of a volume in the generation that it is in. */
export function volumeFileOf(folder: string, of: { volume: number; generation: number }): string {
  return volumeFile(folder, of);
}

/** Which cookie a needle of the benchmark has: whoever knows the ordinal can read it. */
export function cookieOf(ordinal: number): number {
  return Math.imul(ordinal + 1, 0x9e37_79b1) >>> 0;
}
