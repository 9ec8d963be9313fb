"""Search: which meetings hold the words, best first, and where.

Words are looked for in the meeting as a whole (its search pages), and shown where they stand.
What changed a moment ago has no page yet, so its page is made for the question: nothing is found too late, or still.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.meetings.columns import Id
from services.meetings.digests_store import PAGES
from services.meetings.meetings import MeetingFilter

# Of more meetings than this that hold the words, the newest are ranked: who finds thousands has said too little.
RANKED_MOST = 500
# Meetings that wait for their digest and are looked at as they are.
_FRESH_MOST = 20
# Of the first segments of a meeting that hold some of the words, those that hold most of them are shown.
_HITS_RANKED_MOST, _HITS_MOST = 30, 3
# Marks of what matches, out of the private use area; text that holds them loses them.
_BEGIN, _END = "\ue000", "\ue001"
_HEADLINE = f"StartSel={_BEGIN}, StopSel={_END}, MaxWords=24, MinWords=8, ShortWord=0"

_FIND_MEETINGS = f"""
WITH question AS MATERIALIZED (SELECT websearch_to_tsquery('simple'::regconfig, :query) AS wanted),
fresh AS (
    SELECT m.id FROM meetings AS m WHERE m.owner_id = :owner
        AND m.id IN (SELECT d.id FROM digests_due AS d WHERE d.kind = 'meeting')
    ORDER BY m.created_at DESC LIMIT {_FRESH_MOST}
),
stored AS (
    SELECT p.meeting_id, p.created_at, p.search FROM search_pages AS p, question AS q
    WHERE p.owner_id = :owner AND p.search @@ (CAST(:mine AS tsquery) && q.wanted) AND p.meeting_id NOT IN (TABLE fresh)
        AND (CAST(:from AS timestamptz) IS NULL OR p.created_at >= :from)
        AND (CAST(:to AS timestamptz) IS NULL OR p.created_at < :to)
    ORDER BY p.created_at DESC LIMIT {RANKED_MOST}
),
made AS (
    SELECT p.meeting_id, p.created_at, p.search
    FROM ({PAGES.replace(":ids", "ARRAY(TABLE fresh)")}) AS p, question AS q
    WHERE p.search @@ q.wanted AND (CAST(:from AS timestamptz) IS NULL OR p.created_at >= :from)
        AND (CAST(:to AS timestamptz) IS NULL OR p.created_at < :to)
),
ranked AS (
    SELECT p.meeting_id, p.created_at, max(ts_rank(p.search, q.wanted))::float8 AS rank
    FROM (TABLE stored UNION ALL TABLE made) AS p, question AS q GROUP BY p.meeting_id, p.created_at
)
SELECT meeting_id, rank, created_at FROM ranked
WHERE (CAST(:rank AS float8) IS NULL OR (rank, created_at, meeting_id) < (:rank, :before, CAST(:last AS uuid)))
    AND (:status = '' OR EXISTS (SELECT FROM meetings AS m WHERE m.id = meeting_id AND m.status = :status))
