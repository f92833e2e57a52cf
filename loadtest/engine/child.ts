/**
 * How a child of the benchmark speaks: a line of JSON in, a line of JSON out, one after the other.
 *
 * Invariant: it ends with its standard input, whatever it is doing, so it never outlives who asked.
 */

import { createInterface } from "node:readline";

export async function serve<Request, Answer>(
  answer: (request: Request) => Promise<Answer>,
): Promise<void> {
  const lines = createInterface({ input: process.stdin });
  lines.once("close", () => process.exit(0));
  console.log("ready");
  for await (const line of lines) {
    try {
      console.log(JSON.stringify((await answer(JSON.parse(line) as Request)) ?? null));
    } catch (error) {
      console.error(error);
      process.exit(1);
    }
  }
}
