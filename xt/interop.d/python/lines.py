"""The lines between the harness and a peer's program: see ../PROTOCOL.md."""

import asyncio
import base64
import json
import ssl
import sys

LONGEST_LINE = 64 * 1024 * 1024


def report(event, data=None, **fields):
    line = json.dumps({"event": event, **fields})
    if data is not None:
        line += "\t" + base64.b64encode(data).decode()
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def told():
    """Each line of standard input: what it says, and its bytes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        text, _, data = line.decode().rstrip("\n").partition("\t")
        yield json.loads(text), base64.b64decode(data)


async def obey(peer):
    """Calls the method of the peer that each line names."""
    tasks = set()

    async def do(command, data):
        name = command.pop("do")
        try:
            await getattr(peer, name)(data=data, **command)
        except Exception as error:
            report("error", error=f"{name}: {type(error).__name__}: {error}")

    async for command, data in told():
        # Not awaited: closing, for instance, takes until the other side has answered.
        task = asyncio.create_task(do(command, data))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def server_tls(tls):
    if tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls["cert"], tls["key"])
    return context


def client_tls(tls):
    return None if tls is None else ssl.create_default_context(cafile=tls["ca"])


def parse_path(path):
    """The id of a connection, and whether its messages are to be sent back."""
    *echo, id = path.strip("/").split("/")
    return id, echo == ["echo"]


def parts(data, count):
    size = -(-len(data) // count)
    return [data[i * size : (i + 1) * size] for i in range(count)]
