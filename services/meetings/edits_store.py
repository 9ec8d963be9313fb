"""Transcripts as people change them: each change is a new entry, which viewers are shown, and a new version.

The row of the meeting is locked before that of a segment, as the consumer of the log does: so numbers of entries become
visible in their order, and a segment that arrives meanwhile has either been renamed or finds the new name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from verbatim.meetings.v1.events_pb2 import MeetingEdited

from chassis import outbox
from chassis.errors import AppError, Kind, Problem
from chassis.postgres import Database
from services.meetings.checks import not_found
from services.meetings.edit_tables import speaker_names, transcripts_edited
from services.meetings.edits import SPEAKER, TEXT, Renaming, SegmentChange, written
from services.meetings.meetings import Meeting, Segment, Status
from services.meetings.meetings_store import read_meeting
from services.meetings.segments_store import SEGMENT
from services.meetings.store import SOURCE, meetings, outbox_rows, segments, version_conflict

EDITED = "events.meeting.edited"
_NAMES_MOST = 1000
_S, _N = segments.c, speaker_names.c


class EditsStore:
    """Keeps what people change. Each method is one transaction and names the owner: what is another's is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, owner_id: str, meeting_id: str, segment_id: str) -> Segment:
        """Return a segment. Raises AppError(NOT_FOUND)."""

        async def work(connection: AsyncConnection) -> Segment:
            mine = sa.exists().where(meetings.c.id == meeting_id, meetings.c.owner_id == owner_id)
            query = sa.select(*SEGMENT).where(_S.meeting_id == meeting_id, _S.id == segment_id, mine)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise not_found("segment")
            return Segment(**row._mapping)

        return await self._database.run("get segment", work)

    async def update(
        self, owner_id: str, meeting_id: str, segment_id: str, expected_version: int, change: SegmentChange
    ) -> Segment:
        """Change a segment. Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the current version."""

        async def work(connection: AsyncConnection) -> Segment:
            entry = await _next_entry(connection, owner_id, meeting_id)
            this = (_S.meeting_id == meeting_id, _S.id == segment_id)
            row = (await connection.execute(sa.select(*SEGMENT).where(*this).with_for_update())).one_or_none()
            if row is None:
                raise not_found("segment")
            segment = Segment(**row._mapping)
            if segment.revision != expected_version:
                raise AppError(
                    Kind.PRECONDITION_FAILED, "Somebody else has changed it meanwhile.", version=segment.revision
                )
            names = (await names_of(connection, [meeting_id])).get(meeting_id, {})
            values = written(segment, change, names) | {"edits": _S.edits + 1, "entry": entry}
            changed = await connection.execute(segments.update().where(*this).values(values).returning(*SEGMENT))
            await _note(connection, meeting_id)
            return Segment(**changed.one()._mapping)

        return await self._database.once("update segment", work)

    async def rename(self, owner_id: str, meeting_id: str, expected_version: int, wanted: Renaming) -> Meeting:
        """Rename a speaker in all segments of a meeting, and in those to come. A name that nobody has is no mistake.

        Raises AppError: NOT_FOUND, PRECONDITION_FAILED with the meeting's current version, VALIDATION_FAILED when there
        are too many names.
        """

        async def work(connection: AsyncConnection) -> Meeting:
            m = meetings.c
            mine = (m.id == meeting_id, m.owner_id == owner_id, m.version == expected_version)
            query = sa.select(m.newest_entry).where(*mine).with_for_update(key_share=True)
            newest = (await connection.execute(query)).scalar_one_or_none()
            if newest is None:
                raise await version_conflict(connection, meetings, owner_id, meeting_id)
            await _keep_name(connection, meeting_id, wanted)
            renamed = await _rename_segments(connection, meeting_id, wanted, newest)
            change = meetings.update().where(m.id == meeting_id)
            await connection.execute(
                change.values(newest_entry=newest + renamed, version=m.version + 1, updated_at=sa.func.now())
            )
            if renamed:
                await _note(connection, meeting_id)
            found = await read_meeting(connection, owner_id, meeting_id)
            assert found is not None
            return found

        return await self._database.once("rename speaker", work)

    async def tell_rested(self, rest_s: float, most: int = 100) -> int:
        """Tell of completed meetings whose transcript was changed and has rested since; return how many were looked at.

        A meeting that goes on is told of when it is completed. Several replicas may do this at once. Raises AppError.
        """

        async def work(connection: AsyncConnection) -> int:
            e, m = transcripts_edited.c, meetings.c
            rested = e.at < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, rest_s)
            some = sa.select(e.meeting_id).where(rested).order_by(e.at).limit(most).with_for_update(skip_locked=True)
            take = transcripts_edited.delete().where(e.meeting_id.in_(some)).returning(e.meeting_id)
            found = list((await connection.execute(take)).scalars())
            query = sa.select(m.id, m.owner_id, m.language, m.started_at)
            query = query.where(m.id.in_(found), m.status == Status.COMPLETED).order_by(m.id)
            facts = [
                MeetingEdited(meeting_id=row.id, owner_id=row.owner_id, language=row.language, day=_day(row.started_at))
                for row in await connection.execute(query)
            ]
            events = [outbox.event(EDITED, fact.SerializeToString(), fact.meeting_id) for fact in facts]
            await outbox.put(connection, outbox_rows, events, source=SOURCE)
            return len(found)

        return await self._database.run("tell edits", work)


