/**
 * The commands of a page, for running them: blocks of shell whose first line says where and when.
 *
 *   # [when ADDRESS is dead|back, ]on ADDRESS|both machines[, as USER][, keeps running]
 */

import { Failure } from "../base/failure.ts";

export interface PageCommand {
  /** What has become of which machine. */
  when: { address: string; is: "dead" | "back" } | undefined;
  /** On this machine; on all if undefined. */
  on: string | undefined;
  /** As this user of the system; as root if undefined. */
  as: string | undefined;
  keepsRunning: boolean;
  script: string;
}

const blockPattern = /^```sh\n([\s\S]*?)^```$/gm;
const headPattern =
  /^# (?:when ([0-9.]+) is (dead|back), )?on (?:([0-9.]+)|both machines)(?:, as (\w+))?(, keeps running)?$/;

/** In the order of the page; every block of shell has to say where it belongs. */
export function readPageCommands(page: string): PageCommand[] {
  return [...page.matchAll(blockPattern)].map(([, block = ""]) => {
    const end = block.indexOf("\n");
    const head = headPattern.exec(block.slice(0, end));
    if (head === null) {
      throw new Failure("bad-request", `Cannot read where to run this:\n${block}`);
    }
    const [, address, is, on, as, keepsRunning] = head;
    return {
      when: address === undefined ? undefined : { address, is: is as "dead" | "back" },
      ...{ on, as, keepsRunning: keepsRunning !== undefined, script: block.slice(end + 1) },
    };
  });
}
