"""A gateway that takes any number of any frames, as uvicorn does."""

from __future__ import annotations

from functools import partial

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from chassis import lifecycle
from chassis.settings import load
from services.gateway.__main__ import start
from services.gateway.settings import Settings

if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("gateway", settings, partial(start, settings, socket_protocol=WebSocketsSansIOProtocol))