ORDER BY rank DESC, created_at DESC, meeting_id DESC LIMIT :most
"""  # noqa: S608 - constants
_FIND = sa.text(_FIND_MEETINGS).bindparams(
    sa.bindparam("owner", type_=Id), sa.bindparam("from", type_=sa.DateTime(timezone=True)),
    sa.bindparam("to", type_=sa.DateTime(timezone=True)), sa.bindparam("before", type_=sa.DateTime(timezone=True)),
    sa.bindparam("rank", type_=sa.Double), sa.bindparam("status", type_=sa.Text),
).columns(sa.column("meeting_id", Id), sa.column("rank", sa.Double), sa.column("created_at"))  # fmt: skip

# Materialized: a plan that does not know the words would parse the question again for each segment that it looks at.
# Any of the words, of those that must not be there none: what is worth showing.
_ANY = "replace(querytree(websearch_to_tsquery('simple'::regconfig, :query)), ' & ', ' | ')::tsquery"
_SAFE = f"translate({{}}, '{_BEGIN}{_END}', '')"
_FIND_HITS = f"""
WITH question AS MATERIALIZED (SELECT {_ANY} AS wanted)
SELECT m.id AS meeting_id, h.* FROM unnest(:ids) AS m (id), question AS q
CROSS JOIN LATERAL (
    SELECT 'title' AS kind, 0 AS place, ts_headline('simple'::regconfig, {_SAFE.format("t.title")}, q.wanted,
        '{_HEADLINE}, HighlightAll=true') AS snippet,
        '' AS segment_id, NULL::uuid AS session_id, 0 AS index, '' AS speaker,
        0.0::float8 AS start_s, 0.0::float8 AS end_s
    FROM meetings AS t WHERE t.id = m.id AND t.search @@ q.wanted
    UNION ALL
    SELECT 'minutes', 1, ts_headline('simple'::regconfig, {_SAFE.format("t.text")}, q.wanted, '{_HEADLINE}'),
        '', NULL, 0, '', 0.0, 0.0
    FROM minutes_texts AS t WHERE t.meeting_id = m.id AND to_tsvector('simple'::regconfig, t.text) @@ q.wanted
    UNION ALL
    SELECT 'segment', 2, ts_headline('simple'::regconfig, {_SAFE.format("s.text")}, q.wanted, '{_HEADLINE}'),
        s.id, s.session_id, s.index, s.speaker, s.start_s, s.end_s
    FROM (
        SELECT * FROM (
            -- The fence keeps a plan that does not know the words from reading all that hold them, of all accounts.
            SELECT * FROM (
                SELECT * FROM segments AS s WHERE s.meeting_id = m.id ORDER BY s.start_s, s.session_id, s.index OFFSET 0
            ) AS s
            WHERE s.search @@ q.wanted ORDER BY s.start_s, s.session_id, s.index LIMIT {_HITS_RANKED_MOST}
        ) AS s
        ORDER BY ts_rank(s.search, q.wanted) DESC, s.start_s, s.session_id, s.index LIMIT {_HITS_MOST}
    ) AS s
) AS h
ORDER BY m.id, h.place, h.start_s
"""  # noqa: S608 - constants
_HITS = sa.text(_FIND_HITS).bindparams(sa.bindparam("ids", type_=sa.ARRAY(Id))).columns(
    sa.column("meeting_id", Id), sa.column("kind"), sa.column("place"), sa.column("snippet"), sa.column("segment_id"),
    sa.column("session_id", Id), sa.column("index"), sa.column("speaker"), sa.column("start_s"), sa.column("end_s"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hit:
    """A place where words were found: `title`, `minutes` or `segment`; the rest is told of a segment.

    `snippet` is plain text in pieces, each with whether it is one of the words. Seconds from the start of the meeting.
    """

    kind: str
    snippet: tuple[tuple[str, bool], ...]
    segment_id: str = ""
    session_id: str = ""
    index: int = 0
    speaker: str = ""
    start_s: float = 0.0
    end_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Match:
    """A meeting that holds the words, and how well."""

    meeting_id: str
    rank: float
    created_at: dt.datetime

    @property
    def position(self) -> list[Any]:
        """What a cursor says of it."""
        return [self.rank, self.created_at.isoformat(), self.meeting_id]


async def find(
    connection: AsyncConnection, owner_id: str, wanted: MeetingFilter, most: int, after: Sequence[Any] | None
) -> list[Match]:
    """Return the meetings of an owner that hold the words, best first, after a position."""
    rank, before, last = after or (None, None, None)
    found = await connection.execute(
        _FIND,
        {
            "query": wanted.query, "owner": owner_id, "mine": f"'@{owner_id}'", "most": most,
            "from": wanted.created_from, "to": wanted.created_to, "status": wanted.status,
            "rank": rank, "before": dt.datetime.fromisoformat(before) if before else None, "last": last,
        },
    )  # fmt: skip
    return [Match(*row) for row in found]


async def hits_of(connection: AsyncConnection, query: str, meeting_ids: Sequence[str]) -> dict[str, list[Hit]]:
    """Return where the words stand in meetings: title, minutes, and the segments that have most of them."""
    found: defaultdict[str, list[Hit]] = defaultdict(list)
    if meeting_ids:
        for row in await connection.execute(_HITS, {"query": query, "ids": list(meeting_ids)}):
            about = {name: row._mapping[name] for name in ("segment_id", "index", "speaker", "start_s", "end_s")}
            hit = Hit(row.kind, tuple(_pieces(row.snippet)), session_id=row.session_id or "", **about)
            found[row.meeting_id].append(hit)
    return found


def _pieces(headline: str) -> Iterator[tuple[str, bool]]:
    """Take a headline of Postgres apart."""
    for number, piece in enumerate(headline.split(_BEGIN)):
        match, end, rest = piece.partition(_END) if number else ("", "", piece)
        if not end:
            match, rest = "", match + rest
        if match:
            yield match, True
        if rest:
            yield rest, False
