"""When the last good backup was made, as whoever made it has noted at the broker."""

from __future__ import annotations

import nats.js.errors
import orjson

from chassis import bus
from chassis.errors import AppError, Kind
from services.janitor import metrics

_STREAM, _SUBJECT = "KV_backups", "$KV.backups.last"


async def watch_backups(broker: bus.Bus, *, expected: bool) -> None:
    """Show the moment of the last backup; 0 if one is expected and there is none, nothing if none is expected.

    Raises AppError while the broker is away.
    """
    try:
        newest = await broker.js.get_last_msg(_STREAM, _SUBJECT)
    except nats.js.errors.NotFoundError:
        if expected:
            metrics.LAST_BACKUP.labels("all").set(0.0)
        return
    except bus.FAULTS as fault:
        raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
    told = orjson.loads(newest.data or b"{}")
    metrics.LAST_BACKUP.labels("all").set(float(told.get("at_s", 0.0)))
    metrics.LAST_BACKUP_BYTES.labels("all").set(float(told.get("size_bytes", 0.0)))
