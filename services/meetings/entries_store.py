"""A meeting in the order in which it was stored: segments, gaps and the minutes, each with the number of its entry.

Numbers are total over a meeting, whatever its number of sessions. A transaction takes them by updating the meeting's
row, and holds that row until it commits: so they become visible in their order, and whoever has read up to a number has
missed nothing below it. A sequence would not do: its numbers are taken in one order and committed in another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.transcript.v1.transcript_pb2 import TranscriptEntry

from chassis.errors import AppError, Kind, Problem
from chassis.postgres import Database
from services.meetings.checks import not_found
from services.meetings.columns import Id
from services.meetings.healing_store import count_healing
from services.meetings.meetings import Gap, Segment, Status
from services.meetings.segments_store import SEGMENT
from services.meetings.store import gaps, meetings, segments, sessions

_SESSIONS_MOST = 200

# Of an entry of the log, by session and position.
Numbers = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class InsightsMade:
    """The minutes were made, or made again."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Some entries with their numbers, and how the meeting stood when they were read."""

    rows: list[tuple[int, Segment | Gap | InsightsMade]]
    newest: int
    completed: bool
    insights_made: bool
    unchanged_s: float
    open_sessions: list[tuple[str, float]]
    healing: int = 0


async def number_entries(connection: AsyncConnection, shown: Sequence[tuple[TranscriptEntry, str]]) -> Numbers:
    """Number entries, in their order, within the meeting that is named with each."""
    wanted = Counter(meeting_id for _, meeting_id in shown)
    if not wanted:
        return {}
    m = meetings.c
    asked = sa.values(sa.column("id", Id), sa.column("count", sa.BigInteger), name="asked").data(list(wanted.items()))
    take = (
        meetings.update()
        .where(m.id == asked.c.id)
        .values(newest_entry=m.newest_entry + asked.c.count)
        .returning(m.id, m.newest_entry - asked.c.count)
    )
    last = {row[0]: row[1] for row in await connection.execute(take)}
    numbers = {}
    for entry, meeting_id in shown:
        last[meeting_id] += 1
        numbers[entry.session_id, entry.position] = last[meeting_id]
    return numbers


async def number_insights(connection: AsyncConnection, owner_id: str, meeting_id: str, version: int) -> bool:
    """Let viewers know that there are new minutes; False if there are newer ones already, or no such meeting.

    Keeps the meeting there, and other minutes of it away, until the transaction ends. A version of 0 is not known.
    """
    m = meetings.c
    take = meetings.update().where(m.id == meeting_id, m.owner_id == owner_id)
    if version:
        take = take.where(m.insights_version < version)
    numbered = take.values(
        newest_entry=m.newest_entry + 1,
        insights_entry=m.newest_entry + 1,
        insights_version=sa.func.greatest(m.insights_version, version),
    )
    return bool((await connection.execute(numbered)).rowcount)


class EntriesStore:
    """Reads meetings entry by entry. Each read names the owner: what is another's is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, owner_id: str, meeting_id: str, after: int, size: int) -> Entries:
        """Return the entries after a number, at most `size`, by number.

        Raises AppError: NOT_FOUND, VALIDATION_FAILED for a number that the meeting has not come to.
        """

        async def work(connection: AsyncConnection) -> Entries:
            m = meetings.c
            unchanged_s = sa.func.extract("epoch", sa.func.clock_timestamp() - m.updated_at)
            query = sa.select(m.newest_entry, m.completed_entry, m.insights_entry, m.status, unchanged_s)
            found = await connection.execute(query.where(m.id == meeting_id, m.owner_id == owner_id))
            if (row := found.one_or_none()) is None:
                raise not_found("meeting")
            newest, completed_entry, insights_entry, status, unchanged_s = row
            if not 0 <= after <= newest:
                problem = Problem("after", "is not the number of an entry of this meeting")
                raise AppError(Kind.VALIDATION_FAILED, "Some fields are not valid.", details=(problem,))
            rows: list[tuple[int, Segment | Gap | InsightsMade]] = []
            if after < newest:
                # Up to `newest` everything is committed, whenever each of the next statements looks.
                rows += await _segments(connection, meeting_id, after, newest, size)
                rows += await _gaps(connection, meeting_id, after, newest, size)
                if insights_entry is not None and after < insights_entry <= newest:
                    rows.append((insights_entry, InsightsMade()))
                rows.sort(key=lambda row: row[0])
            completed = status == Status.COMPLETED
            return Entries(
                rows=rows[:size],
                newest=newest,
                completed=completed,
                insights_made=completed and (insights_entry or 0) > (completed_entry or 0),
                unchanged_s=float(unchanged_s),
                open_sessions=await _open_sessions(connection, meeting_id),
                healing=await count_healing(connection, meeting_id),
            )

        return await self._database.run("list entries", work)


async def _segments(
    connection: AsyncConnection, meeting_id: str, after: int, until: int, size: int
) -> list[tuple[int, Segment | Gap | InsightsMade]]:
    s = segments.c
    query = sa.select(s.entry, *SEGMENT).where(s.meeting_id == meeting_id, s.entry > after, s.entry <= until)
    found = await connection.execute(query.order_by(s.entry).limit(size))
    return [(row[0], Segment(**_but_number(row))) for row in found]


async def _gaps(
    connection: AsyncConnection, meeting_id: str, after: int, until: int, size: int
) -> list[tuple[int, Segment | Gap | InsightsMade]]:
    g = gaps.c
    query = sa.select(g.entry, g.session_id, g.start_s, g.end_s, g.reason)
    query = query.where(g.meeting_id == meeting_id, g.entry > after, g.entry <= until)
    found = await connection.execute(query.order_by(g.entry).limit(size))
    return [(row[0], Gap(**_but_number(row))) for row in found]


def _but_number(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "entry"}


async def _open_sessions(connection: AsyncConnection, meeting_id: str) -> list[tuple[str, float]]:
    s = sessions.c
    query = sa.select(s.id, s.shift_s).where(s.meeting_id == meeting_id, s.closed_at.is_(None)).order_by(s.id)
    return [(row[0], row[1]) for row in await connection.execute(query.limit(_SESSIONS_MOST))]
