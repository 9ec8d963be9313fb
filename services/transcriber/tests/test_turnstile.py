"""Calls pass in their turn, and none that is called off keeps a place."""

from __future__ import annotations

import asyncio

from services.transcriber.turnstile import AdaptiveLimit, Lane, Turnstile


def turnstile(most: int) -> Turnstile:
    clock = asyncio.get_running_loop().time
    return Turnstile(AdaptiveLimit(most, clock=clock), share=lambda: 1.0, clock=clock)


async def test_calls_that_are_called_off_together_leave_no_place_taken() -> None:
    """An upload that was cut off cancelled what ran and what waited in one moment: the place of the one went to the
    other, which was gone, and was never free again."""
    gate = turnstile(2)

    async def call() -> None:
        async with gate.passage(Lane.UPLOAD, "a"):
            await asyncio.sleep(60)

    for _ in range(3):
        calls = [asyncio.create_task(call()) for _ in range(6)]
        await asyncio.sleep(0)
        assert gate.running >= 1
        assert gate.waiting(Lane.UPLOAD) >= 4
        for one in calls:
            one.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
        assert (gate.running, gate.waiting(Lane.UPLOAD)) == (0, 0)
    async with asyncio.timeout(1), gate.passage(Lane.LIVE, "b"):
        assert gate.running == 1
