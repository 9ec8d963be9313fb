"""A transcriber that leaves drafts as they are."""

from __future__ import annotations

import asyncio
from functools import partial

from chassis import lifecycle
from chassis.settings import load
from services.transcriber.__main__ import start
from services.transcriber.aftercare import Aftercare, Outcome
from services.transcriber.session import LiveSession
from services.transcriber.settings import Settings


class CarelessSession(LiveSession):
    """Hears nothing again."""

    async def _heal(self, tasks: asyncio.TaskGroup) -> None:
        """Do nothing."""


class NoAftercare(Aftercare):
    """Leaves closed sessions alone."""

    async def heal(self, session_id: str) -> Outcome:
        """Do nothing, and say that it is done."""
        return Outcome.SETTLED


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run(
        "transcriber", settings, partial(start, settings, live_session=CarelessSession, aftercare_type=NoAftercare)
    )
