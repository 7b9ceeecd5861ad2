// A page's WebSockets as a peer: see ../PROTOCOL.md. `tell` is a binding: what it is given becomes a line.

"use strict";
globalThis.obey = (() => {
  const sockets = new Map();
  const encoder = new TextEncoder();
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  // All of it in ASCII, as the lines of the others.
  const ascii = json => json.replace(/[^\x20-\x7e]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

  function report(event, fields, bytes) {
    const line = ascii(JSON.stringify({ event, ...fields }));
    tell(bytes === undefined ? line : `${line}\t${bytes.toBase64()}`);
  }

  const doing = {
    connect({ id, url, echo, subprotocols }) {
      const socket = new WebSocket(url, subprotocols);
      socket.binaryType = "arraybuffer";
      let opened = false;
      socket.onopen = () => {
        opened = true;
        sockets.set(id, socket);
        report("open", { id, subprotocol: socket.protocol, extensions: socket.extensions.split(";")[0] });
      };
      socket.onmessage = ({ data }) => {
        const [type, bytes] = typeof data === "string"
          ? ["text", encoder.encode(data)]
          : ["binary", new Uint8Array(data)];
        report("message", { id, type }, bytes);
        if (echo) socket.send(data);
      };
      socket.onclose = ({ code, reason, wasClean }) => {
        sockets.delete(id);
        if (opened) report("closed", { id, code, reason, clean: wasClean, error: null });
        else report("failed", { id, error: `${code} ${reason}` });
      };
    },

    send({ id, type }, bytes) {
      sockets.get(id).send(type === "text" ? decoder.decode(bytes) : bytes);
    },

    burst({ id, count }) {
      for (let i = 1; i <= count; i++) sockets.get(id).send(`message ${i}`);
    },

    close({ id, code, reason }) {
      if (code === undefined) sockets.get(id).close();
      else sockets.get(id).close(code, reason);
    },
  };

  return line => {
    const [json, data] = line.split("\t");
    const told = JSON.parse(json);
    try {
      doing[told.do](told, data === undefined ? undefined : Uint8Array.fromBase64(data));
    } catch (error) {
      report("error", { error: `${told.do}: ${error}` });
    }
  };
})();
