import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { expect, it } from "vitest";
import { bundle } from "../../build.js";

const LIMIT = 6 * 1024;

async function minified(): Promise<string> {
  const built = await build({ ...bundle, minify: true, write: false });
  return built.outputFiles![0]!.text;
}

it("is small: at most 6 KiB, minified and compressed", async () => {
  const size = gzipSync(await minified(), { level: 9 }).length;
  console.info(`${size} bytes of ${LIMIT}`);
  expect(size).toBeLessThanOrEqual(LIMIT);
});

it("depends on nothing", () => {
  const { dependencies, peerDependencies } = JSON.parse(readFileSync("package.json", "utf8"));
  expect([dependencies, peerDependencies]).toEqual([undefined, undefined]);
});

it("is built into the demo page as it is here (npm run build -- --demo)", async () => {
  const isSame = readFileSync("../../standalone/demo/espigon.js", "utf8") === (await minified());
  expect(isSame).toBe(true);
});

it("is locked without naming where packages come from", () => {
  const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
  const packages = Object.values(lock.packages) as { resolved?: string; integrity?: string }[];
  expect(packages.filter(({ resolved }) => resolved)).toEqual([]);
  expect(packages.length).toBeGreaterThan(50);
});
