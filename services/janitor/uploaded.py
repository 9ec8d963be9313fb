"""Files in the object store that nobody needs any more: those of uploads that did not arrive, or are long over."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from verbatim.meetings.v1 import uploads_pb2, uploads_pb2_grpc

from chassis import ids, telemetry
from chassis.objects import Objects
from chassis.rpc import Peer
from services.janitor import metrics

log = telemetry.logger(__name__)

BUCKET = "UPLOADS"
_CALL_S = 5.0
_ASKED_MOST = 500


class UploadRows:
    """The door to the service that knows which files are needed."""

    def __init__(self, meetings: Peer) -> None:
        self._meetings = meetings
        self._stub = uploads_pb2_grpc.UploadsServiceStub(meetings.channel)

    async def needed(self, names: list[str]) -> set[str]:
        """Return which of at most some hundred files are needed. Raises AppError."""
        request = uploads_pb2.FilterUploadsRequest(upload_ids=names)
        answer = await self._meetings.call(self._stub.FilterUploads, request, timeout_s=_CALL_S)
        return set(answer.upload_ids)


async def remove_orphans(objects: Objects, rows: UploadRows, *, age_s: float, most: int) -> None:
    """Remove at most `most` files that are older than `age_s` and not needed. Raises AppError; safe to repeat."""
    old = old_names(await objects.names(), now_s=time.time(), age_s=age_s)
    removed = 0
    for start in range(0, len(old), _ASKED_MOST):
        asked = old[start : start + _ASKED_MOST]
        needed = await rows.needed([name for name in asked if ids.is_id(name)])
        for name in asked:
            if name not in needed and removed < most:
                await objects.remove(name)
                removed += 1
    metrics.UPLOADS_REMOVED.inc(removed)
    if removed:
        log.info("files without an upload removed", files=removed)


def old_names(names: Iterable[str], *, now_s: float, age_s: float) -> list[str]:
    """Return the names that are old, the oldest first. What is no UUID of version 7 was not put there by us: it is."""
    born = {name: _born_s(name) for name in names}
    return sorted((name for name in born if now_s - born[name] > age_s), key=lambda name: (born[name], name))


def _born_s(name: str) -> float:
    try:
        found = uuid.UUID(name)
    except ValueError:
        return 0.0
    return (found.int >> 80) / 1000.0 if found.version == 7 else 0.0
