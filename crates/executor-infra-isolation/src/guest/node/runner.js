'use strict';
// Runs one JavaScript guest: reads its job from the guest channel, runs its code, sends back what came of it. The
// protocol, and what a runner must and must not do, is docs/guest-channel.md. This text is the body of a function of
// `require` and `receive(kind)`, which returns the next frame's payload as text.
//
// The guest shares the realm, so it can break anything here. That spoils its own result and nothing else. On the way to
// a result nothing is loaded that Node has not loaded already: even a first look at process.stdout costs milliseconds.

const fs = require('fs');
const vm = require('vm');
const Module = require('module');

const CHANNEL = 3;
const GUEST_CJS = 'main.js';
const GUEST_ESM = 'main.mjs';
const RUNNER_FILE = 'sandbox-executor-runner.js';

// Bounds of an error report. The daemon's decoder (channel.rs) has the same ones and cuts whatever exceeds them.
const MAX_TYPE_CHARS = 256;
const MAX_MESSAGE_CHARS = 16 * 1024;
const MAX_ENTRY_CHARS = 2048;
const MAX_ENTRIES = 64;
const MAX_CAUSES = 8;

const job = JSON.parse(receive('J'));
const source = receive('C').replace(/^\uFEFF/, '').replace(/^#!/, '//');
const eventText = receive('E');
// Only for interpreters that were started before their job.
for (const [name, value] of job.environment ?? []) process.env[name] = value;
const isScript = job.mode === 'script';
const deadline = monotonicMs() + job.remaining_ms;
const directory = process.cwd();
const mainPath = directory + '/' + GUEST_CJS;
const exitNow = process.reallyExit.bind(process);

let sent = false;
let uncaught = null; // the report of an exception that Node is about to die of
let whenIdle = null; // what to do when nothing is left that could run

// ---- The channel

/** Sends one frame to the daemon, the first time it is called; in vain where the guest has closed the channel. */
function send(kind, payload) {
  if (sent) return;
  sent = true;
  const body = Buffer.from(payload);
  const frame = Buffer.allocUnsafe(5 + body.length);
  frame.writeUInt32LE(body.length, 0);
  frame.write(kind, 4, 'latin1');
  body.copy(frame, 5);
  try {
    for (let at = 0; at < frame.length; ) at += fs.writeSync(CHANNEL, frame, at);
  } catch {
    // Nobody can be told.
  }
}

/** Answers and ends: what the guest left running does not delay its answer. */
function finish(kind, payload, status) {
  send(kind, payload);
  exitNow(status);
}

/** Ends with an error: what went wrong goes to stderr as well. */
function fail(report, printed) {
  complain(printed);
  finish('X', JSON.stringify(report), 1);
}

/** One message for the guest's stderr, without loading the stream. */
function complain(text) {
  try {
    fs.writeSync(2, text + '\n');
  } catch {
    // A closed stderr is the guest's own doing.
  }
}

// ---- The guest's surroundings

function monotonicMs() {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1e3 + nanoseconds / 1e6;
}

/** Removes what `node -e` puts into the global object and programs in files do not see. */
function tidyGlobals() {
  const ordinary = new Set(['console', 'process', 'crypto']);
  for (const name of [...Module.builtinModules, 'require', 'module', 'exports', '__filename', '__dirname']) {
    if (!ordinary.has(name)) delete globalThis[name];
  }
  process.argv[1] = mainPath;
  process.execArgv = [];
  delete process._eval;
}

/** Makes a standard stream write at once: process.exit() would lose what waits in a pipe's queue. */
function makeBlocking(name) {
  const { get } = Object.getOwnPropertyDescriptor(process, name);
  let stream;
  Object.defineProperty(process, name, {
    configurable: true,
    enumerable: true,
    get() {
      if (stream === undefined) {
        stream = get.call(process);
        stream._handle?.setBlocking?.(true);
      }
      return stream;
    },
  });
}

/** The second argument of a handler, with the properties that AWS Lambda documents. */
function makeContext() {
  return {
    callbackWaitsForEmptyEventLoop: true,
    awsRequestId: job.execution_id,
    functionName: 'handler',
    functionVersion: '$LATEST',
    invokedFunctionArn: 'arn:aws:lambda:local:000000000000:function:handler',
    memoryLimitInMB: String(job.memory_limit_mb),
    logGroupName: '/aws/lambda/' + job.session_id,
    logStreamName: job.execution_id,
    identity: null,
    clientContext: null,
    getRemainingTimeInMillis: () => Math.max(0, Math.floor(deadline - monotonicMs())),
  };
}

// ---- Loading the guest's code

const WRAPPER_NAMES = ['exports', 'require', 'module', '__filename', '__dirname'];
// Added behind a CommonJS guest, to see a `handler` that was declared and not exported.
const LOCAL_HANDLER = '\nreturn typeof handler === "undefined" ? undefined : handler;';
// Added behind an ES module for the same purpose; not valid, and then left out, where there is nothing to add.
const EXPORT_HANDLER = '\nexport { handler };';

/**
 * Compiles the guest's code. Whether it is CommonJS or an ES module is for V8 to say, because words in strings and
 * comments mislead everybody else: what compiles as the body of a CommonJS module is one; else what compiles as the body
 * of an async function is CommonJS with a top-level await; else it is an ES module or has a syntax error.
 *
 * Returns a function that runs the code and returns, or promises, its handler (`undefined` where there is none).
 */
function compile() {
  const tail = isScript ? '' : LOCAL_HANDLER;
  const options = { filename: GUEST_CJS, importModuleDynamically: importFromWorkspace };
  let refusal;
  try {
    // First without the tail, which would show in syntax errors and could even complete a program that lacks an end.
    vm.compileFunction(source, WRAPPER_NAMES, options);
    const body = vm.compileFunction(source + tail, WRAPPER_NAMES, options);
    return () => runCommonJs(body);
  } catch (error) {
    refusal = error;
  }
  if (!/^(Cannot use import|Cannot use 'import\.meta'|Unexpected token 'export')/.test(refusal.message)) {
    try {
      const body = compileAsync(tail, options);
      return () => runCommonJs(body);
    } catch (error) {
      // These are how V8 says that it met an `await` which it did not expect: then the other opinion is to the point.
      if (/^(await is only valid|Unexpected reserved word|missing \) after)/.test(refusal.message)) refusal = error;
    }
  }
  try {
    const module = compileEsm();
    return () => runEsm(module);
  } catch (error) {
    throw /^(Cannot use|Unexpected token 'export')/.test(refusal.message) ? locate(error) : refusal;
  }
}

