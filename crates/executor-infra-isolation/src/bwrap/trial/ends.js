// Ends by itself, after threads of libuv's and V8's have worked, with a code that is decided last.
new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
WebAssembly.compile(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
require('fs').promises.stat('/').then(() => {
  console.log('ended');
  process.on('exit', () => (process.exitCode = 7));
});
