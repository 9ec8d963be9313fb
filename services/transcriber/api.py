"""The relay: one stream per gateway, on which all its sessions are channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from verbatim.transcriber.v1 import transcriber_pb2 as relay
from verbatim.transcriber.v1 import transcriber_pb2_grpc

from chassis import telemetry, tracing
from chassis.errors import AppError, Kind
from services.transcriber import metrics
from services.transcriber.aftercare import Aftercare
from services.transcriber.heal_jobs import HealJobs
from services.transcriber.session import LiveSession
from services.transcriber.sessions import Sessions, problem_event

log = telemetry.logger(__name__)

# Above this many channels acknowledgements are gathered for a moment: they are most of what is said, each would cost a
# write, and nobody waits for one. Everything else goes at once, and takes along what was gathered.
_GATHER_ABOVE = 20
_GATHER_S = 0.01
# Events of some kilobytes each: a batch stays far below what one gRPC message may have.
_BATCH_MAX = 100


class _Line:
    """The answering half of a relay stream."""

    def __init__(self) -> None:
        self.events: list[relay.ServerEvent] = []
        self.ready = asyncio.Event()
        self.channels: dict[int, _Channel] = {}
        self.greetings: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None

    def say(self, event: relay.ServerEvent, *, urgent: bool) -> None:
        """Queue an event for the gateway."""
        self.events.append(event)
        if urgent or len(self.channels) <= _GATHER_ABOVE:
            self.ready.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(_GATHER_S, self.ready.set)

    def recall(self) -> None:
        """What was gathered goes now."""
        if self._later is not None:
            self._later.cancel()
            self._later = None

    async def end(self, reader: asyncio.Task[None]) -> None:
        """The gateway is gone: let its clients' sessions know, also those whose greeting is still under way."""
        for channel in self.channels.values():
            channel.gone = True
            if channel.session is not None:
                channel.session.detach(channel)
        self.recall()
        reader.cancel()
        await asyncio.gather(reader, *self.greetings, return_exceptions=True)

    def say_retiring(self) -> None:
        """Queue the notice that this process goes away."""
        status = relay.Status(state=relay.STATE_DRAINING, reason="restart")
        self.say(relay.ServerEvent(status=status), urgent=True)


class _Channel:
    """One session's place on a relay stream."""

    def __init__(self, line: _Line, number: int) -> None:
        self._line = line
        self.number = number
        self.session: LiveSession | None = None
        self.gone = False

    def send(self, event: relay.ServerEvent) -> None:
        """Queue an event for the gateway. What is queued is bounded by the session's own window."""
        event.channel = self.number
        self._line.say(event, urgent=not event.HasField("ack"))

    def moved(self, session: LiveSession) -> None:
        """Send what the client says to the session's new object."""
        self.session = session


