// The package ws as a peer: see ../PROTOCOL.md. Usage: node peer.mjs DIR, where DIR/node_modules has it.

import { readFileSync, writeSync } from "node:fs";
import { createServer as createTlsServer } from "node:https";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.argv[2]}/`);
const WebSocket = require("ws");

const connections = new Map();

function report(event, fields = {}, bytes = undefined) {
  const line = JSON.stringify({ event, ...fields });
  const data = Buffer.from((bytes === undefined ? line : `${line}\t${bytes.toString("base64")}`) + "\n");
  // All of it, and in order, also where the pipe is full.
  for (let at = 0; at < data.length;) {
    try {
      at += writeSync(1, data, at);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

// null: no compression.
function deflateOptions(deflate) {
  if (!deflate) return false;
  const options = {};
  if (deflate.server_no_context_takeover) options.serverNoContextTakeover = true;
  if (deflate.client_no_context_takeover) options.clientNoContextTakeover = true;
  if (deflate.server_max_window_bits) options.serverMaxWindowBits = deflate.server_max_window_bits;
  if (deflate.client_max_window_bits) options.clientMaxWindowBits = deflate.client_max_window_bits;
  return options;
}

function follow(id, socket, echo) {
  connections.set(id, socket);
  let failure = null;
  socket.on("message", (data, isBinary) => {
    report("message", { id, type: isBinary ? "binary" : "text" }, data);
    if (echo) socket.send(data, { binary: isBinary });
  });
  socket.on("pong", data => report("pong", { id }, data));
  socket.on("error", error => { failure = error.message; });
  // Of the two ways to be told, this one has wasClean.
  socket.addEventListener("close", event => {
    connections.delete(id);
    report("closed", { id, code: event.code, reason: event.reason, clean: event.wasClean, error: failure });
  });
}

const opened = (id, socket) =>
  report("open", { id, subprotocol: socket.protocol || null, extensions: socket.extensions });

const doing = {
  listen({ deflate, subprotocols, max_size, tls }) {
    const options = {
      maxPayload: max_size,
      perMessageDeflate: deflateOptions(deflate),
      handleProtocols: offered => subprotocols.find(name => offered.has(name)) ?? false,
    };
    const listening = address => report("listening", { port: address.port });
    let server;
    if (tls) {
      const tlsServer = createTlsServer({ cert: readFileSync(tls.cert), key: readFileSync(tls.key) });
      server = new WebSocket.Server({ ...options, server: tlsServer });
      tlsServer.listen(0, "127.0.0.1", () => listening(tlsServer.address()));
    } else {
      server = new WebSocket.Server({ ...options, host: "127.0.0.1", port: 0 });
      server.on("listening", () => listening(server.address()));
    }
    server.on("connection", (socket, request) => {
      const [, echo, id] = request.url.match(/^\/(echo\/)?(\w+)$/);
      follow(id, socket, echo !== undefined);
      opened(id, socket);
    });
    server.on("wsClientError", error => report("error", { error: error.message }));
  },

  connect({ id, url, echo, deflate, subprotocols, max_size, tls }) {
    const socket = new WebSocket(url, subprotocols, {
      maxPayload: max_size,
      perMessageDeflate: deflateOptions(deflate),
      ...(tls && { ca: readFileSync(tls.ca) }),
    });
    const failed = error => report("failed", { id, error: error.message });
    socket.on("error", failed);
    // What is there to be listened to may come together with the answer.
    socket.on("upgrade", () => {
      socket.off("error", failed);
      follow(id, socket, echo);
    });
    socket.on("open", () => opened(id, socket));
  },

  send({ id, type, fragments = 1, between = false }, bytes) {
    const socket = connections.get(id);
    const size = Math.ceil(bytes.length / fragments);
    for (let i = 0; i < fragments; i++) {
      const part = bytes.subarray(i * size, (i + 1) * size);
      socket.send(part, { binary: type === "binary", fin: i === fragments - 1 });
      if (between && i === 0) socket.ping("between");
    }
  },

  burst({ id, count }) {
    const socket = connections.get(id);
    for (let i = 1; i <= count; i++) socket.send(`message ${i}`);
  },

  ping: ({ id }, bytes) => connections.get(id).ping(bytes),
  close: ({ id, code, reason }) => connections.get(id).close(code, reason),
  vanish: ({ id }) => connections.get(id).terminate(),
};

createInterface({ input: process.stdin }).on("line", line => {
  const [json, data] = line.split("\t");
  const told = JSON.parse(json);
  try {
    doing[told.do](told, data === undefined ? undefined : Buffer.from(data, "base64"));
  } catch (error) {
    report("error", { error: `${told.do}: ${error.message}` });
  }
}).on("close", () => process.exit(0));

report("ready", { name: "ws", version: require("ws/package.json").version, runtime: `node ${process.version}` });
