"""The package websockets as a peer: see ../PROTOCOL.md."""

import asyncio
import platform

import websockets
from lines import client_tls, obey, parse_path, parts, report, server_tls
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)


def compression(deflate, factory):
    if deflate is None:
        return {"compression": None}
    if not deflate:
        return {"compression": "deflate"}
    return {"compression": None, "extensions": [factory(**deflate)]}


class Peer:
    def __init__(self):
        self.connections = {}

    async def follow(self, id, connection, echo):
        self.connections[id] = connection
        report(
            "open",
            id=id,
            subprotocol=connection.subprotocol,
            extensions=", ".join(extension.name for extension in connection.protocol.extensions),
        )
        failure = None
        try:
            while True:
                message = await connection.recv()
                binary = isinstance(message, bytes)
                data = message if binary else message.encode()
                report("message", data, id=id, type="binary" if binary else "text")
                if echo:
                    await connection.send(message)
        except ConnectionClosed as closed:
            failure = str(closed)
        await connection.wait_closed()
        del self.connections[id]
        protocol = connection.protocol
        report(
            "closed",
            id=id,
            code=connection.close_code,
            reason=connection.close_reason,
            clean=protocol.close_rcvd is not None and protocol.close_sent is not None,
            error=failure,
        )

    async def listen(self, deflate, subprotocols, max_size, tls=None, data=None):
        async def handler(connection):
            id, echo = parse_path(connection.request.path)
            await self.follow(id, connection, echo)

        server = await serve(
            handler,
            "127.0.0.1",
            0,
            subprotocols=subprotocols,
            max_size=max_size,
            ping_interval=None,
            ssl=server_tls(tls),
            **compression(deflate, ServerPerMessageDeflateFactory),
        )
        self.server = server
        report("listening", port=server.sockets[0].getsockname()[1])

    async def connect(self, id, url, echo, deflate, subprotocols, max_size, tls=None, data=None):
        try:
            connection = await connect(
                url,
                subprotocols=subprotocols,
                max_size=max_size,
                ping_interval=None,
                proxy=None,
                ssl=client_tls(tls),
                **compression(deflate, ClientPerMessageDeflateFactory),
            )
        except Exception as error:
            report("failed", id=id, error=f"{type(error).__name__}: {error}")
            return
        await self.follow(id, connection, echo)

    async def send(self, id, type, data, fragments=1, between=False):
        connection = self.connections[id]
        # Text by characters, so that no part of it ends inside of one.
        message = data.decode() if type == "text" else data
        if fragments == 1:
            return await connection.send(message)

        async def pieces():
            for i, part in enumerate(parts(message, fragments)):
                yield part
                if between and i == 0:
                    pong = asyncio.ensure_future(await connection.ping(b"between"))
                    pong.add_done_callback(lambda _: report("pong", b"between", id=id))

        await connection.send(pieces())

    async def burst(self, id, count, data):
        for i in range(count):
            await self.connections[id].send(f"message {i + 1}")

    async def ping(self, id, data):
        await (await self.connections[id].ping(data))
        report("pong", data, id=id)

    async def close(self, id, data, code=None, reason=""):
        connection = self.connections[id]
        if code is not None:
            return await connection.close(code, reason)
        # Its close() always has a code.
        async with connection.send_context():
            connection.protocol.send_close()

    async def vanish(self, id, data):
        self.connections[id].transport.abort()


report("ready", name="websockets", version=websockets.__version__, runtime=f"Python {platform.python_version()}")
asyncio.run(obey(Peer()))
