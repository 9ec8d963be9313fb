"""`/api/admin/controls`: run-time switches, by those who look after the platform."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from chassis import controls
from chassis.errors import Kind
from chassis.orders import LEVELS
from services.gateway.auth import Admin
from services.gateway.errors import BODY, documented
from services.gateway.resources import Sent, Title

ControlName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}(\.[a-z0-9_-]{1,40}){0,2}$")]
ControlValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]

# What is known of names; a service that asks for another one says itself what it takes.
_VALUES: tuple[tuple[re.Pattern[str], frozenset[str]], ...] = (
    (re.compile(r"rate_limits"), frozenset({"normal", "aggressive"})),
    (re.compile(r"uploads"), frozenset({"allow", "refuse"})),
    (re.compile(r"breaker\..*"), frozenset({"open", "closed", "auto"})),
    (re.compile(r"feature\.partials"), frozenset({"on", "off"})),
    (re.compile(r"feature\.(?!partials$).*"), frozenset()),  # nobody would obey
    (re.compile(r"log_level(\..*)?"), frozenset(LEVELS)),
    (re.compile(r"(drain|pool)\..*|caches(\..*)?"), frozenset({"now"})),
)


class Control(BaseModel):
    """A switch that is set."""

    name: str = Field(examples=["rate_limits"])
    value: str = Field(examples=["aggressive"])
    who: str = Field(description="The account that set it, or what the operator said to be.")
    why: str
    set_at: datetime
    until: datetime | None = Field(description="When it ends by itself; null: when somebody changes it.")

    @classmethod
    def of(cls, control: controls.Control) -> Control:
        until = None if control.until_s is None else datetime.fromtimestamp(control.until_s, UTC)
        return cls(
            name=control.name, value=control.value, who=control.who, why=control.why,
            set_at=datetime.fromtimestamp(control.set_at_s, UTC), until=until,
        )  # fmt: skip


class Controls(BaseModel):
    """The switches that are set; all others have their defaults."""

    items: list[Control]


class NewControl(Sent):
    """What to set: `rate_limits` (normal, aggressive), `uploads` (allow, refuse), `breaker.<dependency>` (open, closed,
    auto), `feature.partials` (on, off), `log_level[.<who>]`; and, each `now`: `caches[.<who>]`, `pool.<database>`,
    `drain.<replica>`."""

    name: ControlName = Field(examples=["rate_limits"])
    value: ControlValue | None = Field(description="Null: back to its default.", examples=["aggressive"])
    why: Title = Field(description="For the record.", examples=["A flood of registrations"])
    for_s: float | None = Field(None, gt=0, le=30 * 86400, description="Seconds after which it ends by itself.")

    @model_validator(mode="after")
    def _know_the_value(self) -> NewControl:
        for names, values in _VALUES:
            if names.fullmatch(self.name) and self.value is not None and self.value not in values:
                raise PydanticCustomError("not_a_value", "This control has no such value")
        return self


class ControlDesk(Protocol):
    """Where switches are set and seen."""

    def active(self) -> list[controls.Control]:
        """Return those that are set."""

    async def put(self, name: str, value: str, *, who: str, why: str, for_s: float | None) -> controls.Control:
        """Set one. Raises AppError(UNAVAILABLE)."""

    async def clear(self, name: str, *, who: str, why: str) -> None:
        """Give one back to its default. Raises AppError(UNAVAILABLE)."""


def routes(desk: ControlDesk) -> APIRouter:
    """Return the routes of `/api/admin/controls`."""
    router = APIRouter(prefix="/api/admin/controls", tags=["admin"])

    @router.get("", responses=documented(Kind.UNAUTHORIZED, Kind.FORBIDDEN))
    async def list_controls(_: Admin) -> Controls:
        """List the switches that are set, as this replica knows them."""
        return Controls(items=[Control.of(control) for control in desk.active()])

    @router.put("", responses=documented(*BODY, Kind.UNAUTHORIZED, Kind.FORBIDDEN))
    async def set_control(body: NewControl, who: Admin) -> Controls:
        """Set a switch for all services, at once; or give it back to its default. Answers all that are set then."""
        if body.value is None:
            await desk.clear(body.name, who=who.account_id, why=body.why)
        else:
            await desk.put(body.name, body.value, who=who.account_id, why=body.why, for_s=body.for_s)
        return Controls(items=[Control.of(control) for control in desk.active()])

    return router
