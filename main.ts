/** The command line: `hayloft up`, the roles alone, and the operators' commands. */

import { Command, InvalidArgumentError, Option } from "commander";
import { Failure, messageOf } from "./base/failure.ts";
import { logLevels } from "./base/log.ts";
import { exitCodeHopeless } from "./base/role.ts";
import { parseBytes } from "./base/units.ts";
import { addClusterCommands } from "./cluster.ts";
import {
  makeBucket,
  printCredentials,
  printNativeToken,
  printStatus,
  setBucket,
} from "./operate.ts";
import { prepareMachines } from "./prepare-machines.ts";
import { up } from "./up.ts";
import { addVolumeCommands } from "./volumes.ts";

// Node reads this once, when its thread pool is first used. With the usual four threads a store's reads would
// queue behind what a compaction has handed over.
process.env.UV_THREADPOOL_SIZE ??= "16";

const program = new Command("hayloft")
  .description(
    "A store for photos and small blobs: durable, verified to the last byte, with images resized on the way out.",
  )
  .version("0.1.0")
  .showHelpAfterError("(add --help for what can be given)")
  .addHelpText(
    "after",
    `
Start here:
  hayloft up                          one machine: directory, store and gateway, data in ./data
  hayloft status                      what it holds
  hayloft bucket set photos images=open
  hayloft init /etc/hayloft           several machines: secret and key; then docs/machines.md`,
  );

const port = (text: string): number => {
  const value = Number(text);
  if (!/^[0-9]+$/.test(text) || value > 65_535) {
    throw new InvalidArgumentError("a port is a number from 0 (any free one) to 65535.");
  }
  return value;
};
const bytes = (text: string): number => {
  const value = parseBytes(text);
  if (value === undefined) {
    throw new InvalidArgumentError(
      "a size is a number of bytes, or one with kB, MB, GB, KiB, MiB or GiB.",
    );
  }
  return value;
};
const seconds = (text: string): number => {
  const value = Number(text);
  if (!/^[0-9]+(\.[0-9]+)?$/.test(text))
    throw new InvalidArgumentError("a number of seconds is needed.");
  return value;
};
const days = (text: string): number => {
  const value = Number(text);
  if (!/^[0-9]+(\.[0-9]+)?$/.test(text) || value === 0)
    throw new InvalidArgumentError("a number of days is needed.");
  return value;
};

const logLevel = () =>
  new Option("--log-level <level>", "what to log on standard error")
    .choices(logLevels)
    .default("info");
const opsOptions = () => [
  new Option("--ops-host <host>", "address for /metrics, /livez and /readyz").default("127.0.0.1"),
  new Option("--ops-port <port>", "its port, 0 for any").argParser(port).default(0),
];
const reserve = () =>
  new Option("--reserve <size>", "free space at which a store takes no more blobs")
    .argParser(bytes)
    .default(1_073_741_824, "1GiB");
const volumeSize = () =>
  new Option("--volume-size <size>", "length at which a volume is full")
    .argParser(bytes)
    .default(32 * 1_073_741_824, "32GiB");
const nativeAccess = () =>
  new Option(
    "--native <mode>",
    "who may make SeaweedFS's calls: open to all, with the token that `hayloft token` shows, off (default: open on loopback, else token)",
  ).choices(["open", "token", "off"]);
/** For runs that want many checkpoints: nobody else has to know. */
const checkpointNeedles = () =>
  new Option("--checkpoint-needles <count>", "needles between two checkpoints")
    .argParser(Number)
    .hideHelp();
const scrubOptions = () => [
  new Option("--scrub-days <days>", "every byte is read and verified within so many days")
    .argParser(days)
    .default(14),
  new Option("--scrub-rate <size>", "bytes a second for that, 0 for no limit")
    .argParser(bytes)
    .default(33_554_432, "32MiB"),
  new Option("--trash-hours <hours>", "how long the old file of a compacted volume is kept")
    .argParser(seconds)
    .default(72),
];
const cacheBytes = () =>
  new Option("--cache-bytes <size>", "memory for cached blobs and pictures, 0 for none")
    .argParser(bytes)
    .default(268_435_456, "256MiB");
