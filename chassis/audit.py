"""Reads a stream back: what its broker lists and cannot give any more, because bytes on its disk have changed.

A broker that starts again finds some damage by itself and cuts the stream off there, or drops a part. Of the rest it
goes on counting the message, and passes over it in silence when a consumer comes to it.
"""

from __future__ import annotations

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis.bus import Bus, quietly

# Small: who reads has other things to do in the same event loop.
_BATCH = 100
_WAIT_S = 2.0
_LIFE_S = 60.0
_SILENCES_MAX = 5


async def readable(broker: Bus, stream: str, subject: str, first: int, last: int) -> set[int]:
    """Return the sequences from `first` to `last` whose messages the broker can read, by having it read all of them.

    Only headers are sent. Raises one of chassis.bus.FAULTS, also if what the broker has sent does not arrive.
    """
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=first,
        filter_subject=subject,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=10 * _LIFE_S,
        max_ack_pending=-1,
        headers_only=True,
        inactive_threshold=_LIFE_S,
    )
    subscription = await broker.js.pull_subscribe(subject, stream=stream, config=config)
    found: set[int] = set()
    latest = silences = 0
    try:
        name = (await subscription.consumer_info()).name
        while latest < last:
            try:
                messages = await subscription.fetch(_BATCH, timeout=_WAIT_S)
            except TimeoutError:
                # Silence at the end, a broker that is slow, or messages on their way to us: it knows which.
                info = await subscription.consumer_info()
                if not info.num_pending and info.num_ack_pending == len(found):
                    break
                silences += 1
                if silences > _SILENCES_MAX:
                    raise
                continue
            silences = 0
            places = [message.metadata.sequence.stream for message in messages]
            found.update(places)
            latest = max(latest, *places)
        # Else it would count as one that is behind until it ends by itself.
        await broker.js.delete_consumer(stream, name)
    finally:
        await quietly(subscription.unsubscribe())
    return found
