// Fills ../vendor from node_modules: all of three.js, and of Babylon.js what babylon.js here names.
// Run by `npm ci && npm run build`; what it writes is committed, so that nobody else needs node or a network.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const vendor = join(here, "..", "vendor");
const modules = join(here, "node_modules");
mkdirSync(vendor, { recursive: true });

const bundles = {
  "three.min.js": join(modules, "three", "build", "three.module.js"),
  "babylon.min.js": join(here, "babylon.js"),
};
for (const [name, entry] of Object.entries(bundles)) {
  await build({
    entryPoints: [entry],
    outfile: join(vendor, name),
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "none",
    logLevel: "warning",
  });
}
copyFileSync(join(modules, "three", "LICENSE"), join(vendor, "LICENSE.three"));
copyFileSync(join(modules, "@babylonjs", "core", "license.md"), join(vendor, "LICENSE.babylon"));

const version = (name) => JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8")).version;
writeFileSync(
  join(vendor, "VERSIONS"),
  `three ${version("three")}\n@babylonjs/core ${version("@babylonjs/core")}\nesbuild ${version("esbuild")}\n`,
);
