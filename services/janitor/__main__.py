"""Start the janitor: `python -m services.janitor`. It needs nothing but its data folder.

`python -m services.janitor --dry-run` makes one round of everything, removes nothing, and tells what it would.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from chassis import lifecycle, rpc, telemetry
from chassis.broker import Broker
from chassis.dead_letters import DeadLetters
from chassis.objects import Objects
from chassis.settings import load
from services.janitor import tasks
from services.janitor.backups import watch_backups
from services.janitor.deletions import Deletions
from services.janitor.disk import Shares
from services.janitor.disk_watch import DiskWatch
from services.janitor.dry import DryObjects, DrySessionLogs, DryTranscribers
from services.janitor.keeping import Keep, keep_sessions
from services.janitor.rounds import Round
from services.janitor.session_logs import SessionLogs, Transcribers
from services.janitor.settings import TASKS, Settings
from services.janitor.uploaded import BUCKET, UploadRows, remove_orphans

SERVICE = "janitor"
_HOLD_LOOKS = 4
_CONNECT_S = 5.0


@dataclass(frozen=True)
class House:
    """What the tasks work with."""

    broker: Broker
    meetings: rpc.Peer
    transcribers: list[rpc.Peer]
    replica: str


async def start(life: lifecycle.Lifecycle, settings: Settings) -> None:
    """Make rounds until told to stop; a round that is cut short is made again by the next janitor."""
    enter = life.exits.enter_async_context
    identity = rpc.Identity.of(SERVICE, settings)
    peers = [await enter(rpc.peer(target, identity)) for target in _targets(settings)]
    broker = Broker(settings.nats_url, SERVICE)
    house = House(broker, await enter(rpc.peer(settings.meetings_target, identity)), peers, life.replica)
    life.spawn(broker.keep_connected(), "broker")
    if not settings.dry_run and (not settings.rounds or "deletions" in settings.rounds):
        life.spawn(Deletions(broker, SessionLogs(broker)).run(), "deletions")
    for round_ in rounds_of(settings, house):
        life.spawn(round_.run(), round_.task)
    life.ready()
    await life.until_stop()


async def look_only(settings: Settings) -> int:
    """Make one round of each task that removes nothing; 1 if one of them failed."""
    identity = rpc.Identity.of(SERVICE, settings)
    settings = settings.model_copy(update={"dry_run": True})
    broker = Broker(settings.nats_url, SERVICE)
    async with rpc.peer(settings.meetings_target, identity) as meetings:
        connecting = asyncio.create_task(broker.keep_connected())
        try:
            await _connected(broker)
            went = [await round_.once() for round_ in rounds_of(settings, House(broker, meetings, [], "dry run"))]
        finally:
            await lifecycle.end([connecting])
    return 0 if all(went) else 1


async def _connected(broker: Broker) -> None:
    """Wait until there is a broker; without one, what needs none is looked at all the same."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_CONNECT_S):
            await broker.met.wait()


def rounds_of(settings: Settings, house: House) -> list[Round]:
    """Return the tasks that these settings ask for."""
    data, dry = Path(settings.verbatim_data_dir), settings.dry_run
    letters = DeadLetters(lambda: house.broker.bus)
    objects = (DryObjects if dry else Objects)(lambda: house.broker.bus, BUCKET)
    logs = (DrySessionLogs if dry else SessionLogs)(house.broker)
    transcribers = (DryTranscribers if dry else Transcribers)(house.transcribers)
    rows = UploadRows(house.meetings)
    keep = Keep(
        orphan_idle_s=settings.orphan_idle_s,
        unhealed_idle_s=settings.unhealed_idle_s,
        logs_s=settings.keep_logs_s,
        draft_logs_s=settings.keep_draft_logs_s,
        most=settings.sessions_per_round,
        audio_share_max=settings.audio_share_max,
        audio_share_low=settings.audio_share_low,
    )
    most = settings.uploads_removed_max
    sweep = partial(tasks.sweep_uploads, data / "uploads", removed_max=most, dry=dry)
    orphans = partial(remove_orphans, objects, rows, most=most)
    sessions = partial(keep_sessions, logs, transcribers)
    watch = DiskWatch(
        house.broker,
        [data, *(Path(folder.strip()) for folder in settings.disk_folders.split(",") if folder.strip())],
        Shares(settings.disk_clean_share, settings.disk_refuse_share, settings.disk_allow_share),
        [
            partial(sweep, age_s=settings.uploads_age_tight_s),
            partial(orphans, age_s=settings.uploads_age_s),
            partial(sessions, replace(keep, logs_s=0.0)),
        ],
        who=f"janitor {house.replica}",
        hold_s=_HOLD_LOOKS * settings.disk_every_s,
        dry=dry,
    )

    async def backups() -> None:
        await watch_backups(house.broker.bus, expected=settings.backup_expected)

    wanted: dict[str, tuple[Callable[[], Awaitable[None]], float]] = {
        "uploads": (partial(sweep, age_s=settings.uploads_age_s), settings.uploads_every_s),
        "uploaded files": (partial(orphans, age_s=settings.uploads_age_s), settings.uploads_every_s),
        "disk": (watch.look, settings.disk_every_s),
        "memory": (tasks.trim_memory, settings.memory_every_s),
        "sessions": (partial(sessions, keep), settings.sessions_every_s),
        "dead letters": (partial(tasks.watch_dead_letters, letters), settings.dead_letters_every_s),
        "backups": (backups, settings.backups_every_s),
    }
    return [
        Round(task, *wanted[task], deadline_s=settings.round_deadline_s)
        for task in settings.rounds or TASKS
        if task in wanted
    ]


def _targets(settings: Settings) -> list[str]:
    return [target.strip() for target in settings.transcriber_targets.split(",") if target.strip()]


def main(arguments: list[str]) -> None:
    """Run the service, or look only."""
    settings = load(Settings)
    match arguments:
        case []:
            lifecycle.run(SERVICE, settings, lambda life: start(life, settings))
        case ["--dry-run"]:
            telemetry.configure(SERVICE, replica="dry run", level=settings.log_level, log_format=settings.log_format)
            raise SystemExit(asyncio.run(look_only(settings)))
        case _:
            sys.stderr.write("usage: python -m services.janitor [--dry-run]\n")
            raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
