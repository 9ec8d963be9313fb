"""Start the janitor: `python -m services.janitor`. It needs nothing but its data folder."""

from __future__ import annotations

from pathlib import Path

from chassis import lifecycle, rpc
from chassis.broker import Broker
from chassis.dead_letters import DeadLetters
from chassis.objects import Objects
from chassis.settings import load
from services.janitor import tasks
from services.janitor.deletions import Deletions
from services.janitor.keeping import Keep, keep_sessions
from services.janitor.rounds import Round
from services.janitor.session_logs import SessionLogs, Transcribers
from services.janitor.settings import Settings
from services.janitor.uploaded import BUCKET, UploadRows, remove_orphans

SERVICE = "janitor"


async def start(life: lifecycle.Lifecycle, settings: Settings) -> None:
    """Make rounds until told to stop; a round that is cut short is made again by the next janitor."""
    data = Path(settings.verbatim_data_dir)
    broker = Broker(settings.nats_url, SERVICE)
    letters = DeadLetters(lambda: broker.bus)
    identity = rpc.Identity.of("janitor", settings)
    targets = [target.strip() for target in settings.transcriber_targets.split(",") if target.strip()]
    meetings = await life.exits.enter_async_context(rpc.peer(settings.meetings_target, identity))
    objects, rows = Objects(lambda: broker.bus, BUCKET), UploadRows(meetings)
    peers = [await life.exits.enter_async_context(rpc.peer(target, identity)) for target in targets]
    keep = Keep(
        orphan_idle_s=settings.orphan_idle_s,
        unhealed_idle_s=settings.unhealed_idle_s,
        logs_s=settings.keep_logs_s,
        draft_logs_s=settings.keep_draft_logs_s,
        most=settings.sessions_per_round,
        audio_share_max=settings.audio_share_max,
        audio_share_low=settings.audio_share_low,
    )

    async def uploads() -> None:
        await tasks.sweep_uploads(
            data / "uploads", age_s=settings.uploads_age_s, removed_max=settings.uploads_removed_max
        )  # fmt: skip

    async def uploaded() -> None:
        await remove_orphans(objects, rows, age_s=settings.uploads_age_s, most=settings.uploads_removed_max)

    async def disk() -> None:
        await tasks.watch_disk(data)

    async def dead_letters() -> None:
        await tasks.watch_dead_letters(letters)

    async def sessions() -> None:
        await keep_sessions(SessionLogs(broker), Transcribers(peers), keep)

    deadline_s = settings.round_deadline_s
    rounds = (
        Round("uploads", uploads, every_s=settings.uploads_every_s, deadline_s=deadline_s),
        Round("uploaded files", uploaded, every_s=settings.uploads_every_s, deadline_s=deadline_s),
        Round("disk", disk, every_s=settings.disk_every_s, deadline_s=deadline_s),
        Round("sessions", sessions, every_s=settings.sessions_every_s, deadline_s=deadline_s),
        Round("dead letters", dead_letters, every_s=settings.dead_letters_every_s, deadline_s=deadline_s),
    )
    life.spawn(broker.keep_connected(), "broker")
    life.spawn(Deletions(broker, SessionLogs(broker)).run(), "deletions")
    for round_ in rounds:
        life.spawn(round_.run(), round_.task)
    life.ready()
    await life.until_stop()


if __name__ == "__main__":
    settings = load(Settings)
    lifecycle.run(SERVICE, settings, lambda life: start(life, settings))