async def names_of(connection: AsyncConnection, meeting_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return for each meeting that has any the names of speakers by what is heard of them."""
    found: dict[str, dict[str, str]] = {}
    query = sa.select(_N.meeting_id, _N.heard, _N.name).where(_N.meeting_id.in_(list(meeting_ids)))
    for meeting_id, heard, name in await connection.execute(query):
        found.setdefault(meeting_id, {})[heard] = name
    return found


def healed(row: Any) -> dict[str, Any]:
    """Return what a revision that arrives (`row`, as it would be inserted) makes of text and speaker.

    Where a person wrote them, it only changes what stands beside: decided by the database on the row as it is then, so
    that an edit of the same moment is not missed.
    """

    def unless(field: str, kept: Any, new: Any) -> sa.Case[Any]:
        return sa.case((sa.literal(field) == sa.any_(_S.edited), kept), else_=new)

    heard_speaker = sa.func.coalesce(row.heard_speaker, row.speaker)
    return {
        "text": unless(TEXT, _S.text, row.text),
        "heard_text": unless(TEXT, row.text, sa.null()),
        "speaker": unless(SPEAKER, _S.speaker, row.speaker),
        "heard_speaker": unless(SPEAKER, heard_speaker, row.heard_speaker),
    }


async def _next_entry(connection: AsyncConnection, owner_id: str, meeting_id: str) -> int:
    m = meetings.c
    take = meetings.update().where(m.id == meeting_id, m.owner_id == owner_id).values(newest_entry=m.newest_entry + 1)
    entry = (await connection.execute(take.returning(m.newest_entry))).scalar_one_or_none()
    if entry is None:
        raise not_found("segment")
    return int(entry)


async def _keep_name(connection: AsyncConnection, meeting_id: str, wanted: Renaming) -> None:
    """Keep the name for what is still to be heard."""
    here = _N.meeting_id == meeting_id
    passed_on = await connection.execute(
        speaker_names.update().where(here, _N.name == wanted.speaker).values(name=wanted.name)
    )
    heard_as = sa.func.coalesce(_S.heard_speaker, _S.speaker) == wanted.speaker
    heard = sa.select(sa.exists().where(_S.meeting_id == meeting_id, heard_as))
    # A name that only ever was one, as when a mistake is taken back, is none that is heard.
    if not passed_on.rowcount or (await connection.execute(heard)).scalar_one():
        names = (await connection.execute(sa.select(sa.func.count()).where(here))).scalar_one()
        if names >= _NAMES_MOST:
            problem = Problem("name", f"a meeting has at most {_NAMES_MOST} names")
            raise AppError(Kind.VALIDATION_FAILED, "Some fields are not valid.", details=(problem,))
        new = insert(speaker_names).values(meeting_id=meeting_id, heard=wanted.speaker, name=wanted.name)
        await connection.execute(new.on_conflict_do_nothing())
    await connection.execute(speaker_names.delete().where(here, _N.heard == _N.name))


async def _rename_segments(connection: AsyncConnection, meeting_id: str, wanted: Renaming, newest: int) -> int:
    """Rename the speaker of segments, which become entries behind `newest` in their order; return how many."""
    order = sa.func.row_number().over(order_by=(_S.start_s, _S.session_id, _S.index)).label("place")
    these = sa.select(_S.session_id, _S.index, order).where(_S.meeting_id == meeting_id, _S.speaker == wanted.speaker)
    named = these.subquery("named").c
    heard = sa.func.nullif(sa.func.coalesce(_S.heard_speaker, _S.speaker), wanted.name)
    change = (
        segments.update()
        .where(_S.session_id == named.session_id, _S.index == named.index)
        .values(
            speaker=wanted.name,
            heard_speaker=sa.case((sa.literal(SPEAKER) == sa.any_(_S.edited), _S.heard_speaker), else_=heard),
            edits=_S.edits + 1,
            entry=newest + named.place,
        )
    )
    return (await connection.execute(change)).rowcount


async def _note(connection: AsyncConnection, meeting_id: str) -> None:
    new = insert(transcripts_edited).values(meeting_id=meeting_id)
    await connection.execute(
        new.on_conflict_do_update(index_elements=["meeting_id"], set_={"at": sa.func.clock_timestamp()})
    )


def _day(at: Any) -> str:
    return f"{at:%Y-%m-%d}" if at else ""
