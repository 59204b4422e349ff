// Ends at once, while threads of libuv's may be at work.
require('fs').promises.stat('/').then(() => {
  require('fs').promises.stat('/usr');
  console.log('exits');
  process.exit(3);
});
