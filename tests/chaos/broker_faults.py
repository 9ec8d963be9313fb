"""What is done to the broker while people talk: killed, its disk full, its streams deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.js import JetStreamContext

from tests.chaos.scene import Scene

FULL_S = 8.0
UNHEARD_S = 13.0
ALONE_S = 10.0
HEALS_WITHIN_S = 60.0
LEFT_BYTES = 256 * 1024


async def broker_killed(scene: Scene) -> None:
    """Kill the broker; the last time keep it away for a while."""
    for away_s in (0.0, 0.5, 8.0):
        scene.kill("nats")
        await scene.wait(away_s)
        await scene.restart("nats")
        await scene.flowing()


async def broker_and_transcriber_killed(scene: Scene) -> None:
    """Kill the broker, then a transcriber with audio that it could not store."""
    for name in ("transcriber", "transcriber-2"):
        scene.kill("nats")
        await scene.wait(0.5)
        scene.platform.stack.kill(name)
        await scene.restart("nats", name)
        await scene.flowing()


async def answers_lost(scene: Scene) -> None:
    """Let meetings reach the broker, but not hear it: what it publishes arrives, and it cannot know.

    What it has to tell (that a meeting is over) it tells again and again; the stream must have it once.
    """
    ways = [scene.platform.broker[name] for name in scene.platform.plan.names("meetings")]
    for _ in range(2):
        scene.mark()
        for way in ways:
            way.down.stall()
        await scene.wait(UNHEARD_S)
        for way in ways:
            way.heal()
            way.reset()
        await scene.wait(2.0)
    await scene.workload.finish()
    async with _broker(scene) as js:
        told = await _event_ids(js, len(scene.workload.ledgers))
    scene.notes.append(f"{len(told)} events told, {len(told) - len(set(told))} of them again")
    if len(set(told)) < len(told):
        scene.breaches.append(f"{len(told) - len(set(told))} events are in the stream twice")


async def _event_ids(js: JetStreamContext, at_least: int) -> list[str]:
    """Return the ids of all events in the stream, when there are as many as meetings are over. Raises TimeoutError."""
    async with asyncio.timeout(HEALS_WITHIN_S):
        while (state := (await js.stream_info("EVENTS")).state).messages < at_least:
            await asyncio.sleep(0.2)
    messages = [await js.get_msg("EVENTS", sequence) for sequence in range(state.first_seq, state.last_seq + 1)]
    return [(message.headers or {})["ce-id"] for message in messages]


async def broker_disk_full(scene: Scene) -> None:
    """Leave the broker no room, kill a transcriber meanwhile, give it room again.

    While it is full nothing is acknowledged and everybody is told to hold. Then the broker may need a restart: one
    command, docs/runbooks/BrokerDiskFull.md.
    """
    disk = scene.platform.disk
    assert disk is not None, "the row asks for a disk of the broker's own"
    scene.mark()
    disk.fill(LEFT_BYTES)
    full_at = time.monotonic()
    await scene.each(lambda ledger: any(at > full_at for at in ledger.held), "every client told to hold")
    await scene.wait(FULL_S / 2)
    before = [ledger.acked_offset for ledger in scene.workload.ledgers]
    scene.kill("transcriber")
    await scene.wait(FULL_S / 2)
    if before != [ledger.acked_offset for ledger in scene.workload.ledgers]:
        scene.breaches.append("audio was acknowledged while the broker's disk was full")
    disk.enlarge()
    began = time.monotonic()
    try:
        await scene.flowing(ALONE_S)
        scene.notes.append(f"goes on by itself {time.monotonic() - began:.0f} s after there is room")
    except TimeoutError:
        began = time.monotonic()
        await scene.restart("nats")
        await scene.flowing(HEALS_WITHIN_S)
        scene.notes.append(
            f"room alone does not help; goes on {time.monotonic() - began:.0f} s after the broker's restart"
        )
    await scene.restart("transcriber")
    await scene.flowing()


async def streams_deleted(scene: Scene) -> None:
    """Delete by hand, one after the other: the consumer that stores, the audio log, the transcript log, the events."""
    async with _broker(scene) as js:
        for what, delete in (
            ("consumer", lambda: js.delete_consumer("TRANSCRIPT", "meetings")),
            ("audio log", lambda: js.delete_stream("AUDIO")),
            ("transcript log", lambda: js.delete_stream("TRANSCRIPT")),
            ("events and jobs", lambda: _delete_all(js, "EVENTS", "JOBS", "DLQ")),
        ):
            scene.mark()
            began = time.monotonic()
            await delete()
            await scene.flowing(HEALS_WITHIN_S)
            await _storing(scene)
            scene.notes.append(f"{what}: {time.monotonic() - began:.0f} s")


async def _storing(scene: Scene) -> None:
    """Wait until what every session says now is in the database."""
    now = {ledger.number: ledger.acked_offset for ledger in scene.workload.speaking}
    await scene.each(
        lambda ledger: ledger.stored_offset >= now.get(ledger.number, 0), "everything in the database", HEALS_WITHIN_S
    )


async def _delete_all(js: JetStreamContext, *names: str) -> None:
    for name in names:
        await js.delete_stream(name)


@asynccontextmanager
async def _broker(scene: Scene) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(scene.platform.plan.nats_url)
    try:
        yield client.jetstream()
    finally:
        await client.close()
