// Ends with an uncaught error, after threads of libuv's have worked.
require('crypto').pbkdf2('a', 'b', 1, 8, 'sha1', () => {
  throw new TypeError('thrown');
});
