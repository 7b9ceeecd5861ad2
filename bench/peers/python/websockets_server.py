"""A WebSocket server on `websockets`, without compression unless that is what is measured."""

import logging

from serving import options, run, tls
from websockets.asyncio.server import broadcast, serve

logging.basicConfig(level=logging.WARNING)
option = options()


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


clients = set()


async def to_all(websocket):
    clients.add(websocket)
    try:
        async for message in websocket:
            broadcast(clients, message)
    finally:
        clients.remove(websocket)


def start():
    return serve(
        echo if option.mode == "echo" else to_all,
        "127.0.0.1",
        0,
        ssl=tls(option),
        backlog=4096,
        compression="deflate" if option.deflate else None,
        max_size=None,
        ping_interval=None,
    )


run("websockets", start)
