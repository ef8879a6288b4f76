// Builds `dist`: one ES module with its types, and the same minified. `node build.js --demo` also puts the minified one
// where the standalone server embeds it, so that `cargo run` needs no npm.
import { execFileSync } from "node:child_process";
import { copyFileSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

export const bundle = {
  entryPoints: [here("src/index.ts")],
  bundle: true,
  format: "esm",
  target: "es2022",
  // Names with an underscore are for this package alone.
  mangleProps: /^_/,
  legalComments: "none",
  absWorkingDir: here("."),
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  rmSync(here("dist"), { recursive: true, force: true });
  await build({ ...bundle, mangleProps: undefined, outfile: here("dist/index.js") });
  await build({ ...bundle, minify: true, outfile: here("dist/espigon.min.js") });
  execFileSync(here("node_modules/.bin/tsc"), ["-p", here("tsconfig.json")], { stdio: "inherit" });
  if (process.argv.includes("--demo"))
    copyFileSync(here("dist/espigon.min.js"), here("../../standalone/demo/espigon.js"));
}
