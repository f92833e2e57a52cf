/**
 * A vitest reporter that closes a run with one plain line, `N passed, N failed, N skipped`,
 * after everything else, so that people and machines find the outcome in the same place.
 */

import type { Reporter, TestModule } from "vitest/node";

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const count = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    for (const module of modules) {
      // A module that could not even be loaded has no tests to count, and is a failure all the same.
      const tests = [...module.children.allTests()];
      if (module.state() === "failed" && !tests.some((test) => test.result().state === "failed")) {
        count.failed += 1;
      }
      for (const test of tests) {
        const { state } = test.result();
        count[state === "passed" || state === "failed" ? state : "skipped"] += 1;
      }
    }
    // The default reporter prints its summary in the same tick; the line has to come after it.
    process.on("exit", () => {
      process.stdout.write(
        `\n${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped\n`,
      );
    });
  }
}
