/**
 * `hayloft volume …`, as the command line shows it: what operators do with single volumes, at a Hayloft that
 * runs or on a store's folder that nothing runs on. volume-work.ts does it.
 */

import { type Command, InvalidArgumentError, Option } from "commander";
import { parseRate } from "./base/units.ts";
import type { runVolumeWork, VolumeWork } from "./volume-work.ts";

/** Of a Hayloft that serves: its readers come first. Where nothing runs nobody waits. */
const servingRates = { verify: 100_000_000, compact: 50_000_000 };

export function addVolumeCommands(program: Command): void {
  const volume = program
    .command("volume")
    .summary("look at volumes, verify, compact, export and import them")
    .description(
      `Work with single volumes, in one of two ways:

  of a Hayloft that runs     --data with the folder of \`hayloft up\`, or
                             --directory and --token-file of a cluster:
                             stores carry it out while they serve
  of a folder nobody uses    --folder with a store's folder: on its files`,
    )
    .addHelpText(
      "after",
      `
Examples:
  hayloft volume ls
  hayloft volume verify --all --rate 200MB/s
  hayloft volume compact --garbage 0.3 --dry-run
  hayloft volume export 3 --output 3.tar
  hayloft volume import /seaweed/photos_3.dat
  hayloft volume info 3 --folder /mnt/old-disk/store`,
    );
  addLookingCommands(volume);
  addChangingCommands(volume);
}

function addLookingCommands(volume: Command): void {
  where(volume.command("ls"))
    .summary("list the volumes")
    .description("Lists the volumes, with how much of each is dead and when it was last verified.")
    .action((options) => run(options, (work) => work.list(options)));

  where(volume.command("info"))
    .summary("show all there is to know of a volume")
    .description("Shows the facts of a volume: state, sizes, index, copies, what is in its trash.")
    .argument("<id>", "the volume", volumeId)
    .action((id, options) => run(options, (work) => work.info(id, options)));

  where(volume.command("dump"))
    .summary("list every record of a volume's file")
    .description(
      "Lists the records of a volume in the order of its file, each verified; what is damaged is shown in its place.",
    )
    .argument("<id>", "the volume", volumeId)
    .option("--from <ordinal>", "the first ordinal to show", whole, 0)
    .option("--count <records>", "show so many at most", whole)
    .option("--cookies", "show cookies: with them anybody can read the blobs")
    .addHelpText("after", examples("dump 3 --from 1000 --count 20", "dump 3 --json | jq .metadata"))
    .action((id, options) => run(options, (work) => work.dump(id, options)));

  where(volume.command("verify"))
    .summary("read every byte and compare it with its checksums")
    .description(
      "Reads every byte of volumes and names each needle that does not verify. Exit code 1 if there is one.",
    )
    .argument("[ids...]", "the volumes", volumeIds)
    .option("--all", "all volumes")
    .addOption(rateOption("bytes a second to read", servingRates.verify))
    .addHelpText("after", examples("verify 3", "verify --all --rate 20MB/s --json"))
    .action((ids, given) => {
      const options = withRate(given, servingRates.verify);
      return run(options, (work) => work.verify(ids ?? [], options), "orders");
    });

  where(volume.command("export"))
    .summary("write what lives in a volume to a tar archive")
    .description(
      "Writes every blob that lives to a tar archive, unpacked and verified, under the name that people know it by. What files can't say (fid, metadata, time) stands in manifest.ndjson in it. A damaged blob is left out and named; the exit code is 1 then.",
    )
    .argument("<id>", "the volume", volumeId)
    .option("--output <file>", "where to, - for standard output", "-")
    .addHelpText("after", examples("export 3 --output 3.tar", "export 3 | tar -x -C photos"))
    .action((id, options) => run(options, (work) => work.exportTo(id, options)));
}

