"""A gateway that waits for the transcriber that served a session first, however long that is gone."""

from __future__ import annotations

import asyncio
from functools import partial

from chassis import lifecycle
from chassis.errors import AppError, Kind
from chassis.settings import load
from services.gateway.__main__ import start
from services.gateway.relay import Fleet, Link
from services.gateway.settings import Settings


class FaithfulFleet(Fleet):
    """Brings a session where it belongs, whether anybody is there or not."""

    async def choose(self, session_id: str, within_s: float) -> Link:
        """Wait for the one link of the session."""
        targets = sorted(self._targets)
        target = targets[ord(session_id[-1]) % len(targets)]
        try:
            async with asyncio.timeout(within_s):
                while target not in self._links or not self._links[target][0].connected:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AppError(Kind.UNAVAILABLE, "The session's transcriber does not answer.") from None
        return self._links[target][0]


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("gateway", settings, partial(start, settings, fleet_type=FaithfulFleet))
