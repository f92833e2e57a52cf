/**
 * A file system that is only looked at: what would be written is taken and dropped. An opened volume stands
 * in memory as it would after its recovery, and on the disk everything stays as it was, times too.
 */

import type { FileHandle, FileSystem } from "../base/files.ts";

export function unchangingFiles(files: FileSystem): FileSystem {
  return {
    ...files,
    open: async (file, mode) =>
      mode === "create" ? emptyFile : unchangingFile(await files.open(file, "read")),
    replace: () => Promise.resolve(),
    rename: () => Promise.resolve(),
    remove: () => Promise.resolve(),
    syncFolder: () => Promise.resolve(),
  };
}

function unchangingFile(file: FileHandle): FileHandle {
  return {
    read: (target, offset) => file.read(target, offset),
    readNow: (target, offset) => file.readNow(target, offset),
    sizeBytes: () => file.sizeBytes(),
    close: () => file.close(),
    write: () => Promise.resolve(),
    syncData: () => Promise.resolve(),
    truncate: () => Promise.resolve(),
  };
}

const emptyFile: FileHandle = {
  read: () => Promise.resolve(0),
  readNow: () => 0,
  sizeBytes: () => Promise.resolve(0),
  close: () => Promise.resolve(),
  write: () => Promise.resolve(),
  syncData: () => Promise.resolve(),
  truncate: () => Promise.resolve(),
};
