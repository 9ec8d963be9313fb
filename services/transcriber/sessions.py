"""The sessions that this process owns: opened here, come back to, or adopted from the logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from verbatim.meetings.v1 import events_pb2
from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import bus, telemetry
from chassis.errors import AppError, Kind
from services.transcriber import metrics
from services.transcriber.line import Channel
from services.transcriber.session import Attach, LiveSession, Ports, SessionSettings
from services.transcriber.transcript import Ledger, fold
from services.transcriber.transcript_log import Fenced

log = telemetry.logger(__name__)

_ADOPTED = "sessions.adopted"
_TICK_S = 0.2
_ADOPTION_ATTEMPTS = 4
_OVERLOADED = 1013
_RESTARTING = 1012


class Sessions:
    """All live sessions of the process. Each runs as a task of its own; a session that fails harms no other."""

    def __init__(
        self,
        ports: Ports,
        settings: SessionSettings,
        *,
        sessions_max: int,
        tight: Callable[[], bool] = lambda: False,
        live_session: type[LiveSession] = LiveSession,
    ) -> None:
        self._ports = ports
        self._live_session = live_session
        self._settings = settings
        self._sessions_max = sessions_max
        self._tight = tight
        self._sessions: dict[str, LiveSession] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._adopting: dict[str, asyncio.Lock] = {}
        self._draining = False

    def get(self, session_id: str) -> LiveSession | None:
        """Return the session if this process owns it."""
        session = self._sessions.get(session_id)
        return session if session is not None and not session.over else None

    async def open(self, session_id: str, opened: pb.Opened, channel: Channel) -> LiveSession:
        """Begin a session. Raises AppError: overloaded, draining, broker away, or the id is taken."""
        self._admit_new()
        session = self._live_session(Ledger(session_id), 0, self._ports, self._settings)
        try:
            await session.open(opened, channel)
        except Fenced:
            raise AppError(Kind.CONFLICT, "The session exists already.") from None
        self._start(session)
        return session

    async def resume(self, request: relay.Resume, channel: Channel, *, attempt: int = 1) -> LiveSession:
        """Give a session to a client that comes back, adopting it from the logs if it is not here.

        Raises AppError(NOT_FOUND) if there is no such session, it is another's, or the token is wrong.
        """
        self._admit()
        lock = self._adopting.setdefault(request.session_id, asyncio.Lock())
        try:
            async with lock:
                session = self.get(request.session_id)
                adopted = session is None or not session.may_resume(request.owner_id, request.resume_token)
                if session is None or adopted:
                    deposed, session = session, await self._from_logs(request.session_id, request)
                    # The token is the log's and not ours: another has owned the session since, unheard by us.
                    if deposed is not None:
                        deposed.step_down()
                session.attach(Attach(channel, request.resume_token, request.last_event, adopted, attempt))
                if adopted:
                    metrics.ADOPTIONS.labels("adopted").inc()
                    self._start(session)
        finally:
            if not lock.locked():
                self._adopting.pop(request.session_id, None)
        if adopted:
            await self._announce(session.id)
        return session

    async def finish_orphan(self, session_id: str) -> bool:
        """Close a session whose owner is gone; False if it is closed already, or owned and in use here.

        Raises AppError(NOT_FOUND) if it has no log. If it does have an owner elsewhere, that one is fenced off and
        its client resumes.
        """
        self._admit()
        if self.get(session_id) is not None:
            return False
        session = await self._from_logs(session_id)
        # An upload has a job, which goes on with it.
        if session.ledger.closed is not None or session.ledger.opened.upload:
            session.discard()
            return False
        session.abandon()
        metrics.ADOPTIONS.labels("orphan").inc()
        self._start(session)
        await self._announce(session_id)
        return True

    @property
    def pending_bytes(self) -> int:
        """PCM that was heard here and is neither in a transcript nor known to be silence."""
        return sum(session.pending_bytes for session in self._sessions.values())

    def _admit(self) -> None:
        if self._draining:
            raise AppError(Kind.UNAVAILABLE, "The service is restarting.", retry_after_s=0.0)
        if len(self._sessions) >= self._sessions_max:
            raise AppError(Kind.UNAVAILABLE, "Too many sessions at the moment.", retry_after_s=5.0)

    def _admit_new(self) -> None:
        """Refuse what is not yet accepted. Sessions that come back are taken also when memory is short."""
        self._admit()
        if self._tight():
            raise AppError(Kind.UNAVAILABLE, "Too busy for another session at the moment.", retry_after_s=10.0)

    async def _from_logs(self, session_id: str, client: relay.Resume | None = None) -> LiveSession:
        """Rebuild a session: fold its transcript log, replay its audio from the checkpoint.

        Raises AppError(NOT_FOUND) if there is none, or its account or token are not those of the client.
        """
        history = await self._ports.transcripts.read(session_id)
        if not history:
            raise AppError(Kind.NOT_FOUND, "Session expired")
        ledger = fold(session_id, (entry for _, entry in history))
        session = self._live_session(ledger, history[-1][0], self._ports, self._settings)
        if client is not None and not session.may_resume(client.owner_id, client.resume_token):
            metrics.ADOPTIONS.labels("refused").inc()
            raise AppError(Kind.NOT_FOUND, "Session expired")
        if ledger.closed is None:
            data, sequence = await self._ports.audio.read(session_id, ledger.source_offset, ledger.audio_sequence)
            session.replay(data, sequence)
        return session

    async def _announce(self, session_id: str) -> None:
        """Tell the owner before, if it lives, to step down at once. Without this it would at its next append."""
        try:
            await self._ports.announce(_ADOPTED, f"{session_id} {self._ports.replica}".encode())
        except bus.FAULTS as fault:
            log.info("adoption not announced", fault=repr(fault))

    def _start(self, session: LiveSession) -> None:
        self._sessions[session.id] = session
        task = asyncio.create_task(self._run(session), name=f"session {session.id}")
        self._running[session.id] = task

    async def _run(self, session: LiveSession) -> None:
        try:
            await session.run()
        except Exception:
            log.exception("session failed", session=session.id)
            metrics.SESSION_FAILURES.inc()
        finally:
            if self._sessions.get(session.id) is session:
                del self._sessions[session.id]
                self._running.pop(session.id, None)
        for guest in session.strand():
            await self._again(session, guest)

    async def _again(self, session: LiveSession, guest: Attach) -> None:
        """Serve a client from the logs: the session ended while it came, or an append of the owner before, on its way
        when that one died, reached the log after we had read it."""
        request = relay.Resume(
            session_id=session.id,
            owner_id=session.ledger.opened.owner_id,
            resume_token=guest.presented_token,
            last_event=guest.last_event,
        )
        try:
            if guest.attempt >= _ADOPTION_ATTEMPTS:
                raise AppError(Kind.UNAVAILABLE, "The session is being taken over elsewhere.")
            again = await self.resume(request, guest.channel, attempt=guest.attempt + 1)
            guest.channel.moved(again)
        except AppError as error:
            guest.channel.send(problem_event(error))

    async def run(self) -> None:
        """Let time pass for the sessions, for ever."""
        while True:
            await asyncio.sleep(_TICK_S)
            now = self._ports.clock()
            attached = buffered = drafts = 0
            for session in list(self._sessions.values()):
                session.tick(now)
                attached += session.attached
                buffered += session.buffered_bytes
                drafts += len(session.ledger.drafts)
            metrics.SESSIONS.labels("yes").set(attached)
            metrics.SESSIONS.labels("no").set(len(self._sessions) - attached)
            metrics.SESSION_BUFFER.set(buffered)
            metrics.DRAFTS_WAITING.set(drafts if self._ports.recogniser.heals else 0)

    def note_stored(self, payload: bytes) -> None:
        """Handle `stored.<session>`: the database has caught up to an offset."""
        notice = events_pb2.SegmentsStored.FromString(payload)
        if session := self.get(notice.session_id):
            session.note_stored(notice.end_offset, notice.event)

    def note_adopted(self, payload: bytes) -> None:
        """Handle `sessions.adopted`: let go of a session that another replica owns now."""
        session_id, _, replica = payload.decode().partition(" ")
        if replica != self._ports.replica and (session := self.get(session_id)):
            session.step_down()

    async def drain(self, within_s: float) -> None:
        """Commit what is cut, make durable what was received, then let every client go to another replica."""
        self._draining = True
        sessions = list(self._sessions.values())
        for session in sessions:
            session.hasten()
        try:
            async with asyncio.timeout(within_s), asyncio.TaskGroup() as waits:
                for session in sessions:
                    waits.create_task(session.until_quiet())
        except TimeoutError:
            log.warning("drained with work left; another replica takes it from the logs")
        running = list(self._running.values())
        for session in sessions:
            session.let_go(_RESTARTING, "The service is restarting: resume.")
        if running:
            await asyncio.wait(running, timeout=1.0)


def problem_event(error: AppError, *, close_code: int | None = None) -> relay.ServerEvent:
    """Return an error as the event that ends a connection."""
    code = error.codes.close if close_code is None else close_code
    if error.kind is Kind.UNAVAILABLE and error.retry_after_s and error.retry_after_s >= 5.0:
        code = _OVERLOADED
    return relay.ServerEvent(
        problem=relay.Problem(
            code=error.kind.value,
            message=error.message,
            close_code=code,
            retryable=error.codes.retryable,
            retry_after_s=error.retry_after_s or 0.0,
        )
    )
