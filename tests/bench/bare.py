"""The bare process beside which the edge is measured: FastAPI on uvicorn as it comes, with a route of each kind.

python -m tests.bench.bare PORT
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel

HOST = "127.0.0.1"


class State(BaseModel):
    """What `/healthz` answers, there as here."""

    status: str


class Model(BaseModel):
    """One of what `/v1/models` lists, there as here."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "bench"


class Models(BaseModel):
    """The list."""

    object: str = "list"
    data: list[Model]


def bare_app() -> FastAPI:
    """Return the application."""
    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> State:
        return State(status="ok")

    @app.get("/v1/models")
    async def models() -> Models:
        return Models(data=[Model(id="whisper-1")])

    @app.put("/drop")
    async def drop(request: Request) -> dict[str, int]:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return {"bytes": size}

    return app


def main() -> None:
    """Serve until killed."""
    uvicorn.run(
        bare_app(), host=HOST, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main()
