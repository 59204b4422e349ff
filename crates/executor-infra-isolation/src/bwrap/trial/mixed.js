const { execFileSync } = require('child_process');
const { promisify } = require('util');
const { Worker } = require('worker_threads');

// One function, which returns 42. V8 compiles it in a thread of its own.
const module42 = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 6, 1, 4, 0, 65, 42, 11,
]);

exports.handler = async () => {
  const heard = [execFileSync('/bin/sh', ['-c', 'echo child']).toString().trim()];
  await new Promise((rung) => setTimeout(rung, 1));
  await require('fs').promises.stat('/');
  const gzip = promisify(require('zlib').gzip);
  heard.push((await gzip('x')).length > 0, (await import('node:path')).sep);
  const worker = new Worker("require('worker_threads').parentPort.postMessage('worker')", { eval: true });
  heard.push(await new Promise((told, failed) => worker.on('message', told).on('error', failed)));
  heard.push((await WebAssembly.instantiate(module42)).instance.exports.f());
  // More than the young generation holds, so that garbage is collected.
  for (let round = 0; round < 200; round += 1) new Array(20_000).fill(round);
  return heard.join() === 'child,true,/,worker,42' ? 'mixed' : heard;
};
