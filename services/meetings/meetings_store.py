"""Meetings: rows as people read and change them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1.events_pb2 import MeetingDeleted

from chassis import outbox
from chassis.errors import AppError, Kind
from chassis.idempotency import forget_answers
from chassis.postgres import Database, Work
from services.meetings import search_store
from services.meetings.checks import not_found
from services.meetings.healing_store import draft, healing
from services.meetings.meetings import Meeting, MeetingChange, MeetingFilter, NewMeeting
from services.meetings.paging import Cursors, Page
from services.meetings.search_store import Hit
from services.meetings.store import (
    SOURCE,
    bury,
    idempotency_keys,
    is_deleted,
    meetings,
    outbox_rows,
    segments,
    sessions,
    version_conflict,
)
from services.meetings.uploads_store import forget_uploads
from services.meetings.webhooks_store import forget_deliveries

_MEETING = (
    meetings.c.id, meetings.c.owner_id, meetings.c.title, meetings.c.language, meetings.c.participants,
    meetings.c.status, meetings.c.version, meetings.c.created_at, meetings.c.updated_at, meetings.c.started_at,
    meetings.c.ended_at,
)  # fmt: skip


class MeetingsStore:
    """Keeps meetings. Each method is one transaction and names the owner: what is another's is not there."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database = database
        self._cursors = cursors

    async def create(self, new: NewMeeting) -> Meeting:
        """Do what `creation` says, once."""
        return await self._database.once("create meeting", creation(new))

    async def get(self, owner_id: str, meeting_id: str) -> Meeting:
        """Return a meeting with its accounts. Raises AppError(NOT_FOUND)."""

        async def work(connection: AsyncConnection) -> Meeting:
            found = await read_meeting(connection, owner_id, meeting_id)
            if found is None:
                raise not_found("meeting")
            return found

        return await self._database.run("get meeting", work)

    async def hits(self, query: str, meeting_ids: Sequence[str]) -> dict[str, list[Hit]]:
        """Return where the words stand in meetings that were found by them."""
        return await self._database.run(
            "search hits", lambda connection: search_store.hits_of(connection, query, meeting_ids)
        )

    async def list(self, owner_id: str, wanted: MeetingFilter, size: int, cursor: str) -> Page[Meeting]:
        """Return meetings, newest first; with words to look for, best first.

        Raises AppError(VALIDATION_FAILED) for a cursor of another list.
        """
        scope = (
            "meetings", owner_id, wanted.query, str(wanted.created_from), str(wanted.created_to), wanted.status,
        )  # fmt: skip
        after = self._cursors.open(scope, cursor)
        if wanted.query:
            return await self._search(owner_id, wanted, size, scope, after)

        async def work(connection: AsyncConnection) -> list[Meeting]:
            query = (
                sa.select(*_MEETING)
                .where(*_conditions(owner_id, wanted))
                .order_by(meetings.c.created_at.desc(), meetings.c.id.desc())
                .limit(size + 1)
            )
            if after:
                last = sa.tuple_(
                    sa.literal(dt.datetime.fromisoformat(after[0])), sa.literal(after[1], meetings.c.id.type)
                )
                query = query.where(sa.tuple_(meetings.c.created_at, meetings.c.id) < last)
            return await _with_accounts(connection, (await connection.execute(query)).all())

        found = await self._database.run("list meetings", work)
        items = found[:size]
        more = len(found) > size
        return Page(items, self._cursors.seal(scope, [items[-1].created_at.isoformat(), items[-1].id]) if more else "")

    async def _search(
        self, owner_id: str, wanted: MeetingFilter, size: int, scope: tuple[str, ...], after: Sequence[Any] | None
    ) -> Page[Meeting]:
        async def work(connection: AsyncConnection) -> tuple[list[search_store.Match], list[Meeting]]:
            matches = await search_store.find(connection, owner_id, wanted, size + 1, after)
            query = sa.select(*_MEETING).where(meetings.c.id.in_([match.meeting_id for match in matches[:size]]))
            rows = {row.id: row for row in await connection.execute(query)}
            return matches, await _with_accounts(
                connection, [rows[m.meeting_id] for m in matches if m.meeting_id in rows]
            )

        matches, items = await self._database.run("search meetings", work)
        more = len(matches) > size
        return Page(items, self._cursors.seal(scope, matches[size - 1].position) if more else "")

    async def update(self, owner_id: str, meeting_id: str, expected_version: int, change: MeetingChange) -> Meeting:
        """Change a meeting. Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the current version."""
        values: dict[str, Any] = {
            "title": change.title,
            "language": change.language,
            "participants": change.participants,
        }

        async def work(connection: AsyncConnection) -> Meeting:
            row = (
                await connection.execute(
                    meetings.update()
                    .where(
                        meetings.c.id == meeting_id,
                        meetings.c.owner_id == owner_id,
                        meetings.c.version == expected_version,
                    )
                    .values(
                        version=meetings.c.version + 1,
                        updated_at=sa.func.now(),
                        **{name: value for name, value in values.items() if value is not None},
                    )
                    .returning(*_MEETING)
                )
            ).one_or_none()
            if row is None:
                raise await version_conflict(connection, meetings, owner_id, meeting_id)
            return (await _with_accounts(connection, [row]))[0]

        return await self._database.once("update meeting", work)

    async def delete(self, owner_id: str, meeting_id: str, expected_version: int) -> None:
        """Delete a meeting with all that belongs to it, and tell of it.

        Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the current version.
        """

        async def work(connection: AsyncConnection) -> None:
            mine = (
                meetings.c.id == meeting_id,
                meetings.c.owner_id == owner_id,
                meetings.c.version == expected_version,
            )
            # The lock keeps the consumer from adding a session between our look and the deletion.
            locked = await connection.execute(sa.select(meetings.c.id).where(*mine).with_for_update())
            if locked.one_or_none() is None:
                raise await version_conflict(connection, meetings, owner_id, meeting_id)
            await _delete(connection, owner_id, meeting_id)

        await self._database.once("delete meeting", work)

    async def delete_some(self, owner_id: str, most: int) -> int:
        """Delete some meetings of an owner, whatever their version. Returns how many; 0 when none is left."""
        some = sa.select(meetings.c.id).where(meetings.c.owner_id == owner_id).order_by(meetings.c.id)
        some = some.limit(most).with_for_update()

        async def work(connection: AsyncConnection) -> int:
            found = list((await connection.execute(some)).scalars())
            for meeting_id in found:
                await _delete(connection, owner_id, meeting_id)
            return len(found)

        return await self._database.once("delete meetings of owner", work)


