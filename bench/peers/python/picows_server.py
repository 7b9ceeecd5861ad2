"""A WebSocket server on `picows`, with its core interface, which is the fast one."""

from picows import WSCloseCode, WSListener, WSMsgType, ws_create_server
from serving import options, run, tls

option = options()
if option.deflate:
    raise SystemExit("the core interface of picows has no compression")


class Base(WSListener):
    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code() or WSCloseCode.OK)
            transport.disconnect()
        else:
            self.on_message(transport, frame)


class Echo(Base):
    def on_message(self, transport, frame):
        transport.send(frame.msg_type, frame.get_payload_as_memoryview())


clients = set()


class ToAll(Base):
    def on_ws_connected(self, transport):
        clients.add(transport)

    def on_ws_disconnected(self, transport):
        clients.discard(transport)

    def on_message(self, transport, frame):
        message = frame.get_payload_as_bytes()
        for client in clients:
            client.send(frame.msg_type, message)


def start():
    return ws_create_server(
        lambda request: Echo() if option.mode == "echo" else ToAll(),
        "127.0.0.1",
        0,
        ssl=tls(option),
        backlog=4096,
        max_frame_size=64 << 20,
        enable_auto_ping=False,
        enable_auto_pong=True,
    )


run("picows", start)
