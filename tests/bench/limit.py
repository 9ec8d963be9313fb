"""The raw limit beside which the gateway is measured: a bare ASGI socket that acknowledges every frame, and no more.

python -m tests.bench.limit PORT
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
import uvicorn

HOST = "127.0.0.1"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Say started, then answer each frame with the offset of its end."""
    if scope["type"] != "websocket":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        frame = message.get("bytes")
        answer: dict[str, str | int]
        if frame is None:
            answer = {"type": "started"}
        else:
            answer = {"type": "ack", "offset": int.from_bytes(frame[:8], "big") + len(frame) - 8}
        await send({"type": "websocket.send", "text": orjson.dumps(answer).decode()})


def main() -> None:
    """Serve as the gateway does: uvloop, the sans-I/O WebSocket, no compression."""
    uvicorn.run(
        app,
        host=HOST,
        port=int(sys.argv[1]),
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="warning",
    )


if __name__ == "__main__":
    main()