const deleteDelay = () =>
  new Option(
    "--delete-delay <seconds>",
    "how long the bytes of a deleted object stay, for reads that run",
  )
    .argParser(seconds)
    .default(900);
const ratio = (text: string): number => {
  const value = Number(text);
  if (!/^[0-9]*\.?[0-9]+$/.test(text) || value > 1) {
    throw new InvalidArgumentError("a share is a number from 0 to 1.");
  }
  return value;
};
const tokenFile = () =>
  new Option("--token-file <file>", "the cluster's secret, one file for all processes")
    .env("HAYLOFT_TOKEN_FILE")
    .makeOptionMandatory();
const directoryOption = (text: string) =>
  new Option("--directory <host:port,…>", text).env("HAYLOFT_DIRECTORY").makeOptionMandatory();
const credentialsOption = (text: string) =>
  new Option("--credentials <file>", text).env("HAYLOFT_CREDENTIALS");
/** Commands that speak to a gateway: the one of `hayloft up`, or one of a cluster. */
const atGateway = (command: Command) =>
  command
    .option("--data <folder>", "the data folder of the running `hayloft up`", "./data")
    .addOption(
      new Option("--gateway <host:port>", "a gateway of a cluster that runs").env(
        "HAYLOFT_GATEWAY",
      ),
    )
    .addOption(credentialsOption("the root user's key, with --gateway"));

/** From the environment too: what stands in a command line, a password say, all users of a machine can read. */
const catalog = () =>
  new Option(
    "--catalog <url>",
    "postgres://… of a catalog that several gateways share, in place of one in the data folder",
  ).env("HAYLOFT_CATALOG");

const upCommand = program
  .command("up")
  .summary("run everything on this machine")
  .description(
    "Runs a directory, a store and a gateway as child processes, with all data in one folder.",
  )
  .option("--data <folder>", "where everything is kept", "./data")
  .option("--host <host>", "address that the gateway listens on", "127.0.0.1")
  .addOption(
    new Option("--port <port>", "the gateway's port, 0 for any").argParser(port).default(8333),
  )
  .addOption(
    new Option("--directory-port <port>", "the directory's port, 0 for any")
      .argParser(port)
      .default(0),
  )
  .addOption(
    new Option("--store-port <port>", "the store's port, 0 for any").argParser(port).default(0),
  )
  .addOption(reserve())
  .addOption(volumeSize())
  .addOption(cacheBytes())
  .addOption(deleteDelay())
  .addOption(catalog())
  .addOption(checkpointNeedles())
  .addOption(logLevel().default("warn"));
upCommand.action(async (options) => await up(options));

const directoryCommand = program
  .command("directory")
  .summary("run a directory alone")
  .description(
    "Runs the directory: it knows which store has which volume, and gives out the right to write.",
  )
  .option("--data <folder>", "where its database is kept, if it is the only one")
  .addOption(
    new Option(
      "--database <url>",
      "a PostgreSQL (postgres://…) instead, shared by several directories of which one leads",
    ).env("HAYLOFT_DIRECTORY_DATABASE"),
  )
  .option("--host <host>", "address to listen on", "127.0.0.1")
  .addOption(
    new Option("--port <port>", "port to listen on, 0 for any").argParser(port).default(9333),
  )
  .option("--advertise <host:port>", "how others reach it, where that is another address")
  .addOption(tokenFile())
  .addOption(nativeAccess())
  .addOption(
    new Option(
      "--compact-garbage <share>",
      "share of deleted bytes from which a volume is compacted by itself, 0 for never",
    )
      .argParser(ratio)
      .default(0.3),
  )
  .addOption(
    new Option("--compact-rate <size>", "bytes a second that such a compaction copies, 0 for any")
      .argParser(bytes)
      .default(20_000_000, "20MB"),
  )
  .addOption(logLevel());
