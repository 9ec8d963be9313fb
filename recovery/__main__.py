"""`python -m recovery backup | verify | list | restore DIR`: save everything, and make a platform of it again."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from chassis import bus, telemetry
from chassis.settings import load
from recovery import databases, keeping, manifest, marks, streams
from recovery.manifest import BackupUnusable, Manifest
from recovery.settings import Settings

MIGRATIONS = {name: Path(__file__).parents[1] / "services" / name / "migrations" for name in ("meetings", "insights")}


async def backup(settings: Settings, home: Path, *, keep: int) -> Path:
    """Save everything into a new folder below `home`, and remove the oldest beyond `keep`.

    The databases come first: what happens meanwhile is in the streams, from which they catch up. Raises BackupUnusable,
    psycopg.Error, OSError, bus.FAULTS; nothing is left then.
    """
    began, started_s = datetime.now(UTC), time.monotonic()
    async with bus.connect(settings.nats_url, name="backup", replicas=settings.nats_replicas) as broker:
        with keeping.new(home, began) as folder:
            copies = {
                name: await asyncio.to_thread(
                    databases.dump, conninfo, folder, name, table_s=settings.backup_table_s
                )
                for name, conninfo in settings.databases.items()
            }  # fmt: skip
            saved = {name: await streams.save(broker, name, folder) for name in await streams.names(broker)}
            whole = Manifest(
                version=telemetry.VERSION, began_at=began.isoformat(), ended_at=datetime.now(UTC).isoformat(),
                databases=copies, streams=saved,
            )  # fmt: skip
            whole.write(folder)
            # Read again from the disk: a backup that nobody has read is a hope.
            await asyncio.to_thread(manifest.verify, folder)
        done = home / folder.name.removesuffix(".part")
        size = sum(part.size for part in whole.parts())
        await marks.note(
            broker, at_s=time.time(), took_s=time.monotonic() - started_s, size=size, replicas=settings.nats_replicas
        )
    _tell(done, whole)
    for name in keeping.thin_out(home, keep):
        print(f"removed {name}")
    return done


async def restore(settings: Settings, folder: Path, *, force: bool) -> None:
    """Make the databases and streams what they were. Raises as `backup` does; to run it again needs `force`.

    Without `force` nothing is touched unless all is empty and nobody is connected.
    """
    whole = await asyncio.to_thread(manifest.verify, folder)
    async with bus.connect(settings.nats_url, name="restore", replicas=settings.nats_replicas) as broker:
        if not force:
            await _check_empty(settings, broker, whole)
        for name, conninfo in settings.databases.items():
            if name not in whole.databases:
                raise BackupUnusable(f"the backup holds no database {name}")
            await asyncio.to_thread(
                databases.load, conninfo, settings.migration_urls[name], MIGRATIONS[name], folder,
                whole.databases[name], table_s=settings.backup_table_s,
            )  # fmt: skip
        for name, copy in whole.streams.items():
            await streams.load(broker, name, folder, copy, replicas=settings.nats_replicas)
    _tell(folder, whole)


async def _check_empty(settings: Settings, broker: bus.Bus, whole: Manifest) -> None:
    for name, conninfo in settings.databases.items():
        if await asyncio.to_thread(databases.others_in, conninfo):
            raise BackupUnusable(f"others are connected to the database {name}: stop the services first")
        if filled := await asyncio.to_thread(databases.filled_tables, conninfo):
            raise BackupUnusable(f"the database {name} is not empty ({filled} tables hold rows); --force replaces it")
    for name in whole.streams:
        there = await streams.info(broker, name)
        if there is not None and there["state"]["messages"]:
            raise BackupUnusable(f"the stream {name} is not empty; --force replaces it")


def _tell(folder: Path, whole: Manifest) -> None:
    size = sum(part.size for part in whole.parts())
    print(f"{folder}: as of {whole.began_at}, {size / 1e6:.1f} MB, release {whole.version}")
    for name, database in whole.databases.items():
        rows = sum(table.rows for table in database.tables.values())
        print(f"  database {name}: {rows} rows in {len(database.tables)} tables, schema {database.revision}")
    for name, stream in whole.streams.items():
        print(f"  stream {name}: {stream.messages} messages")


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="recovery", description="Backup and restore of the whole platform.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("backup", help="save everything into a new folder below DIR")
    making.add_argument("--keep", type=int, default=14, metavar="N", help="backups kept; 14")
    commands.add_parser("list", help="list the backups in DIR, the newest first")
    commands.add_parser("verify", help="read every byte of a backup and compare it with what was written")
    bringing = commands.add_parser("restore", help="make empty databases and streams what they were")
    bringing.add_argument("--force", action="store_true", help="replace what is there")
    for command in commands.choices.values():
        command.add_argument("place", type=Path, metavar="DIR", help="a backup, or a folder of backups: its newest")
    parsed = parser.parse_args(arguments)
    if getattr(parsed, "keep", 1) < 1:
        parser.error("--keep must be at least 1")
    return parsed


async def _run(asked: argparse.Namespace) -> None:
    match asked.command:
        case "list":
            for folder in keeping.there(asked.place):
                _tell(folder, manifest.read(folder))
        case "verify":
            folder = keeping.chosen(asked.place)
            _tell(folder, await asyncio.to_thread(manifest.verify, folder))
        case "backup":
            settings = load(Settings)
            async with asyncio.timeout(settings.backup_deadline_s):
                await backup(settings, asked.place, keep=asked.keep)
        case "restore":
            settings = load(Settings)
            async with asyncio.timeout(settings.backup_deadline_s):
                await restore(settings, keeping.chosen(asked.place), force=asked.force)


def main(arguments: list[str]) -> int:
    """Run one command; 0 if it went well, 1 if not."""
    asked = _arguments(arguments)
    telemetry.configure("recovery", replica="recovery", level="WARNING", log_format="console")
    try:
        asyncio.run(_run(asked))
    except (BackupUnusable, psycopg.Error, OSError, *bus.FAULTS) as fault:
        print(f"{asked.command} failed: {_said(fault)}", file=sys.stderr)
        return 1
    return 0


def _said(fault: BaseException) -> str:
    """Return what to say of a failure. What PostgreSQL adds to its first line may hold what people said."""
    if isinstance(fault, psycopg.Error):
        return f"{type(fault).__name__}: {fault.diag.message_primary or 'the database does not answer'}"
    return str(fault) if isinstance(fault, BackupUnusable) else f"{type(fault).__name__}: {fault}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