async def _delete(connection: AsyncConnection, owner_id: str, meeting_id: str) -> None:
    """Delete a meeting that the caller has locked, with all that belongs to it, and tell of it."""
    query = sa.select(sessions.c.id).where(sessions.c.meeting_id == meeting_id).order_by(sessions.c.id)
    session_ids = list((await connection.execute(query)).scalars())
    await bury(connection, "meeting", [meeting_id])
    await bury(connection, "session", session_ids)
    # An upload has the id of its session, which may not have begun.
    session_ids = sorted({*session_ids, *await forget_uploads(connection, meeting_id)})
    await forget_answers(connection, idempotency_keys, owner_id, meeting_id)
    await forget_deliveries(connection, meeting_id)
    await connection.execute(meetings.delete().where(meetings.c.id == meeting_id))
    fact = MeetingDeleted(meeting_id=meeting_id, owner_id=owner_id, session_ids=session_ids)
    event = outbox.event("events.meeting.deleted", fact.SerializeToString(), meeting_id)
    await outbox.put(connection, outbox_rows, [event], source=SOURCE)


def _conditions(owner_id: str, wanted: MeetingFilter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [meetings.c.owner_id == owner_id]
    if wanted.created_from:
        conditions.append(meetings.c.created_at >= wanted.created_from)
    if wanted.created_to:
        conditions.append(meetings.c.created_at < wanted.created_to)
    if wanted.status:
        conditions.append(meetings.c.status == wanted.status)
    return conditions


def creation(new: NewMeeting) -> Work[Meeting]:
    """Return the work that creates a meeting, or gives it back if this call was made before.

    Raises AppError(CONFLICT) if the id is taken.
    """

    async def work(connection: AsyncConnection) -> Meeting:
        if await is_deleted(connection, new.id):
            raise AppError(Kind.CONFLICT, "The id was used before.")
        if await is_deleted(connection, new.owner_id):
            raise not_found("account")
        await connection.execute(
            insert(meetings)
            .values(
                id=new.id,
                owner_id=new.owner_id,
                title=new.title,
                language=new.language,
                participants=new.participants,
            )
            .on_conflict_do_nothing(index_elements=["id"])
        )
        found = await read_meeting(connection, new.owner_id, new.id)
        if found is None:
            raise AppError(Kind.CONFLICT, "The id was used before.")
        return found

    return work


async def read_meeting(connection: AsyncConnection, owner_id: str, meeting_id: str) -> Meeting | None:
    """Return a meeting of this owner with its accounts, or None."""
    query = sa.select(*_MEETING).where(meetings.c.id == meeting_id, meetings.c.owner_id == owner_id)
    found = await _with_accounts(connection, (await connection.execute(query)).all())
    return found[0] if found else None


async def _with_accounts(connection: AsyncConnection, rows: Sequence[Any]) -> list[Meeting]:
    """Add what segments and closed sessions amount to; two statements for any number of meetings."""
    wanted = [row.id for row in rows]
    if not wanted:
        return []
    # All of them are counted in the index alone; drafts, which are few, have one of their own.
    all_of = sa.select(segments.c.meeting_id, sa.func.count().label("segments")).where(
        segments.c.meeting_id.in_(wanted)
    )
    every = all_of.group_by(segments.c.meeting_id).subquery()
    kinds = {"drafts": draft, "healing": healing, "given_up": segments.c.given_up}
    some = (
        sa.select(segments.c.meeting_id, *(sa.func.count().filter(kind).label(name) for name, kind in kinds.items()))
        .join(sessions, sessions.c.id == segments.c.session_id)
        .where(segments.c.meeting_id.in_(wanted), draft)
        .group_by(segments.c.meeting_id)
        .subquery()
    )
    counted = await connection.execute(
        sa.select(every, *(sa.func.coalesce(some.c[name], 0) for name in kinds)).outerjoin(
            some, some.c.meeting_id == every.c.meeting_id
        )
    )
    counts = {row[0]: row[1:] for row in counted}
    s = sessions.c
    # Coverage of the whole: each session's own, weighed by how long it was.
    summed = await connection.execute(
        sa.select(s.meeting_id, sa.func.sum(s.audio_s), sa.func.sum(s.gap_s), sa.func.sum(s.coverage * s.audio_s))
        .where(s.meeting_id.in_(wanted), s.closed_at.is_not(None))
        .group_by(s.meeting_id)
    )
    sums = {row[0]: (row[1], row[2], row[3] / row[1] if row[1] else 1.0) for row in summed}
    found = []
    for row in rows:
        total, drafts, waiting, given_up = counts.get(row.id, (0, 0, 0, 0))
        audio_s, gap_s, coverage = sums.get(row.id, (0.0, 0.0, None))
        known = {**row._mapping, "participants": tuple(row.participants)}
        accounts = {
            "segments": total,
            "draft_segments": drafts,
            "healing_segments": waiting,
            "given_up_segments": given_up,
            "audio_s": audio_s,
            "gap_s": gap_s,
            "coverage": coverage,
        }
        found.append(Meeting(**known, **accounts))
    return found
