"""Where the last good backup is noted for those who watch: a bucket at the broker that the janitor reads."""

from __future__ import annotations

import nats.js.errors
import orjson
from nats.js.api import KeyValueConfig

from chassis.bus import Bus

BUCKET = "backups"
LAST = "last"


async def note(broker: Bus, *, at_s: float, took_s: float, size: int, replicas: int) -> None:
    """Note a backup that is whole. `at_s` is when it ended (since the epoch), `size` in bytes. Raises bus.FAULTS."""
    try:
        bucket = await broker.js.key_value(BUCKET)
    except nats.js.errors.NotFoundError:
        bucket = await broker.js.create_key_value(
            KeyValueConfig(bucket=BUCKET, history=10, max_bytes=1024**2, replicas=replicas)
        )
    await bucket.put(LAST, orjson.dumps({"at_s": at_s, "took_s": took_s, "size_bytes": size}))
