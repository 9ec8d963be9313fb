"""Transcripts: segments and gaps as people read them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.postgres import Database
from services.meetings.checks import not_found
from services.meetings.meetings import Gap, Segment
from services.meetings.paging import Cursors, Page
from services.meetings.store import gaps, meetings, segments

_S = segments.c
# The columns of a segment as people see it. What the log calls its revision is only the engine's part of it.
SEGMENT = (
    _S.id, _S.meeting_id, _S.session_id, _S.index, (_S.revision + _S.edits).label("revision"), _S.speaker, _S.start_s,
    _S.end_s, _S.text, _S.confidence, _S.engine, _S.quality, _S.edited, _S.heard_text, _S.heard_speaker,
)  # fmt: skip
# The order of a transcript; the last two decide when two speak at once.
_ORDER = (_S.start_s, _S.session_id, _S.index)
_PIECE_ROWS = 500
# The greatest that the column holds; the wire has one bit more.
INDEX_MAX = 2**31 - 1


class SegmentsStore:
    """Reads transcripts. Each read names the owner: what is another's is not there."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database = database
        self._cursors = cursors

    async def list(
        self, owner_id: str, meeting_id: str, size: int, cursor: str, after_index: int | None = None
    ) -> Page[Segment]:
        """Return segments by time; only those with a greater index within their session, if one is named.

        Raises AppError: NOT_FOUND, VALIDATION_FAILED for a cursor of another list.
        """
        scope = ("segments", owner_id, meeting_id, str(after_index))
        after = self._cursors.open(scope, cursor)
        found = await self._after(owner_id, meeting_id, after, size + 1, after_index)
        items, more = list(found[:size]), len(found) > size
        return Page(items, self._cursors.seal(scope, _position(items[-1])) if more else "")

    async def transcript(self, owner_id: str, meeting_id: str) -> AsyncIterator[Segment]:
        """Yield every segment by time, read a few hundred at a time. Raises AppError(NOT_FOUND)."""
        after: Sequence[Any] | None = None
        while True:
            rows = await self._after(owner_id, meeting_id, after, _PIECE_ROWS)
            for row in rows:
                yield row
            if len(rows) < _PIECE_ROWS:
                return
            after = _position(rows[-1])

    async def gaps(self, owner_id: str, meeting_id: str) -> Sequence[Gap]:
        """Return the gaps by time. Raises AppError(NOT_FOUND)."""

        async def work(connection: AsyncConnection) -> Sequence[Gap]:
            await _demand_meeting(connection, owner_id, meeting_id)
            query = (
                sa.select(gaps.c.session_id, gaps.c.start_s, gaps.c.end_s, gaps.c.reason)
                .where(gaps.c.meeting_id == meeting_id)
                .order_by(gaps.c.start_s, gaps.c.session_id, gaps.c.position)
            )
            return [Gap(**row._mapping) for row in await connection.execute(query)]

        return await self._database.run("list gaps", work)

    async def _after(
        self, owner_id: str, meeting_id: str, after: Sequence[Any] | None, most: int, after_index: int | None = None
    ) -> Sequence[Segment]:
        query = sa.select(*SEGMENT).where(_S.meeting_id == meeting_id)
        if after_index is not None:
            query = query.where(_S.index > min(after_index, INDEX_MAX))
        if after is not None:
            last = [sa.literal(value, column.type) for value, column in zip(after, _ORDER, strict=True)]
            query = query.where(sa.tuple_(*_ORDER) > sa.tuple_(*last))
        query = query.order_by(*_ORDER).limit(most)

        async def work(connection: AsyncConnection) -> Sequence[Segment]:
            await _demand_meeting(connection, owner_id, meeting_id)
            return [Segment(**row._mapping) for row in await connection.execute(query)]

        return await self._database.run("list segments", work)


def _position(segment: Segment) -> list[Any]:
    return [segment.start_s, segment.session_id, segment.index]


async def _demand_meeting(connection: AsyncConnection, owner_id: str, meeting_id: str) -> None:
    mine = sa.exists().where(meetings.c.id == meeting_id, meetings.c.owner_id == owner_id)
    if not (await connection.execute(sa.select(mine))).scalar_one():
        raise not_found("meeting")