function compileAsync(tail, options) {
  const wrapped = `(async function (${WRAPPER_NAMES.join(', ')}) {\n${source}${tail}\n})`;
  const script = new vm.Script(wrapped, { ...options, lineOffset: -1 });
  // Once more, now without a place to name: a stray brace must not end the function early.
  new (async () => {}).constructor(...WRAPPER_NAMES, source);
  return script.runInThisContext();
}

function runCommonJs(body) {
  const module = new Module(mainPath, null);
  module.filename = mainPath;
  module.paths = Module._nodeModulePaths(directory);
  process.mainModule = module; // so that `require.main === module` holds
  const require = Module.createRequire(mainPath);
  const local = body.call(module.exports, module.exports, require, module, mainPath, directory);
  const choose = (declared) => {
    module.loaded = true;
    return [module.exports?.handler, module.exports, module.exports?.default, declared].find(isFunction) ?? module.exports?.handler;
  };
  return isThenable(local) && body.constructor !== Function ? local.then(choose) : choose(local);
}

function compileEsm() {
  const options = {
    identifier: GUEST_ESM,
    importModuleDynamically: importFromWorkspace,
    initializeImportMeta(meta) {
      meta.url = require('url').pathToFileURL(mainPath).href;
      meta.filename = mainPath;
      meta.dirname = directory;
    },
  };
  // Node announces that vm modules are experimental. That is our affair; the guest's own warnings stay.
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    if (!isScript) {
      try {
        return new vm.SourceTextModule(source + EXPORT_HANDLER, options);
      } catch {
        // Exported already, or not declared.
      }
    }
    return new vm.SourceTextModule(source, options);
  } finally {
    process.emitWarning = emitWarning;
  }
}

