// SPDX-License-Identifier: Apache-2.0
// A server as many are written: how it ends is up to node, unless it is told to handle SIGTERM.
const http = require('http');

const how = process.argv[2];
if (how === 'handles') {
  process.on('SIGTERM', () => process.exit(0));
} else if (how === 'heap') {
  const kept = [];
  for (;;) kept.push(new Array(1 << 16).fill({}).map((_, at) => ({ at })));
} else if (how === 'buffers') {
  const kept = [];
  for (;;) kept.push(Buffer.alloc(1 << 20, 1));
} else if (how === 'throws') {
  throw new Error('nobody catches this');
}
http.createServer((request, response) => response.end('fine\n')).listen(8000);