class TranscriberService(transcriber_pb2_grpc.TranscriberServiceServicer):
    """Parses what gateways say and hands it to the sessions."""

    def __init__(self, sessions: Sessions, aftercare: Aftercare, heal_jobs: HealJobs) -> None:
        self._sessions = sessions
        self._aftercare = aftercare
        self._heal_jobs = heal_jobs
        self._lines: set[_Line] = set()
        self._retiring = False
        self._hung_up = False

    def retire(self) -> None:
        """Tell every gateway to bring nobody here any more: a status on channel 0, which is no session's."""
        self._retiring = True
        for line in self._lines:
            line.say_retiring()

    def hang_up(self) -> None:
        """End every stream after what is queued: gateways bring their sessions elsewhere at once."""
        self._hung_up = True
        for line in self._lines:
            line.ready.set()

    async def Relay(self, request_iterator: Any, context: Any) -> AsyncIterator[relay.RelayResponse]:  # noqa: N802
        """Serve one gateway until its stream ends; its sessions stay."""
        line = _Line()
        self._lines.add(line)
        if self._retiring:
            line.say_retiring()
        await context.send_initial_metadata(())  # tells the gateway that it is connected
        reader = asyncio.create_task(self._read(request_iterator, line))
        reader.add_done_callback(lambda _: line.ready.set())
        try:
            while not (reader.done() or self._hung_up) or line.events:
                await line.ready.wait()
                line.ready.clear()
                line.recall()
                while line.events:
                    batch, line.events = line.events[:_BATCH_MAX], line.events[_BATCH_MAX:]
                    yield relay.RelayResponse(events=batch)
            if reader.done() and not reader.cancelled():
                reader.result()
        finally:
            self._lines.discard(line)
            await line.end(reader)

    async def FinishSession(  # noqa: N802
        self, request: relay.FinishSessionRequest, context: Any
    ) -> relay.FinishSessionResponse:
        """Begin to close an orphan; its utterances are recognised in the background."""
        return relay.FinishSessionResponse(begun=await self._sessions.finish_orphan(request.session_id))

    async def HealSession(self, request: relay.HealSessionRequest, context: Any) -> relay.HealSessionResponse:  # noqa: N802
        """Queue a closed session."""
        return relay.HealSessionResponse(queued=await self._heal_jobs.ask(request.session_id))

    async def GiveUpDrafts(  # noqa: N802
        self, request: relay.GiveUpDraftsRequest, context: Any
    ) -> relay.GiveUpDraftsResponse:
        """Let the drafts of a closed session be."""
        given_up = await self._aftercare.give_up(request.session_id, request.reason)
        return relay.GiveUpDraftsResponse(given_up=given_up)

    async def _read(self, batches: Any, line: _Line) -> None:
        async for batch in batches:
            for event in batch.events:
                self._take(event, line)

    def _take(self, event: relay.ClientEvent, line: _Line) -> None:
        kind = event.WhichOneof("kind")
        if kind in {"open", "resume"}:
            channel = _Channel(line, event.channel)
            line.channels[event.channel] = channel
            greeting = asyncio.create_task(self._greet(event, channel))
            line.greetings.add(greeting)
            greeting.add_done_callback(line.greetings.discard)
            return
        known = line.channels.get(event.channel)
        session = known.session if known is not None else None
        if known is None or session is None or session.over or not session.serves(known):
            session = None
        if kind == "audio":
            size = len(event.audio.data)
            metrics.AUDIO_RECEIVED.inc(size)
            if session is None:
                metrics.AUDIO_REFUSED.inc(size)
            else:
                session.receive(event.audio.offset, event.audio.data)
        elif kind == "detach" and known is not None:
            del line.channels[event.channel]
            known.gone = True
            if known.session is not None:
                known.session.detach(known)
        elif session is not None:
            match kind:
                case "finalize":
                    session.finalize()
                case "pause":
                    session.pause(event.pause.paused)
                case "gap":
                    session.declare_gap(event.gap.from_offset, event.gap.to_offset)
                case "finish":
                    session.finish(event.finish.offset if event.finish.HasField("offset") else None)

    async def _greet(self, event: relay.ClientEvent, channel: _Channel) -> None:
        request_id = event.open.request_id or event.resume.request_id
        kind = str(event.WhichOneof("kind"))
        asked = getattr(event, kind)
        # Whatever the session does from here on belongs to this trace, or is linked to it.
        carrier = {tracing.HEADER: asked.traceparent}
        with tracing.serve(f"{kind} session", carrier, session_id=asked.session_id), telemetry.bound(request_id):
            try:
                if event.WhichOneof("kind") == "open":
                    session = await self._sessions.open(event.open.session_id, event.open.session, channel)
                else:
                    session = await self._sessions.resume(event.resume, channel)
                channel.session = session
                if channel.gone:  # the client left while it was being greeted
                    session.detach(channel)
            except AppError as error:
                channel.send(problem_event(error))
            except Exception:
                log.exception("greeting failed")
                channel.send(problem_event(AppError(Kind.INTERNAL, "Something went wrong on our side.")))
