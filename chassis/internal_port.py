"""The internal port: liveness, readiness in detail, metrics, and where the tasks of the process stand. Never public."""

from __future__ import annotations

import asyncio
from typing import Protocol

from prometheus_client import REGISTRY, Gauge
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

TASKS = Gauge("asyncio_tasks", "Tasks in the event loop.")

_FRAMES_MAX = 12


class Life(Protocol):
    """What the port tells of."""

    async def readiness(self) -> dict[str, str]:
        """Return the faults that keep the service from taking work, by dependency; empty if there are none."""

    async def detail(self) -> dict[str, object]:
        """Return all that an operator may want to know of the process now."""


def internal_app(life: Life) -> Starlette:
    """Return the application of the internal port."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        faults = await life.readiness()
        told: dict[str, object] = {"status": "unready" if faults else "ready", "faults": faults}
        if "verbose" in request.query_params:
            told |= await life.detail()
        return JSONResponse(told, 503 if faults else 200)

    async def metrics(request: Request) -> Response:
        TASKS.set(len(asyncio.all_tasks()))
        # Prometheus asks for OpenMetrics, which has exemplars.
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(REGISTRY), headers={"Content-Type": kind})

    async def tasks(_: Request) -> Response:
        return PlainTextResponse("\n".join(sorted(map(_where, asyncio.all_tasks()))) + "\n")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/debug/tasks", tasks),
        ]
    )


def _where(task: asyncio.Task[object]) -> str:
    """Return a task's name and the lines at which it waits. Code only: what is in its variables may be anybody's."""
    frames = [f"{one.f_code.co_filename}:{one.f_lineno} {one.f_code.co_name}" for one in task.get_stack()]
    return "\n    ".join([task.get_name(), *frames[:_FRAMES_MAX]])
