"""`/healthz` and `/readyz`: what load balancers ask, and in a word what operators do (more: the internal port)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from chassis.errors import AppError, Kind, Problem
from services.gateway.auth import admin_of
from services.gateway.errors import documented

Readiness = Callable[[], Awaitable[Mapping[str, str]]]
Ailing = Callable[[], Mapping[str, str]]


class State(BaseModel):
    """Whether the service is there."""

    status: str
    faults: dict[str, str] | None = Field(None, description="With `verbose`: the parts that are not well, in a word.")


def routes(readiness: Readiness, ailing: Ailing) -> APIRouter:
    """Return the routes of probes. `ailing` names parts that are not well and without which work is taken still."""
    router = APIRouter(tags=["service"])

    @router.get("/healthz", response_model_exclude_none=True)
    async def healthz() -> State:
        """Tell that the process lives. Asks nobody else."""
        return State(status="ok")

    @router.get(
        "/readyz",
        response_model_exclude_none=True,
        responses=documented(Kind.UNAUTHORIZED, Kind.VALIDATION_FAILED, Kind.RATE_LIMIT_EXCEEDED),
    )
    async def readyz(
        request: Request,
        verbose: Annotated[str | None, Query(description="With any value, for admins: name what is not well.")] = None,
    ) -> State:
        """Tell whether this replica takes work. What is wrong is told to admins, and in detail on the internal port."""
        faults = await readiness()
        if verbose is None:
            if faults:
                raise AppError(Kind.UNAVAILABLE, "This replica takes no work now.")
            return State(status="ready")
        await admin_of(request)
        if faults:
            told = tuple(Problem(name, fault) for name, fault in faults.items())
            raise AppError(Kind.UNAVAILABLE, "This replica takes no work now.", details=told)
        return State(status="ready", faults=dict(ailing()))

    return router
