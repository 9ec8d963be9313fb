"""The two durable logs of sessions in JetStream, audio and transcript: what they are there, how they are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis import bus
from chassis.errors import AppError, Kind

_READ_BATCH = 500
_READ_S = 10.0
PUBLISH_S = 5.0


def streams(audio_bytes_max: int, transcript_bytes_max: int, age_s_max: float) -> tuple[bus.Stream, bus.Stream]:
    """Return the declarations of both logs, bounded by size (appends fail when full) and age."""
    return (
        bus.Stream("AUDIO", ("audio.*",), max_bytes=audio_bytes_max, max_age_s=age_s_max),
        bus.Stream("TRANSCRIPT", ("transcript.*",), max_bytes=transcript_bytes_max, max_age_s=age_s_max),
    )


async def newest_of(broker: bus.Bus, stream: str, subject: str) -> tuple[int, bytes] | None:
    """Return (sequence, data) of a subject's newest message; None if it has none. Raises AppError(UNAVAILABLE)."""
    # Not the direct variant: only the stream's leader is sure to know the newest message.
    try:
        message = await broker.js.get_last_msg(stream, subject)
    except nats.js.errors.NotFoundError:
        return None
    except bus.FAULTS as fault:
        raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
    return message.seq or 0, message.data or b""


async def read_all(broker: bus.Bus, stream: str, subject: str, first: int, last: int) -> list[tuple[int, bytes]]:
    """Return (sequence, data) of a subject's messages with `first` <= sequence <= `last`, which must exist.

    Raises AppError(UNAVAILABLE).
    """
    try:
        async with asyncio.timeout(_READ_S), aclosing(batches_of(broker, stream, subject, first, last)) as batches:
            return [row async for batch in batches for row in batch]
    except TimeoutError as fault:
        raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"{subject}: {fault!r}") from fault


async def batches_of(
    broker: bus.Bus, stream: str, subject: str, first: int, last: int, size: int = _READ_BATCH
) -> AsyncGenerator[list[tuple[int, bytes]], None]:
    """Yield what `read_all` returns, as it comes."""
    config = ConsumerConfig(
        filter_subject=subject,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if first else DeliverPolicy.ALL,
        opt_start_seq=first or None,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=30,
        mem_storage=True,
    )
    try:
        subscription = await broker.js.pull_subscribe(subject, stream=stream, config=config)
        try:
            newest = 0
            while newest < last:
                messages: list[Msg] = await subscription.fetch(size, timeout=2)
                rows = [(message.metadata.sequence.stream, message.data) for message in messages]
                newest = rows[-1][0]
                yield [row for row in rows if row[0] <= last]
        finally:
            await bus.quietly(subscription.unsubscribe())
    except bus.FAULTS as fault:
        raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"{subject}: {fault!r}") from fault