for (const option of opsOptions()) directoryCommand.addOption(option);
directoryCommand.action(async ({ compactGarbage, compactRate, ...options }) => {
  const { runDirectory } = await import("./directory/main.ts");
  const { compactionDefaults } = await import("./directory/plan-compaction.ts");
  const compaction = {
    ...compactionDefaults,
    garbageRatioMin: compactGarbage,
    rateBytes: compactRate,
  };
  await runDirectory({ ...options, compaction: compactGarbage === 0 ? "off" : compaction });
});

const storeGroup: Command = program
  .command("store")
  .summary("run a store alone, or empty one")
  .usage("[options]")
  .addHelpText("after", () => `\nTo run one:\n${storeCommand.helpInformation()}`);
const storeCommand = storeGroup
  .command("run", { isDefault: true, hidden: true })
  .description("Runs a store: it keeps blobs in volume files in one folder.")
  .requiredOption("--data <folder>", "where its volumes are kept")
  .addOption(directoryOption("the directory that it reports to, or all of them"))
  .option("--host <host>", "address to listen on", "127.0.0.1")
  .addOption(
    new Option("--port <port>", "port to listen on, 0 for any").argParser(port).default(8080),
  )
  .option("--advertise <host:port>", "how gateways reach it, where that is another address")
  .addOption(tokenFile())
  .addOption(nativeAccess())
  .addOption(reserve())
  .addOption(volumeSize())
  .addOption(checkpointNeedles())
  .option("--machine <name>", "the machine it stands on, where not the host's own name")
  .option("--rack <name>", "the rack of that machine", "rack")
  .option("--data-centre <name>", "the data centre of that rack", "data-centre")
  .addOption(
    new Option("--replica-timeout <seconds>", "how long another copy may take to store an upload")
      .argParser(seconds)
      .default(4),
  )
  .addOption(logLevel());
for (const option of [...scrubOptions(), ...opsOptions()]) storeCommand.addOption(option);
storeCommand.action(
  async ({ reserve, volumeSize, scrubDays, scrubRate, trashHours, replicaTimeout, ...options }) => {
    const { runStore } = await import("./store/main.ts");
    await runStore({
      ...options,
      reserveBytes: reserve,
      volumeBytes: volumeSize,
      scrubRateBytes: scrubRate,
      scrubIntervalMs: scrubDays * 86_400_000,
      trashMs: trashHours * 3_600_000,
      replicaTimeoutMs: replicaTimeout * 1_000,
    });
  },
);

const gatewayCommand = program
  .command("gateway")
  .summary("run a gateway alone")
  .description("Runs the gateway: the public address, with uploads, objects and resized pictures.")
  .requiredOption("--data <folder>", "its own folder, with its database unless --catalog is given")
  .addOption(directoryOption("the directory that it asks, or all of them"))
  .addOption(
    credentialsOption("JSON with accessKey and secretKey of the root user").makeOptionMandatory(),
  )
  .option("--host <host>", "address to listen on", "127.0.0.1")
  .addOption(
    new Option("--port <port>", "port to listen on, 0 for any").argParser(port).default(8333),
  )
  .option("--advertise <host:port>", "where the directory sends clients, where that is another")
  .addOption(tokenFile())
  .addOption(nativeAccess())
  .addOption(catalog())
  .addOption(cacheBytes())
  .addOption(deleteDelay())
  .addOption(logLevel());
for (const option of opsOptions()) gatewayCommand.addOption(option);
gatewayCommand.action(async ({ deleteDelay, ...options }) => {
  const { runGateway } = await import("./gateway/main.ts");
  await runGateway({ ...options, deleteDelayMs: deleteDelay * 1_000 });
});

