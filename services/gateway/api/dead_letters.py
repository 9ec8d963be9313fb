"""`/api/admin/dlq`: what was given up, by those who look after the platform."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field, StringConstraints

from chassis import dead_letters
from chassis.dead_letters import DeadLetters
from chassis.errors import AppError, Kind, Problem
from services.gateway.auth import Admin
from services.gateway.errors import BODY, READ, documented
from services.gateway.resources import Page, Paging, Sent

LetterId = Annotated[str, Path(pattern=r"^[\w.:-]{1,200}$", examples=["019ac1de-5f9f-7c55-9d3f-1c6f0e0a5b11"])]
KindOfLetter = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,100}$"), Field(examples=["insights"])]


class LetterFilter(Paging):
    """Which letters: the oldest first."""

    kind: KindOfLetter | None = Field(None, description="Of this kind only.")


class Letter(BaseModel):
    """Something that was given up."""

    id: str
    kind: str = Field(description="The kind of job, or whose event it was.")
    error: str = Field(description="Why it was given up.")
    history: list[dict[str, Any]] = Field(description="What came of each attempt.")
    about: dict[str, Any] = Field(description="What else its kind tells: of a job its id, its owner, what it is about.")
    at: datetime
    retryable: bool

    @classmethod
    def of(cls, letter: dead_letters.Letter) -> Letter:
        return cls(
            id=letter.id,
            kind=letter.kind,
            error=letter.error,
            history=letter.history,
            about=letter.about,
            at=letter.at,
            retryable=letter.retryable,
        )


class WholeLetter(Letter):
    """A letter with the message that was given up."""

    subject: str
    payload: str = Field(description="In base 64. It may hold what people said.")

    @classmethod
    def of(cls, letter: dead_letters.Letter) -> WholeLetter:
        payload = base64.b64encode(letter.payload).decode()
        return cls(**Letter.of(letter).model_dump(), subject=letter.subject, payload=payload)


class Which(Sent):
    """Which letters are meant."""

    kind: KindOfLetter | None = Field(None, description="Of this kind only; all if it is not sent.")


class Retried(BaseModel):
    """What came of retrying many."""

    retried: int
    kept: int = Field(description="Letters that cannot be retried, only discarded.")


def routes(letters: DeadLetters) -> APIRouter:
    """Return the routes of `/api/admin/dlq`."""
    router = APIRouter(prefix="/api/admin/dlq", tags=["admin"])

    @router.get("", responses=documented(Kind.UNAUTHORIZED, Kind.FORBIDDEN, Kind.VALIDATION_FAILED))
    async def list_dead_letters(query: Annotated[LetterFilter, Query()], _: Admin) -> Page[Letter]:
        """List what was given up, the oldest first."""
        after = _place(query.cursor)
        found, more = await letters.list(kind=query.kind or "", after=after, most=query.limit)
        return Page(items=[Letter.of(one) for one in found], next_cursor=None if more is None else str(more))

    @router.post("/retry", responses=documented(*BODY, Kind.UNAUTHORIZED, Kind.FORBIDDEN))
    async def retry_all_dead_letters(body: Which, who: Admin) -> Retried:
        """Send everything on its way again that is among the dead letters now."""
        retried, kept = await letters.retry_all(kind=body.kind or "", who=who.account_id)
        return Retried(retried=retried, kept=kept)

    @router.get("/{letter_id}", responses=documented(*READ, Kind.FORBIDDEN))
    async def get_dead_letter(letter_id: LetterId, _: Admin) -> WholeLetter:
        """Read one letter, with the message that was given up."""
        return WholeLetter.of(await letters.get(letter_id))

    @router.post("/{letter_id}/retry", status_code=202, responses=documented(*READ, Kind.FORBIDDEN, Kind.CONFLICT))
    async def retry_dead_letter(letter_id: LetterId, who: Admin) -> Letter:
        """Send it on its way again: a job begins anew, an event goes to whoever has not had it."""
        letter = await letters.get(letter_id)
        await letters.retry(letter, who=who.account_id)
        return Letter.of(letter)

    @router.delete("/{letter_id}", status_code=204, responses=documented(*READ, Kind.FORBIDDEN))
    async def discard_dead_letter(letter_id: LetterId, who: Admin) -> None:
        """Forget it."""
        await letters.discard(await letters.get(letter_id), who=who.account_id)

    return router


def _place(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        problem = Problem("cursor", "Is not one of this list")
        raise AppError(Kind.VALIDATION_FAILED, "Some fields do not hold.", details=(problem,))
    return int(cursor)
