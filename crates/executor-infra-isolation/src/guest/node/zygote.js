"use strict";
{
  // For this process alone (node.rs in executor-guest).
  delete process.env.LD_PRELOAD;
  const fs = require("fs");
  const vm = require("vm");
  const take = (size) => {
    const bytes = Buffer.allocUnsafe(size);
    for (let have = 0; have < size; ) {
      const more = fs.readSync(3, bytes, have, size - have, null);
      if (more === 0) throw new Error("the guest channel ended before the job was complete");
      have += more;
    }
    return bytes;
  };
  const receive = (kind) => {
    const header = take(5);
    if (header[4] !== kind.charCodeAt(0)) throw new Error("the guest channel has a frame of another kind");
    return take(header.readUInt32LE(0)).toString();
  };
  const source = receive("B").slice(1);
  for (const name of receive("P").split(" ").filter(Boolean)) {
    try {
      require(name);
    } catch (error) {
      process.stderr.write(`${name} cannot be loaded: ${error}\n`);
      process.exit(1);
    }
  }
  const options = { filename: "sandbox-executor-runner.js" };
  const runner = vm.compileFunction(source, ["require", "receive"], options);
  // Math.random() goes on from the state that all guests have a copy of: the same numbers in each. These come from a
  // generator (Blackman and Vigna, xoshiro128**) with a seed of the guest's own.
  const renewRandom = () => {
    let [a, b, c, d] = require("crypto").getRandomValues(new Uint32Array(4));
    const next = () => {
      let result = Math.imul(b, 5);
      result = Math.imul((result << 7) | (result >>> 25), 9) >>> 0;
      const t = b << 9;
      c ^= a;
      d ^= b;
      b ^= c;
      a ^= d;
      c ^= t;
      d = (d << 11) | (d >>> 21);
      return result;
    };
    const random = { random: () => ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992 }.random;
    Object.defineProperty(Math, "random", { value: random, configurable: true, enumerable: false, writable: true });
  };
  // Goes the way of a small job, so that what is made on first use is there.
  for (const code of ["exports.handler = (event) => event", "export const handler = 1"]) {
    try {
      const body = vm.compileFunction(code, ["exports", "require", "module"], { filename: "main.js" });
      body({}, require, {});
    } catch (error) {
      String(error.stack);
    }
  }
  JSON.stringify(JSON.parse('{"a": [1, 2.5, "x"]}'));
  process.nextTick(() => {
    const guest = { exports: {} };
    process.dlopen(guest, "/proc/self/fd/4");
    if (guest.exports.serve() !== 1) throw new Error("this Node cannot be forked");
    renewRandom();
    Object.defineProperty(process, "pid", { value: Number(fs.readlinkSync("/proc/self")), enumerable: true, configurable: true, writable: false });
    process.reallyExit = (code) => guest.exports.exit(code | 0);
    if (guest.exports.take() !== 0) throw new Error("the guest got no job");
    runner(require, receive);
  });
}
