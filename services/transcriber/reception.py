"""The door of a session: who begins it is greeted, who comes back is brought up to date."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis.errors import Kind
from services.transcriber.hearing import Hearing
from services.transcriber.intake import Intake
from services.transcriber.journal import Journal
from services.transcriber.line import Channel, ClientLine
from services.transcriber.transcript import Ledger, seconds, token_hash

_TAKEN_OVER = 4409


@dataclass(slots=True)
class Attach:
    """A client that comes back."""

    channel: Channel
    presented_token: str
    last_event: int
    adopted: bool
    attempt: int = 1


class Reception:
    """Gives the line to one client at a time, and every client a token of its own to come back with.

    `begin` and `welcome` append to the transcript log: only the session's own task may call them.
    """

    def __init__(
        self, ledger: Ledger, journal: Journal, intake: Intake, hearing: Hearing, line: ClientLine, *, window_s: float
    ) -> None:
        self._ledger = ledger
        self._journal = journal
        self._intake = intake
        self._hearing = hearing
        self._line = line
        self._window_s = window_s

    def may_resume(self, owner_id: str, token: str) -> bool:
        """Tell whether the account and the token are those of this session."""
        offered = token_hash(token)
        known = any(secrets.compare_digest(offered, kept) for kept in self._ledger.resume_hashes)
        return known and secrets.compare_digest(owner_id, self._ledger.opened.owner_id)

    async def begin(self, opened: pb.Opened, channel: Channel, *, engine: str) -> None:
        """Write the first entry and greet the client. Raises AppError, Fenced if the session exists."""
        token = secrets.token_urlsafe(32)
        opened.resume_token_hash = token_hash(token)
        entry = await self._journal.begin(opened)
        self._hearing.begin()
        self._line.channel = channel
        self._line.say(
            started=relay.Started(
                session_id=self._ledger.session_id,
                meeting_id=opened.meeting_id,
                resume_token=token,
                event=entry.event,
                window_bytes=self._intake.window_bytes,
                resume_window_s=self._window_s,
                engine=engine,
                settings=opened,
            )
        )
        if not self._line.well:
            self._line.tell_state()

    async def welcome(self, guest: Attach) -> None:
        """Record who owns the session now, end the connection before, and bring the client up to date."""
        missed = await self._journal.missed(guest.last_event)
        token = secrets.token_urlsafe(32)
        if self._ledger.closed is None:
            await self._journal.append(
                resumed=pb.Resumed(
                    resume_token_hash=token_hash(token),
                    presented_token_hash=token_hash(guest.presented_token),
                    adopted=guest.adopted,
                )
            )
        if self._line.channel is not None and self._line.channel is not guest.channel:
            self.say_taken_over()
        self._line.channel = guest.channel
        self._line.say(
            restored=relay.Restored(
                session_id=self._ledger.session_id,
                meeting_id=self._ledger.opened.meeting_id,
                resume_token=token if self._ledger.closed is None else guest.presented_token,
                event=self._ledger.event,
                offset=self._intake.held_offset,
                stored_offset=self._intake.stored_offset,
                window_bytes=self._intake.window_bytes,
                resume_window_s=self._window_s,
                entries=missed,
                settings=self._ledger.opened,
            )
        )
        if self._ledger.closed is not None:
            self.say_finished()
        else:
            self._intake.acknowledge()
            self._line.tell_state(seconds(self._hearing.cutter.position_byte - self._ledger.accounted_offset))

    def say_taken_over(self) -> None:
        """Tell the client that it has lost the session to another."""
        self._line.problem(
            Kind.CONFLICT, "Another connection has taken the session over.", close_code=_TAKEN_OVER
        )  # fmt: skip

    def say_finished(self) -> None:
        """Tell the client the accounts."""
        self._line.say(
            finished=relay.Finished(
                event=self._ledger.event, meeting_id=self._ledger.opened.meeting_id, accounts=self._ledger.closed
            )
        )
