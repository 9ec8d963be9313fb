"""Doors that only look: what would be removed, finished or given up is told in the log, and stays."""

from __future__ import annotations

from verbatim.transcript.v1 import transcript_pb2

from chassis import telemetry
from chassis.objects import Objects
from services.janitor.session_logs import SessionLogs, Transcribers

log = telemetry.logger(__name__)


class DryObjects(Objects):
    """Files that are not removed."""

    async def remove(self, name: str) -> None:
        log.warning("would remove a file of the object store", name=name)


class DrySessionLogs(SessionLogs):
    """Logs that are not removed."""

    async def purge(self, session_id: str) -> None:
        log.warning("would remove the logs of a session", session=session_id)

    async def purge_audio(self, session_id: str) -> None:
        log.warning("would remove the audio of a session", session=session_id)


class DryTranscribers(Transcribers):
    """Transcribers that are not asked."""

    async def finish(self, session_id: str) -> None:
        log.warning("would finish a session", session=session_id)

    async def heal(self, session_id: str) -> None:
        log.warning("would ask for healing", session=session_id)

    async def give_up(self, session_id: str, reason: transcript_pb2.GivenUpReason.ValueType) -> int:
        log.warning("would give drafts up", session=session_id, reason=reason)
        return 0
