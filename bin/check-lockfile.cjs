"use strict";
/*
 * Checks that package-lock.json is complete: every optional package that another names has its own
 * entry (npm ci refuses the file otherwise, on some machines only), every entry has an integrity,
 * none wants to run a script at installation, and none names where it was downloaded from.
 */
var fs = require("fs");
var path = require("path");

var lock = JSON.parse(fs.readFileSync(path.join(__dirname, "..", "package-lock.json"), "utf8"));
var names = Object.keys(lock.packages);
var bare = (name) => name.replace(/^.*node_modules\//, "");
var have = new Set(names.map(bare));
var problems = [];

for (const name of names) {
  if (name === "") continue;
  const entry = lock.packages[name];
  if (!entry.integrity && !entry.inBundle) problems.push(bare(name) + " has no integrity");
  if (entry.hasInstallScript) problems.push(bare(name) + " has an install script");
  if (entry.resolved) problems.push(bare(name) + " names its download address");
  for (const optional of Object.keys(entry.optionalDependencies || {})) {
    if (!have.has(optional)) problems.push(bare(name) + " lacks " + optional);
  }
}

for (const problem of problems) process.stderr.write("package-lock.json: " + problem + "\n");
if (problems.length > 0) process.exit(1);