async function runEsm(module) {
  await module.link(async (specifier, _referrer, extra) => {
    const namespace = await importFromWorkspace(specifier, module, extra?.attributes ?? extra?.assert);
    const names = Object.keys(namespace);
    return new vm.SyntheticModule(names, function () {
      for (const name of names) this.setExport(name, namespace[name]);
    });
  });
  await module.evaluate();
  const { handler, default: fallback } = module.namespace;
  return [handler, fallback, fallback?.handler].find(isFunction) ?? handler;
}

let importer;

/** What `import(specifier)` does in a file of the workspace; also finds what `require` finds by NODE_PATH. */
async function importFromWorkspace(specifier, _referrer, attributes) {
  if (importer === undefined) {
    const anchor = new Module(mainPath, null);
    anchor.filename = mainPath;
    anchor.paths = Module._nodeModulePaths(directory);
    anchor._compile('module.exports = (name, options) => options ? import(name, options) : import(name);', mainPath);
    importer = anchor.exports;
  }
  const options = attributes && Object.keys(attributes).length > 0 ? { with: attributes, assert: attributes } : undefined;
  try {
    return await importer(specifier, options);
  } catch (error) {
    if (error?.code !== 'ERR_MODULE_NOT_FOUND' || /^[./]|^[a-z]+:/.test(specifier)) throw error;
    let path;
    try {
      path = Module.createRequire(mainPath).resolve(specifier);
    } catch {
      throw error;
    }
    return importer(require('url').pathToFileURL(path).href, options);
  }
}

/**
 * Gives an ES module's syntax error its place, which V8 keeps to itself for modules: the module's text with its import
 * and export keywords blanked out usually has the same error as a function.
 */
