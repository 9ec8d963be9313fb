"""`/api/meetings/{id}/live`: following a meeting."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from chassis.errors import AppError, Kind, Problem
from services.gateway import sse
from services.gateway.auth import Who
from services.gateway.entrance import Entrance
from services.gateway.errors import READ, documented
from services.gateway.resources import Id
from services.gateway.viewers import Viewers, ViewerStream

_EXAMPLE = (
    'id: 7\nevent: segment\ndata: {"type":"segment","index":3,"revision":1,"start":12.1,"end":14.9,"text":"…"}\n\n'
    'id: 9-end\nevent: finished\ndata: {"type":"finished","segments":4,"coverage":1.0}\n\n'
)


def routes(viewers: Viewers, entrance: Entrance) -> APIRouter:
    """Return the route that viewers take."""
    router = APIRouter(prefix="/api/meetings/{meeting_id}", tags=["transcripts"])

    @router.get(
        "/live",
        response_class=StreamingResponse,
        responses={
            **documented(*READ, Kind.RATE_LIMIT_EXCEEDED),
            200: {
                "description": "Server-sent events: `segment`, `revised`, `gap`, `insights` and `finished`, which have "
                "an `id`; `partial`, `status` and `error`, which have none. Ends after `finished`.",
                "content": {"text/event-stream": {"schema": sse.SCHEMA, "example": _EXAMPLE}},
            },
        },
    )
    async def follow_meeting(
        meeting_id: Id,
        who: Who,
        last_event_id: Annotated[
            str | None,
            Header(description="`id` of the last event that you have: the stream goes on behind it.", max_length=64),
        ] = None,
    ) -> ViewerStream:
        """Follow a meeting: what was said so far, then what is said.

        Answers 204 to a `Last-Event-ID` behind which nothing will come: the meeting is over and `finished` was told.
        """
        position = sse.parse_id(last_event_id) if last_event_id else (0, False)
        if position is None:
            problem = Problem("last-event-id", "Is not the id of an event of this meeting")
            raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(problem,))
        number, end_told = position
        watched = partial(entrance.revocations.watched, who)
        return ViewerStream(viewers, who.account_id, meeting_id, watched, number=number, end_told=end_told)

    return router
