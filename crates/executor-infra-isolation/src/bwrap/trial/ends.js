// Ends by itself, after threads of libuv's and V8's have worked, with a code that is decided last.
const module42 = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 6, 1, 4, 0, 65, 42, 11,
]);
WebAssembly.compile(module42);
require('fs').promises.stat('/').then(() => {
  console.log('ended');
  process.on('exit', () => (process.exitCode = 7));
});
