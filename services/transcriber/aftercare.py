"""What becomes of the drafts of a closed session: they are heard again, or given up. Any transcriber may do it.

Nobody owns a closed session. Every append names the last sequence of its log, so of two that work on the same one wins
each time, and the other reads the log again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum

from verbatim.transcript.v1 import transcript_pb2 as pb

from chassis import telemetry
from chassis.errors import AppError, Kind
from services.transcriber import metrics
from services.transcriber.audio_log import AudioLog
from services.transcriber.filters import FilterSettings
from services.transcriber.healing import Healing, HealingSettings, SecondHearing
from services.transcriber.transcript import Ledger, fold
from services.transcriber.transcript_log import Fenced, TranscriptLog

log = telemetry.logger(__name__)

_ATTEMPTS = 20
_REASONS = {
    pb.GIVEN_UP_REASON_AGE: "age",
    pb.GIVEN_UP_REASON_SPACE: "space",
    pb.GIVEN_UP_REASON_NO_AUDIO: "no_audio",
    pb.GIVEN_UP_REASON_REFUSED: "refused",
}


class Outcome(Enum):
    """What became of the drafts of a session."""

    SETTLED = "settled"  # none is left that anybody waits for
    LATER = "later"  # the engine or the broker failed
    REFUSED = "refused"  # the engine works, and takes none of those that are left


@dataclass(slots=True)
class _Log:
    """A log that we have read, and where it ended."""

    ledger: Ledger
    last_sequence: int


@dataclass(frozen=True, slots=True)
class Aftercare:
    """Works on closed sessions."""

    transcripts: TranscriptLog
    audio: AudioLog
    engines: SecondHearing
    replica: str
    healing: HealingSettings = field(default_factory=HealingSettings)
    filters: FilterSettings = field(default_factory=FilterSettings)

    async def heal(self, session_id: str) -> Outcome:
        """Hear the drafts of a session again.

        SETTLED also if there is no such session, or it is open: then its owner sees to it.
        Raises AppError(UNAVAILABLE) if the broker does not answer.
        """
        for _ in range(_ATTEMPTS):
            found = await self._read(session_id)
            if found is None:
                return Outcome.SETTLED
            try:
                return await self._heal(found)
            except Fenced:
                log.info("another works on the session too", session=session_id)
        return Outcome.LATER

    async def give_up(self, session_id: str, reason: pb.GivenUpReason.ValueType) -> int:
        """Let the drafts of a session be drafts, and return how many there were.

        Raises AppError: NOT_FOUND, CONFLICT if the session is open, UNAVAILABLE.
        """
        for _ in range(_ATTEMPTS):
            found = await self._read(session_id)
            if found is None:
                raise AppError(Kind.NOT_FOUND, "There is no such closed session.")
            try:
                return await self._let_be(found, found.ledger.drafts.indexes, reason)
            except Fenced:
                log.info("another works on the session too", session=session_id)
        raise AppError(Kind.CONFLICT, "The session is being worked on.")

    async def _read(self, session_id: str) -> _Log | None:
        history = await self.transcripts.read(session_id)
        if not history:
            return None
        found = _Log(fold(session_id, (entry for _, entry in history)), history[-1][0])
        return found if found.ledger.closed is not None else None

    async def _heal(self, found: _Log) -> Outcome:
        ledger, news = found.ledger, asyncio.Event()
        healing = Healing(
            ledger, self.engines, self.audio, self.healing, self.filters, clock=time.monotonic, news=news
        )  # fmt: skip
        healed, failure = 0, None
        async with asyncio.TaskGroup() as tasks:
            try:
                while healing.listens(tasks):
                    await news.wait()
                    news.clear()
                    while (segment := healing.revised()) is not None:
                        await self._append(found, segment=segment)
                        metrics.HEALED.labels("closed").inc()
                        healed += 1
            except (Fenced, AppError) as fault:
                # Raised below: out of the group it would come as a group.
                failure = fault
            finally:
                healing.cancel()
        if failure is not None:
            raise failure
        if healed:
            log.info("drafts healed", session=ledger.session_id, healed=healed, left=len(ledger.drafts))
        await self._let_be(found, sorted(healing.gone), pb.GIVEN_UP_REASON_NO_AUDIO)
        # An engine that takes none of them may be set up wrongly; one that takes others means these.
        if healed and healing.failure is None:
            await self._let_be(found, sorted(healing.refused), pb.GIVEN_UP_REASON_REFUSED)
        if not ledger.drafts:
            return Outcome.SETTLED
        return Outcome.REFUSED if healing.failure is None and healing.refused else Outcome.LATER

    async def _let_be(self, found: _Log, indexes: list[int], reason: pb.GivenUpReason.ValueType) -> int:
        if indexes:
            await self._append(found, given_up=pb.GivenUp(indexes=indexes, reason=reason))
            told = _REASONS[reason] if self.engines.heals else "no_engine"
            metrics.DRAFTS_GIVEN_UP.labels(told).inc(len(indexes))
            log.warning("drafts given up", session=found.ledger.session_id, drafts=len(indexes), reason=told)
        return len(indexes)

    async def _append(self, found: _Log, **kind: object) -> None:
        entry = found.ledger.draft(self.replica, **kind)
        found.last_sequence = await self.transcripts.append(entry, found.last_sequence)
        found.ledger.apply(entry)
