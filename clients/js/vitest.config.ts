import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // Files of real processes mostly wait.
    maxWorkers: 2,
    projects: [
      { test: { name: "unit", include: ["test/unit/**/*.test.ts"] } },
      // Real processes: a few at a time, and enough time on a busy machine.
      {
        test: {
          name: "integration",
          expect: { poll: { timeout: 20_000 } },
          include: ["test/integration/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: "browser",
          expect: { poll: { timeout: 20_000 } },
          include: ["test/browser/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
