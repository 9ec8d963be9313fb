"""The document that clients are made from: what the framework knows of the routes, and what it cannot know."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import FastAPI

from services.gateway import pages

# The framework would call these optional: their absence has answers of its own (428, 412), not its 422.
_NEEDED: dict[str, dict[str, Any]] = {
    "if-match": {"type": "string", "pattern": '^"[0-9]{1,18}"$', "examples": ['"3"']},
    "tus-resumable": {"type": "string", "enum": ["1.0.0"]},
}


class Described:
    """What is told of the calls of an application, made when somebody asks: it takes as long as a hundred requests."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._lock = asyncio.Lock()
        self._made: tuple[bytes, bytes] | None = None

    async def schema(self) -> bytes:
        """Return the OpenAPI document as JSON."""
        return (await self._both())[0]

    async def page(self) -> bytes:
        """Return the page that lists the calls."""
        return (await self._both())[1]

    async def _both(self) -> tuple[bytes, bytes]:
        async with self._lock:
            if self._made is None:
                self._made = await asyncio.to_thread(self._make)
            return self._made

    def _make(self) -> tuple[bytes, bytes]:
        schema = document(self._app)
        return orjson.dumps(schema), pages.reference(schema).encode()


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application whose routes are all known."""
    schema = app.openapi()
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if needed := _NEEDED.get(parameter["name"]):
                    parameter.update(required=True, schema=needed)
    return schema