function addChangingCommands(volume: Command): void {
  where(volume.command("compact"))
    .summary("rewrite volumes without what is deleted in them")
    .description(
      "Rewrites the named volumes, however little is dead in them; or, without names, all sealed ones of which a share is. The old file is kept in the trash for a while. An open volume is sealed first (with --folder only if --seal is given).",
    )
    .argument("[ids...]", "the volumes", volumeIds)
    .option("--garbage <share>", "the share of dead bytes from which it is worth it", share, 0.3)
    .addOption(rateOption("bytes a second to copy", servingRates.compact))
    .option("--purge", "remove the old file at once")
    .option("--seal", "seal open volumes first, where nothing runs")
    .option("--dry-run", "only tell what would be copied and freed")
    .addHelpText("after", examples("compact --dry-run", "compact 3 7 --rate 20MB/s"))
    .action((ids, given) => {
      const options = withRate(given, servingRates.compact);
      return run(options, (work) => work.compact(ids ?? [], options), "orders");
    });

  where(volume.command("seal"))
    .summary("end the appends to a volume, for ever")
    .description("Seals a volume: nothing is appended to it any more. Reads and deletes go on.")
    .argument("<id>", "the volume", volumeId)
    .option("--dry-run", "only tell what would be done")
    .addHelpText("after", examples("seal 3"))
    .action((id, options) => run(options, (work) => work.seal(id, options), "orders"));

  where(volume.command("import"))
    .summary("take over a volume of SeaweedFS")
    .description(
      "Takes over a volume of SeaweedFS, whose server must not write to it meanwhile; its fids go on working. The source is only read. At a Hayloft that runs the store reads the files, so it has to see them under the same path. A blob that does not verify is left out and named; the exit code is 1 then.",
    )
    .argument("<dat>", "its file, such as 3.dat or photos_3.dat")
    .option("--idx <file>", "its index, if it is not beside it under the same name")
    .option("--volume <id>", "the id in its fids, if the file's name does not say it", volumeId)
    .option("--store <id or host:port>", "the store that takes it, where there are several")
    .option("--dry-run", "only read and verify the source")
    .addHelpText(
      "after",
      examples("import /seaweed/photos_3.dat --dry-run", "import /seaweed/3.dat"),
    )
    .action((dat, options) => run(options, (work) => work.importFrom(dat, options), "orders"));
}

/** Does one of the commands. What does it is loaded only now: every process loads this file. */
async function run(
  options: Parameters<typeof runVolumeWork>[0],
  use: (work: VolumeWork) => Promise<void>,
  kind?: "orders",
): Promise<void> {
  const { runVolumeWork } = await import("./volume-work.ts");
  // Not as options' own defaults, with which they would contradict --folder.
  const { HAYLOFT_DIRECTORY: directory, HAYLOFT_TOKEN_FILE: tokenFile } = process.env;
  const around = options.folder === undefined ? dropAbsent({ directory, tokenFile }) : {};
  await runVolumeWork({ ...around, ...options }, use, kind);
}

function dropAbsent(given: Record<string, string | undefined>): Record<string, string> {
  const present = Object.entries(given).filter((each): each is [string, string] => {
    return each[1] !== undefined;
  });
  return Object.fromEntries(present);
}

function where(command: Command): Command {
  return command
    .option("--data <folder>", "the data folder of the running `hayloft up`", "./data")
    .option("--directory <host:port,…>", "the directory of a cluster that runs, or all of them")
    .option("--token-file <file>", "the cluster's secret, with --directory")
    .addOption(
      new Option("--folder <folder>", "a store's folder that nothing runs on").conflicts([
        "directory",
        "tokenFile",
      ]),
    )
    .option("--json", "for machines");
}

function examples(...lines: string[]): string {
  return `\nExamples:\n${lines.map((line) => `  hayloft volume ${line}`).join("\n")}`;
}

function rateOption(what: string, servingRate: number): Option {
  const usual = `default: ${servingRate / 1e6}MB/s, no limit with --folder`;
  return new Option("--rate <rate>", `${what}, 0 for no limit (${usual})`).argParser((text) => {
    const rate = parseRate(text);
    if (rate === undefined) throw new InvalidArgumentError("a rate is such as 50MB/s or 1GiB/s.");
    return rate;
  });
}

function withRate<Options extends { rate?: number; folder?: string }>(
  options: Options,
  servingRate: number,
): Options & { rate: number } {
  return { ...options, rate: options.rate ?? (options.folder === undefined ? servingRate : 0) };
}

function volumeId(text: string): number {
  const id = Number(text);
  if (!/^[0-9]{1,10}$/.test(text) || id === 0 || id > 0xffff_ffff) {
    throw new InvalidArgumentError("a volume's id is a whole number from 1.");
  }
  return id;
}

function volumeIds(text: string, before: number[] = []): number[] {
  return [...before.filter((id) => id !== volumeId(text)), volumeId(text)];
}

function whole(text: string): number {
  if (!/^[0-9]{1,15}$/.test(text)) throw new InvalidArgumentError("a whole number is needed.");
  return Number(text);
}

function share(text: string): number {
  const value = text.endsWith("%") ? Number(text.slice(0, -1)) / 100 : Number(text);
  if (!/^[0-9]*\.?[0-9]+%?$/.test(text) || value > 1) {
    throw new InvalidArgumentError("a share is a number from 0 to 1, or such as 30%.");
  }
  return value;
}
