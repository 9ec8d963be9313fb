"""Messages that tell of what was deleted leave their stream, with their bytes."""

from __future__ import annotations

from collections.abc import Mapping

import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis import bus, telemetry
from chassis.bus import Bus
from chassis.errors import AppError, Kind

log = telemetry.logger(__name__)

_BATCH = 500
_WAIT_S = 5.0
_GONE = frozenset({10043, 10057})


ALL = 2**63 - 1
"""Every message, wherever it stands in the stream."""


async def erase(broker: Bus, stream: str, subject: str, about: Mapping[str, int]) -> int:
    """Overwrite and remove the messages of a subject whose aggregate (`ce-subject`) is in `about`, each up to the
    sequence that it has there (exclusive).

    Reads the headers of all messages of the subject, so it is for what happens now and then. Returns how many were
    removed. Raises AppError(UNAVAILABLE); safe to repeat.
    """
    config = ConsumerConfig(
        filter_subject=subject,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        headers_only=True,
        inactive_threshold=30,
        mem_storage=True,
    )
    removed = 0
    try:
        subscription = await broker.js.pull_subscribe(subject, stream=stream, config=config)
        try:
            left = (await subscription.consumer_info()).num_pending or 0
            while left:
                batch: list[Msg] = await subscription.fetch(min(_BATCH, left), timeout=_WAIT_S)
                for message in batch:
                    sequence = message.metadata.sequence.stream
                    if sequence < about.get((message.headers or {}).get("ce-subject", ""), 0):
                        removed += await _remove(broker, stream, sequence)
                left = batch[-1].metadata.num_pending or 0
        finally:
            await bus.quietly(subscription.unsubscribe())
    except nats.js.errors.NotFoundError:
        return removed
    except bus.FAULTS as fault:
        raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=f"erase: {fault!r}") from fault
    return removed


async def _remove(broker: Bus, stream: str, sequence: int) -> bool:
    try:
        await broker.js.delete_msg(stream, sequence)
    except nats.js.errors.NotFoundError:
        return False
    except nats.js.errors.APIError as fault:
        if fault.err_code in _GONE:
            return False
        raise
    return True
