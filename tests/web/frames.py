"""What a browser says and hears on its sockets, checked against docs/asyncapi.yaml."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Literal

import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from playwright.async_api import WebSocket

from dev.settings import ROOT

Side = Literal["fromClient", "fromServer"]


@cache
def _validator(side: Side) -> Draft202012Validator:
    document = yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text(encoding="utf-8"))
    return Draft202012Validator({"$ref": f"#/components/schemas/{side}", "components": document["components"]})


def faults(side: Side, message: Any) -> list[str]:
    """Return what is wrong with a message."""
    return [f"{side} {json.dumps(message)[:300]}: {one.message[:200]}" for one in _validator(side).iter_errors(message)]


class Frames:
    """Listens to sockets; keeps the kinds of messages that it heard, and what was wrong with them."""

    def __init__(self) -> None:
        self.kinds: set[tuple[Side, str]] = set()
        self.faults: list[str] = []

    def listen(self, socket: WebSocket) -> None:
        """Follow a socket to its end."""
        socket.on("framesent", lambda frame: self._take("fromClient", frame))
        socket.on("framereceived", lambda frame: self._take("fromServer", frame))

    def _take(self, side: Side, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            if not 9 <= len(frame) <= 8 + 64 * 1024 or side == "fromServer":
                self.faults.append(f"{side}: a binary frame of {len(frame)} bytes")
            self.kinds.add((side, "audio"))
            return
        message = json.loads(frame)
        self.kinds.add((side, message["type"]))
        self.faults += faults(side, message)