program
  .command("init")
  .summary("make the secret and the key of a new cluster")
  .description(
    "Makes the files that all machines of a cluster share: the secret of its processes (token) and the root user's key (credentials.json). What is there already stays. `hayloft up` needs none of it: it makes its own.",
  )
  .argument("<folder>", "where to, such as /etc/hayloft")
  .action((folder: string) => prepareMachines(folder));

atGateway(program.command("status"))
  .summary("show stores, volumes, objects and bytes")
  .description("Shows what a running Hayloft holds: stores, volumes, buckets, objects and bytes.")
  .option("--json", "for machines")
  .action(async (options) => await printStatus(options));

const bucketCommand = program
  .command("bucket")
  .summary("make a bucket, change its settings")
  .description("Buckets and their settings.");
atGateway(bucketCommand.command("make"))
  .summary("make a bucket")
  .description("Makes a bucket. Settings may be given as for `hayloft bucket set`.")
  .argument("<bucket>")
  .argument("[settings...]", "name=value")
  .action(async (bucket, settings, options) => await makeBucket(bucket, settings ?? [], options));
atGateway(bucketCommand.command("set"))
  .summary("change a bucket's settings")
  .description(
    `Changes settings of a bucket, given as name=value:

  public-read=true|false       anyone may read objects (not list them)
  versioning=on|suspended      keep earlier versions
  images=ladder|open|off       which sizes may be asked for: steps, any, none
  max-object-bytes=SIZE        the largest object, up to 5GiB
  durability=disk|memory       whether an upload waits for the disk; with memory
                               what was stored in the last second may be lost
                               in a power cut, in a crash of the machine, or
                               when its disk fails or is full
  copies=1…8                   on how many stores a blob is kept; or SeaweedFS's
                               three digits, which say how far apart too: 010
  spread=machine|rack|data-centre
                               what no two of them share
  min=1…8                      with how many an upload is taken while there
                               can't be more; all of them if never given`,
  )
  .argument("<bucket>")
  .argument("<settings...>", "name=value")
  .action(async (bucket, settings, options) => await setBucket(bucket, settings, options));

atGateway(program.command("explain"))
  .summary("show where an object's bytes are")
  .description(
    "Shows an object's version, its chunks, and each of their copies as its store sees it: place in the volume's file, whether it is served, and whether its bytes verify, which are read for that.",
  )
  .argument("<bucket/key>", "the object")
  .option("--version-id <id>", "another version than the latest")
  .option("--json", "for machines")
  .action(async (target, options) => {
    const { printExplanation } = await import("./explain.ts");
    await printExplanation(target, options);
  });

program
  .command("credentials")
  .summary("show the root user's key as curl -u takes it")
  .description("Shows the root user's key and secret with a colon between.")
  .option("--data <folder>", "the data folder of `hayloft up`", "./data")
  .addOption(credentialsOption("the file, where there is no such folder"))
  .action((options: { data: string; credentials?: string }) => printCredentials(options));

program
  .command("token")
  .summary("show the token for SeaweedFS's calls")
  .description(
    "Shows what clients of SeaweedFS's calls send as `Authorization: Bearer TOKEN` where --native is token. It follows from the cluster's secret, changes with it, and opens no other calls.",
  )
  .option("--data <folder>", "the data folder of `hayloft up`", "./data")
  .addOption(
    new Option("--token-file <file>", "the cluster's secret, where there is no such folder").env(
      "HAYLOFT_TOKEN_FILE",
    ),
  )
  .action((options: { data: string; tokenFile?: string }) => printNativeToken(options));

addVolumeCommands(program);
addClusterCommands(program, storeGroup);

try {
  await program.parseAsync();
} catch (error) {
  // A sentence is enough for what has a known cause; anything else is a mistake of ours, shown whole.
  const text =
    error instanceof Failure
      ? error.message
      : error instanceof Error
        ? error.stack
        : messageOf(error);
  process.stderr.write(`hayloft: ${text}\n`);
  process.exitCode = error instanceof Failure && error.kind === "conflict" ? exitCodeHopeless : 1;
}