function locate(error) {
  const blank = (text) => text.replace(/[^\n]/g, ' ');
  const text = source
    .replace(/^[ \t]*import\b[^'"(]*(['"]).*?\1[^\n;]*;?/gm, blank)
    .replace(/^[ \t]*export[ \t]+(default[ \t]+)?(?=[\w[({'"`])/gm, blank)
    .replace(/\bimport\.meta\b/g, blank);
  try {
    new vm.Script(`(async function () {\n${text}\n})`, { filename: GUEST_ESM, lineOffset: -1 });
  } catch (twin) {
    if (twin.message === error.message) return twin;
  }
  return error;
}

// ---- Calling the handler

function isFunction(value) {
  return typeof value === 'function';
}

function isThenable(value) {
  return value !== null && (typeof value === 'object' || typeof value === 'function') && isFunction(value.then);
}

async function handle() {
  let load;
  try {
    load = compile();
  } catch (error) {
    refuse(error);
  }
  whenIdle = () => stalled('The top-level await of the code never settled');
  let handler;
  let value;
  try {
    handler = await load();
    if (isFunction(handler)) value = await call(handler);
  } catch (error) {
    // In an order that lets a report be made before the guest's stack is printed from the same object.
    const report = describe(error, 'handler_error');
    fail(report, inspect(error));
  }
  if (!isFunction(handler)) missing(handler);
  answer(value);
}

/** Calls the handler. Promises what it returns, or what it hands to its callback. */
function call(handler) {
  const context = makeContext();
  const event = JSON.parse(eventText);
  return new Promise((resolve, reject) => {
    whenIdle = () => stalled("The handler's promise never settled");
    let called = false;
    const callback = (error, value) => {
      if (called) return;
      called = true;
      const settle = () => (error === null || error === undefined ? resolve(value) : reject(error));
      // As in AWS Lambda: what is still running may finish first, unless the handler says otherwise.
      if (context.callbackWaitsForEmptyEventLoop) whenIdle = settle;
      else settle();
    };
    const result = handler(event, context, callback);
    if (isThenable(result)) result.then((value) => called || resolve(value), reject);
    else if (handler.length < 3) called || resolve(result);
    else if (!called) whenIdle = () => stalled('The handler never called its callback');
  });
}

function answer(value) {
  let text;
  try {
    text = JSON.stringify(value) ?? 'null';
  } catch (error) {
    if (error instanceof RangeError && error.message === 'Invalid string length') tooLarge();
    const report = describe(error, 'not_serializable');
    const key = findBigInt(value);
    if (key) report.error_message += ` (at ${key})`;
    fail(report, `${report.error_type}: ${report.error_message}`);
  }
  // Half of a surrogate pair is not text, and strict JSON parsers refuse it even as an escape.
  if (text.includes('\\ud')) text = text.replace(/\\(?:ud[89a-f][0-9a-f]{2}|.)/g, (part) => (part.length > 2 ? '\ufffd' : part));
  if (Buffer.byteLength(text) > job.max_result_bytes) tooLarge();
  if (text.includes('null') && hasNonFinite(value)) complain('note: NaN and infinities in the return value became null');
  finish('R', text, 0);
}

/** Where in a value a BigInt is, for the message; the empty string where there is none. */
function findBigInt(value) {
  let found = '';
  try {
    JSON.stringify(value, (key, item) => {
      if (typeof item === 'bigint') found ||= key === '' ? '' : JSON.stringify(key);
      return typeof item === 'bigint' ? null : item;
    });
  } catch {
    // It has other troubles as well.
  }
  return found;
}

function hasNonFinite(value) {
  let found = false;
  JSON.stringify(value, (_key, item) => {
    found ||= typeof item === 'number' && !Number.isFinite(item);
    return item;
  });
  return found;
}

// ---- What went wrong

function failure(errorType, message, reason, entries = []) {
  if (entries.length > MAX_ENTRIES) {
    const left = entries.length - MAX_ENTRIES + 1;
    entries = [...entries.slice(0, MAX_ENTRIES - 1), `... ${left} entries left out ...`];
  }
  return {
    error_type: clip(errorType, MAX_TYPE_CHARS),
    error_message: clip(message, MAX_MESSAGE_CHARS),
    stack_trace: entries.map((entry) => clip(entry, MAX_ENTRY_CHARS)),
    reason,
  };
}

/** The text, cut visibly where it is too long, and without halves of surrogate pairs, which are not text. */
function clip(text, limit) {
  const short = text.length <= limit ? text : text.slice(0, limit - 3) + '...';
  return short.replace(/[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]/g, (part) => (part.length === 2 ? part : '\ufffd'));
}

function missing(handler) {
  const what = handler === undefined ? 'The code defines no `handler`' : '`handler` is not a function';
  const message =
    `${what}: define \`exports.handler = async (event, context) => …\`, \`export const handler = …\` or ` +
    '`function handler(event)`, or send mode: "script" to run the code from top to bottom';
  fail(failure('HandlerNotFound', message, 'handler_not_found'), `HandlerNotFound: ${message}`);
}

function stalled(what) {
  const message = `${what}: nothing is left that could run`;
  fail(failure('UnsettledPromise', message, 'handler_error'), `UnsettledPromise: ${message}`);
}

function tooLarge() {
  const message = `The return value takes more than ${job.max_result_bytes} bytes as JSON, the most that is allowed`;
  fail(failure('ResultTooLarge', message, 'result_too_large'), `ResultTooLarge: ${message}`);
}

/** Ends the run for a syntax error. Node puts its place before the stack, in which all frames are ours. */
function refuse(error) {
  const head = `${error.name}: ${error.message}`;
  const stack = String(error.stack);
  const lines = source.split('\n');
  const place = /^main\.m?js:\d+\n/.test(stack)
    ? stack
        .slice(0, stack.indexOf(head))
        .trimEnd()
        .replace(/^(.*:(\d+)\n).*/, (_all, file, number) => file + (lines[number - 1] ?? ''))
    : '';
  fail(failure(error.name, error.message, 'syntax_error', place ? [place] : []), place ? `${place}\n\n${head}` : head);
}

/** The report of whatever was thrown, which need not be an Error. Takes the runner's frames off the error's stack. */
function describe(error, reason) {
  try {
    const entries = [];
    let current = error;
    for (let depth = 0; depth < MAX_CAUSES && isError(current); depth += 1) {
      if (depth > 0) entries.push(clip(`caused by: ${typeOf(current)}: ${messageOf(current)}`, MAX_ENTRY_CHARS));
      entries.push(...trim(current));
      for (const part of Array.isArray(current.errors) ? current.errors.slice(0, MAX_CAUSES) : []) {
        if (isError(part)) entries.push(`with: ${typeOf(part)}: ${messageOf(part)}`, ...trim(part));
      }
      current = current.cause;
    }
    return failure(typeOf(error), messageOf(error), reason, entries);
  } catch {
    return failure('Error', 'an exception that cannot be read', reason);
  }
}

function isError(value) {
  return value !== null && typeof value === 'object' && typeof value.message === 'string';
}

function typeOf(error) {
  if (!isError(error)) return error === null ? 'null' : typeof error;
  const name = error.name === 'Error' || typeof error.name !== 'string' ? error.constructor?.name : error.name;
  return String(name || 'Error');
}

function messageOf(error) {
  if (isError(error)) return error.message;
  return typeof error === 'object' && error !== null ? inspect(error) : String(error);
}

/** An error as the console shows it. */
function inspect(error) {
  try {
    return isError(error) || typeof error === 'object' ? require('util').inspect(error) : `Uncaught ${String(error)}`;
  } catch {
    return 'Uncaught exception, which cannot be shown';
  }
}

/** Takes everything below the guest's first frame off an error's stack. Returns the frames, with the guest's lines. */
function trim(error) {
  const stack = String(error.stack);
  const split = Math.max(0, stack.indexOf(error.message)) + error.message.length;
  const lines = stack.slice(split).split('\n');
  const end = lines.findIndex((line) => line.includes(RUNNER_FILE));
  const kept = lines.slice(0, end < 0 ? lines.length : end).filter((line) => !line.includes('node:internal/'));
  // The call to JSON.stringify above a return value is the runner's as well.
  if (end >= 0 && kept.at(-1)?.includes('at JSON.stringify (<anonymous>)')) kept.pop();
  try {
    error.stack = stack.slice(0, split) + kept.join('\n');
  } catch {
    // Frozen: then it is printed as it is.
  }
  const text = source.split('\n');
  return kept
    .filter((line) => /^\s+at /.test(line))
    .map((line) => {
      const place = /(?:\s|\()main\.m?js:(\d+):\d+\)?$/.exec(line);
      const quoted = place && text[place[1] - 1]?.trim();
      return quoted ? `${line}\n        ${quoted}` : line;
    });
}

// ---- The run

process.on('uncaughtExceptionMonitor', (error) => {
  // A guest that listens deals with it; else Node prints the error and ends with 1.
  if (process.listenerCount('uncaughtException') === 0) uncaught = describe(error, 'handler_error');
});
process.on('beforeExit', () => {
  const act = whenIdle;
  whenIdle = null;
  act?.();
});
process.on('exit', (status) => {
  receive.noteExit?.(status); // in a warm start
  if (uncaught) send('X', JSON.stringify(uncaught));
  else if (isScript && status === 0) send('R', 'null');
  else send('Q', String(status & 0xff));
});

tidyGlobals();
makeBlocking('stdout');
makeBlocking('stderr');

if (isScript) {
  let load;
  try {
    load = compile();
  } catch (error) {
    refuse(error);
  }
  // Whatever it throws or rejects is not caught here: Node treats and prints it as it would without us.
  const done = load();
  if (isThenable(done)) {
    whenIdle = () => stalled('The top-level await of the code never settled');
    done.then(() => (whenIdle = null)); // a rejection stays unhandled, as above
  }
} else {
  handle();
}
