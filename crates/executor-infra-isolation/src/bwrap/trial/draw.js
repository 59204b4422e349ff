const crypto = require('crypto');
const vm = require('vm');

exports.handler = () => [
  Math.random(),
  vm.runInNewContext('Math.random()'),
  crypto.randomUUID(),
  crypto.randomInt(2 ** 47),
  crypto.randomBytes(8).toString('hex'),
];
