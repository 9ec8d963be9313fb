"""A gateway that counts in Redis or not at all."""

from __future__ import annotations

from functools import partial
from typing import Any

from chassis import lifecycle
from chassis.cache import Cache
from chassis.errors import AppError, Kind
from chassis.redis_lane import Away, Call
from chassis.settings import load
from services.gateway.__main__ import start
from services.gateway.settings import Settings


class StrictCache(Cache):
    """Lets nobody in whom it cannot count."""

    async def start(self, script: str, keys: tuple[str, ...], arguments: tuple[Any, ...]) -> Call:
        """Ask Redis. Raises AppError(UNAVAILABLE) when memory would answer."""
        try:
            return await super().start(script, keys, arguments)
        except Away as fault:
            raise AppError(Kind.UNAVAILABLE, "Nobody counts.", retry_after_s=1.0) from fault


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run("gateway", settings, partial(start, settings, cache_type=StrictCache))
