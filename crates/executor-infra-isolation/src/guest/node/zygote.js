"use strict";
// What a warm Node runs: loads the runner and what guests need, forks, and is the runner of one guest in each fork. The
// native part is node/ in executor-guest.
{
  const fs = require("fs");
  const vm = require("vm");
  const Module = require("module");
  // A global that the runner removes.
  const ours = require;
  // In a guest as much at once as there is: a small job is one read. What follows in a zygote is not for JavaScript.
  const arrived = Buffer.alloc(64 << 10);
  let first = 0;
  let end = 0;
  let isGuest = false;
  const take = (size) => {
    const bytes = Buffer.allocUnsafe(size);
    for (let have = 0; have < size; ) {
      if (first === end) {
        first = 0;
        end = fs.readSync(3, arrived, 0, isGuest ? arrived.length : Math.min(size - have, arrived.length), null);
        if (end === 0) throw new Error("the guest channel ended before the job was complete");
      }
      const copied = arrived.copy(bytes, have, first, end);
      first += copied;
      have += copied;
    }
    return bytes;
  };
  const receive = (kind) => {
    const header = take(5);
    if (header[4] !== kind.charCodeAt(0)) throw new Error("the guest channel has a frame of another kind");
    return take(header.readUInt32LE(0)).toString();
  };
  const refuse = (why) => {
    fs.writeSync(2, why + "\n");
    process.reallyExit(1);
  };
  const threads = () => fs.readdirSync("/proc/self/task").length;

  const source = receive("B").slice(1);
  const packages = receive("P").split(" ").filter(Boolean);
  const options = { filename: "sandbox-executor-runner.js" };
  const runner = vm.compileFunction(source, ["require", "receive"], options);

  // Nothing of a workspace may be looked at: Node remembers what it has not found.
  const load = Module.createRequire("/usr/zygote.js");
  const atFirst = threads();
  const active = () => process.getActiveResourcesInfo?.() ?? [];
  // Streams are made when somebody looks at them, and count.
  void [process.stdout, process.stderr];
  const activeAtFirst = active().length;
  for (const name of packages) {
    try {
      load(name);
    } catch (error) {
      refuse(`${name} cannot be loaded: ${error}`);
    }
    if (threads() > atFirst) refuse(`${name} cannot be loaded: it starts threads, which a fork does not have`);
    if (active().length > activeAtFirst) refuse(`${name} cannot be loaded: it leaves something to be waited for (${active()})`);
  }
  // Where a package was found is where guests that have none of that name in their workspace find it.
  Module._pathCache = Object.create(null);
  for (const name of ["assert", "buffer", "child_process", "crypto", "events", "fs/promises", "http", "net", "os", "path",
    "perf_hooks", "querystring", "readline", "stream", "stream/promises", "string_decoder", "timers/promises", "tty", "url",
    "util", "worker_threads", "zlib"]) {
    load(name);
  }

  // Small jobs that use what most guests use. The first prints nothing that could be seen.
  const JOBS = [
    "exports.handler = async (event, context) => { process.stdout.write(''); process.stderr.write(''); return { event } }",
    "import os from 'node:os'; export const handler = (event) => [event, new Date().toISOString(), typeof os.cpus]",
    "function handler(event, context, callback) { context.callbackWaitsForEmptyEventLoop = false; callback(null, 1) }",
    "exports.handler = () => { console.log('warm', { a: [1] }); throw new Error('warm') }",
    "exports.handler = async () => (await import('node:path')).sep",
  ];
  // How often Node's own functions have to run until V8 has compiled those that matter.
  const ROUNDS = 60;

  // Runs jobs from beginning to end, so that what is made on first use is there. Nobody gets their answers.
  const warmUp = async (jobs) => {
    const names = ["stdout", "stderr"];
    const { reallyExit } = process;
    const { writeSync } = fs;
    const events = ["uncaughtExceptionMonitor", "beforeExit", "exit"];
    const listeners = new Map(events.map((event) => [event, process.rawListeners(event)]));
    const before = names.map((name) => Object.getOwnPropertyDescriptor(process, name));
    fs.writeSync = (_fd, bytes) => bytes.length;
    try {
      for (const code of jobs) {
        const job = { mode: "handler", remaining_ms: 1000, max_result_bytes: 1000, memory_limit_mb: 1, environment: [] };
        const frames = { J: JSON.stringify({ ...job, execution_id: "warm", session_id: "warm" }), C: code, E: '{"a":[1,2.5,"x"]}' };
        await new Promise((ended) => {
          process.reallyExit = ended;
          runner(ours, (kind) => frames[kind]);
        });
        for (const [event, earlier] of listeners) {
          for (const listener of process.rawListeners(event)) {
            if (!earlier.includes(listener)) process.removeListener(event, listener);
          }
        }
      }
    } finally {
      fs.writeSync = writeSync;
      process.reallyExit = reallyExit;
      names.forEach((name, number) => Object.defineProperty(process, name, before[number]));
    }
    delete process.mainModule;
  };

  // Has the library know the exit code of a guest that ends by itself, once every listener has had its say in it: the last
  // listener is added when Node, about to end, looks for process.emit.
  const noteExitCode = (leave) => {
    const note = () => leave(Number(process.exitCode ?? 0) | 0);
    let emit = process.emit;
    let replaced = false;
    let noted = false;
    Object.defineProperty(Object.getPrototypeOf(process), "emit", {
      configurable: true,
      enumerable: false,
      get() {
        if (!process._exiting) return emit;
        if (!noted) {
          noted = true;
          process.on("exit", note);
        }
        if (!replaced) return emit;
        return (...words) => {
          const heard = emit.apply(process, words);
          note();
          return heard;
        };
      },
      set(value) {
        replaced = true;
        emit = value;
      },
    });
  };

  const unwarmed = (error) => refuse(`the runner cannot be warmed up: ${error.stack}`);

  const serve = () => {
    const guest = { exports: {} };
    process.dlopen(guest, "/proc/self/fd/4");
    const { serve: fork, pid, take: getJob, leave } = guest.exports;
    if (fork === undefined) refuse("this Node has another Node-API");
    if (threads() > atFirst) refuse("something has started threads, which a fork does not have");
    noteExitCode(leave);
    const v8 = ours("v8");
    v8.setFlagsFromString("--expose-gc");
    const gc = vm.runInNewContext("gc");
    v8.setFlagsFromString("--no-expose-gc");
    gc();
    gc();
    // Also looks at the whole heap, which has it swept: else each guest would sweep, and so write to, all that it shares.
    v8.getHeapCodeStatistics();
    const made = fork();
    if (made < 0) refuse("this Node cannot be forked");
    isGuest = true;
    Object.defineProperty(process, "pid", { value: pid() });
    if (packages.length > 0) {
      // A package may have drawn from these, and what is left of what Node has drawn ahead, all guests have a copy of.
      const crypto = ours("crypto");
      for (let count = 0; count < 128; count += 1) crypto.randomUUID();
      for (let count = 0; count < 1024; count += 1) crypto.randomInt(2);
    }
    // Again where nobody waits yet, so that memory that every guest reads from or writes to is the guest's own before it has
    // its job. Its standard input is empty until then.
    const again = made === 1 ? [JOBS[0]] : [];
    if (made === 1) {
      fs.readSync(0, arrived, 0, 1, null);
      fs.writeSync(1, arrived, 0, 0);
    }
    // The runner is under way already when it waits for its job.
    let hasJob = false;
    const receiveJob = (kind) => {
      if (!hasJob && getJob() !== 0) refuse("the guest got no job");
      hasJob = true;
      return receive(kind);
    };
    receiveJob.noteExit = leave;
    warmUp(again).then(() => process.nextTick(runner, ours, receiveJob), unwarmed);
  };

  // As in bootstrap.js, guests start from a tick of Node's first round.
  warmUp([...JOBS, ...Array(ROUNDS).fill(JOBS[0])]).then(() => process.nextTick(serve), unwarmed);
}
