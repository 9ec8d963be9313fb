"""A gateway that takes any number of any frames, as uvicorn does."""

from __future__ import annotations

from functools import partial

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol as Plain

from chassis import lifecycle
from chassis.settings import load
from services.gateway.__main__ import start
from services.gateway.protocol import CountedSocket
from services.gateway.settings import Settings


class BoundlessSocket(CountedSocket):
    """Bounds the size of a message only."""

    data_received = Plain.data_received
    handle_cont = Plain.handle_cont
    handle_ping = Plain.handle_ping
    handle_pong = Plain.handle_pong
    send_receive_event_to_app = Plain.send_receive_event_to_app


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("gateway", settings, partial(start, settings, socket_protocol=BoundlessSocket))
