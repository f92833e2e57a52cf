import { defineConfig, type ViteUserConfig } from "vitest/config";
import ClosingLine from "./loadtest/closing-line.ts";

const config: ViteUserConfig = defineConfig({
  test: {
    include: ["**/*.test.ts"],
    exclude: ["node_modules/**", "data/**"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ["default", new ClosingLine()],
    pool: "forks",
  },
});

export default config;
