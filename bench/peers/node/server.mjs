// A WebSocket server on `ws`, as its manual advises for speed: without compression, with bufferutil.
// usage: server.mjs --modules DIR [--mode echo|broadcast] [--cert FILE --key FILE] [--deflate]

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const { values: option } = parseArgs({
    options: {
        modules: { type: 'string' },
        mode: { type: 'string', default: 'echo' },
        cert: { type: 'string' },
        key: { type: 'string' },
        deflate: { type: 'boolean', default: false },
    },
});

const require = createRequire(`${option.modules}/package.json`);
const { WebSocketServer } = require('ws');
require('bufferutil');

const http = option.cert
    ? createTlsServer({ cert: readFileSync(option.cert), key: readFileSync(option.key) })
    : createServer();
const server = new WebSocketServer({
    server: http,
    perMessageDeflate: option.deflate,
    maxPayload: 64 << 20,
});

server.on('connection', (socket) => {
    socket.on('error', (error) => console.error(error.message));
    if (option.mode === 'broadcast') {
        socket.on('message', (data, binary) => {
            for (const client of server.clients) client.send(data, { binary });
        });
    } else {
        socket.on('message', (data, binary) => socket.send(data, { binary }));
    }
});

http.listen({ host: '127.0.0.1', port: 0, backlog: 4096 }, () => {
    const { version } = require('ws/package.json');
    console.log(`${http.address().port} ${process.pid} ws ${version}, node ${process.versions.node}`);
});
process.stdin.on('end', () => process.exit(0)).resume();
