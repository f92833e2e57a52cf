/** Files whose operations take time: the time in which others get in between. */

import type { FileHandle, FileSystem } from "../../base/files.ts";
import type { Random } from "../../base/random.ts";
import { pause } from "../../base/runtime.ts";
import type { ProcessTime } from "../../base/simulated-time.ts";

/** Up to so long, and now and then a sick disk's moment. */
const syncMs = { usual: 4, sick: 400, sickShare: 0.002 };
const otherMs = 0.3;

export function slowFiles(files: FileSystem, time: ProcessTime, random: Random): FileSystem {
  const sync = () => {
    const isSick = random.fraction() < syncMs.sickShare;
    return pause(time, random.fraction() * (isSick ? syncMs.sick : syncMs.usual));
  };
  const other = () => pause(time, random.fraction() * otherMs);
  const slowHandle = (handle: FileHandle): FileHandle => ({
    async read(target, offset) {
      await other();
      return await handle.read(target, offset);
    },
    readNow: (target, offset) => handle.readNow(target, offset),
    async write(parts, offset) {
      await other();
      await handle.write(parts, offset);
    },
    async syncData() {
      await sync();
      await handle.syncData();
    },
    sizeBytes: () => handle.sizeBytes(),
    truncate: (lengthBytes) => handle.truncate(lengthBytes),
    close: () => handle.close(),
  });
  return {
    async open(file, mode) {
      await other();
      return slowHandle(await files.open(file, mode));
    },
    readWhole: (file) => files.readWhole(file),
    async replace(file, content, permissions) {
      await sync();
      await files.replace(file, content, permissions);
    },
    async rename(names) {
      await sync();
      await files.rename(names);
    },
    list: (folder) => files.list(folder),
    remove: (file) => files.remove(file),
    async syncFolder(folder) {
      await sync();
      await files.syncFolder(folder);
    },
    space: (folder) => files.space(folder),
  };
}
