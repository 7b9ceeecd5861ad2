"""What both servers have in common: options, TLS, the report that they listen, and their end."""

import argparse
import asyncio
import os
import ssl
import sys
from importlib.metadata import version

import uvloop


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["echo", "broadcast"], default="echo")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--deflate", action="store_true")
    return parser.parse_args()


def tls(option):
    if option.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(option.cert, option.key)
    return context


def run(package, start):
    """Runs what `start`, a coroutine, makes: an asyncio server. It ends with standard input."""

    async def main():
        server = await start()
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(sys.stdin, lambda: over.set() if not os.read(0, 4096) else None)
        port = server.sockets[0].getsockname()[1]
        python = sys.version.split()[0]
        print(
            f"{port} {os.getpid()} {package} {version(package)}, uvloop {version('uvloop')}, Python {python}",
            flush=True,
        )
        await over.wait()
        # Connections that are still open are nobody's concern any more.
        os._exit(0)

    uvloop.run(main())
