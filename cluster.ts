/** `hayloft cluster …` and `hayloft store drain`, as the command line shows them; cluster-work.ts does it. */

import { type Command, Option } from "commander";

export function addClusterCommands(program: Command, store: Command): void {
  const cluster = program
    .command("cluster")
    .summary("look at the stores and volumes of a cluster")
    .description("Shows what the directory knows of stores, and of volumes over all their copies.")
    .addHelpText(
      "after",
      `
Examples:
  hayloft cluster status
  hayloft cluster stores --directory 10.0.0.1:9333 --token-file token
  hayloft cluster volumes --short --json`,
    );
  where(cluster.command("status"))
    .summary("show what is amiss")
    .description("Shows how many stores answer, and which volumes have too few copies.")
    .action(async (options) => (await work()).printClusterStatus(options));
  where(cluster.command("stores"))
    .summary("list the stores")
    .description(
      "Lists the stores: where they stand, what they hold, whether they are being emptied.",
    )
    .action(async (options) => (await work()).printStores(options));
  where(cluster.command("volumes"))
    .summary("list the volumes with their copies")
    .description("Lists the volumes with the state of each copy.")
    .option("--short", "only those that have too few copies")
    .action(async (options) => (await work()).printVolumes(options));

  where(store.command("drain"))
    .summary("move everything away from a store")
    .description(
      "Has all copies of a store moved to others, so that it can be taken away. It serves until they are there. Refused where the others have too little space, or are too few for the volumes' copies.",
    )
    .argument("<id or host:port>", "the store")
    .option("--undo", "let it keep what it has, and take copies again")
    .option("--wait", "until it is empty, with what is left shown meanwhile")
    .action(async (name, options) => (await work()).drainStore(name, options));
}

/** Loaded only now: every process loads this file. */
async function work() {
  return await import("./cluster-work.ts");
}

function where(command: Command): Command {
  return command
    .option("--data <folder>", "the data folder of the running `hayloft up`", "./data")
    .addOption(
      new Option(
        "--directory <host:port,…>",
        "the directory of a cluster that runs, or all of them",
      ).env("HAYLOFT_DIRECTORY"),
    )
    .addOption(
      new Option("--token-file <file>", "the cluster's secret, with --directory").env(
        "HAYLOFT_TOKEN_FILE",
      ),
    )
    .option("--json", "for machines");
}
