"""Backups of real databases and a real broker: whole, checked, restored to the same; refused where that would harm."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from chassis import bus
from chassis.migrations import migrate
from chassis.pool import direct_conninfo
from chassis.tests.servers import NatsServer, PostgresServer
from recovery import __main__ as recovery
from recovery import databases, keeping, manifest, marks
from recovery.manifest import BackupUnusable

pytestmark = pytest.mark.req("R-RUN-5")

SAID = "naïve line\twith tab\nand \\N and 'quotes'"


@dataclass
class Place:
    """Two databases and a broker, and the command that saves or restores them."""

    meetings: str
    insights: str
    nats: NatsServer
    setenv: Callable[[str, str], None]

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command against this place; its status and what it said."""
        for name, value in (
            ("DATABASE_URL_MEETINGS", self.meetings),
            ("DATABASE_URL_INSIGHTS", self.insights),
            ("NATS_URL", self.nats.url),
        ):
            self.setenv(name, value)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = recovery.main(list(arguments))
        return status, said.getvalue()

    def migrate(self) -> None:
        for name, url in (("meetings", self.meetings), ("insights", self.insights)):
            migrate(url, recovery.MIGRATIONS[name])

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """Ask the insights database."""
        with psycopg.connect(direct_conninfo(self.insights), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def place(postgres_server: PostgresServer, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place with schemas, some rows and streams."""
    there = Place(postgres_server.create_database(), postgres_server.create_database(), nats_server, monkeypatch.setenv)
    there.migrate()
    for number in range(3):
        there.ask(
            f"INSERT INTO insights VALUES ('m{number}', 'o', $a${SAID}$a$, '[]', '[]', '[]', 'draft', 'e', 'j', 1)"  # noqa: S608
        )
        there.ask(
            f"INSERT INTO outbox (id, subject, payload, headers) VALUES ('e{number}', 'events.x', '\\x00ff', '{{}}')"  # noqa: S608
        )
    asyncio.run(_fill(nats_server.url))
    return there


async def _fill(url: str) -> None:
    async with bus.connect(url, name="test", replicas=1) as broker:
        await broker.declare(bus.Stream("EVENTS", ("events.>",), max_bytes=1 << 24, max_age_s=86400))
        await broker.declare(bus.Stream("JOBS", ("jobs.>",), max_bytes=1 << 24, work_queue=True))
        await broker.js.add_stream(StreamConfig(name="FLEETING", subjects=["f.>"], storage=StorageType.MEMORY))
        for number in range(300):
            await broker.publish(f"events.e{number % 7}", bytes(2000) + b"%d" % number, message_id=f"id{number}")
        for sequence in (2, 3, 250):
            await broker.js.delete_msg("EVENTS", (await _first(broker)) + sequence)
        await broker.js.add_consumer(
            "EVENTS", ConsumerConfig(durable_name="gone", ack_policy=AckPolicy.EXPLICIT, filter_subject="events.>")
        )
        await broker.publish("jobs.sum", b'{"job_id": "1"}', message_id="j")


async def _first(broker: bus.Bus) -> int:
    return int((await broker.js.stream_info("EVENTS")).state.first_seq)


async def _messages(url: str, stream: str) -> list[tuple[int, str, bytes, dict[str, str], object]]:
    async with bus.connect(url, name="test", replicas=1) as broker:
        state = (await broker.js.stream_info(stream)).state
        found: list[tuple[int, str, bytes, dict[str, str], object]] = []
        for sequence in range(state.first_seq, state.last_seq + 1):
            with contextlib.suppress(Exception):
                raw = await broker.js.get_msg(stream, sequence)
                found.append((raw.seq or 0, raw.subject or "", raw.data or b"", dict(raw.headers or {}), raw.time))
        return found


def other(place: Place, postgres_server: PostgresServer, nats: NatsServer) -> Place:
    return Place(postgres_server.create_database(), postgres_server.create_database(), nats, place.setenv)


@pytest.fixture
def empty_nats(tmp_path: Path) -> object:
    from chassis.tests import servers  # noqa: PLC0415

    server = NatsServer(tmp_path / "other-nats", servers._free_port())
    server.start()
    yield server
    server.kill()


def test_what_was_saved_comes_back_the_same_down_to_sequences_and_times(
    place: Place, postgres_server: PostgresServer, empty_nats: NatsServer, tmp_path: Path
) -> None:
    status, said = place.run("backup", str(tmp_path / "b"))
    assert status == 0, said
    there = other(place, postgres_server, empty_nats)
    there.migrate()  # services may have been there before, and left empty tables
    status, said = there.run("restore", str(tmp_path / "b"))
    assert status == 0, said
    for query in (
        "SELECT * FROM insights ORDER BY 1",
        "SELECT * FROM outbox ORDER BY 1",
        "SELECT version_num FROM alembic_version",
    ):
        assert there.ask(query) == place.ask(query)
    assert there.ask("SELECT summary FROM insights LIMIT 1") == [(SAID,)]
    new = "INSERT INTO outbox (id, subject, payload, headers) VALUES ('new', 's', '', '{}') RETURNING seq"
    assert there.ask(new) == [(4,)]  # sequences go on where they were
    for stream in ("EVENTS", "JOBS"):
        before, after = (asyncio.run(_messages(one.nats.url, stream)) for one in (place, there))
        assert before == after
        assert len(before) == {"EVENTS": 297, "JOBS": 1}[stream]

    async def consumers() -> tuple[list[object], list[str]]:
        async with bus.connect(empty_nats.url, name="test", replicas=1) as broker:
            await broker.publish("events.new", b"x", message_id="id299")  # known: it came before the backup
            found = [info.config.name for info in await broker.js.streams_info()]
            return list(await broker.js.consumers_info("EVENTS")), sorted(name or "" for name in found)

    assert asyncio.run(consumers()) == ([], ["EVENTS", "JOBS"])
    assert len(asyncio.run(_messages(empty_nats.url, "EVENTS"))) == 297


def test_a_restore_into_what_is_not_empty_is_refused_and_touches_nothing(place: Place, tmp_path: Path) -> None:
    assert place.run("backup", str(tmp_path))[0] == 0
    place.ask("DELETE FROM insights WHERE meeting_id = 'm0'")
    status, said = place.run("restore", str(tmp_path))
    assert status == 1
    assert "not empty" in said
    assert len(place.ask("SELECT 1 FROM insights")) == 2
    place.ask("TRUNCATE insights, outbox")
    status, said = place.run("restore", str(tmp_path))  # the broker still holds something
    assert status == 1
    assert "stream EVENTS is not empty" in said
    assert place.ask("SELECT 1 FROM insights") == []
    status, said = place.run("restore", "--force", str(tmp_path))
    assert status == 0, said
    assert len(place.ask("SELECT 1 FROM insights")) == 3


def test_a_restore_under_running_services_is_refused(
    place: Place, postgres_server: PostgresServer, empty_nats: NatsServer, tmp_path: Path
) -> None:
    assert place.run("backup", str(tmp_path))[0] == 0
    there = other(place, postgres_server, empty_nats)
    with psycopg.connect(direct_conninfo(there.meetings)):
        status, said = there.run("restore", str(tmp_path))
    assert status == 1
    assert "others are connected" in said


@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "manifest", "escape"])
def test_a_backup_that_is_not_as_it_was_written_is_neither_verified_nor_restored(
    place: Place, tmp_path: Path, harm: str
) -> None:
    assert place.run("backup", str(tmp_path))[0] == 0
    [folder] = keeping.there(tmp_path)
    assert place.run("verify", str(folder))[0] == 0
    victim = folder / "streams/EVENTS.snapshot"
    match harm:
        case "flip":
            data = bytearray(victim.read_bytes())
            data[len(data) // 2] ^= 1
            victim.write_bytes(data)
        case "cut":
            victim.write_bytes(victim.read_bytes()[:-1])
        case "lose":
            victim.unlink()
        case "manifest":
            said = json.loads((folder / manifest.FILE).read_text())
            said["databases"]["insights"]["tables"]["insights"]["rows"] = 2
            (folder / manifest.FILE).write_text(json.dumps(said))
        case "escape":
            whole = manifest.read(folder)
            whole.streams["EVENTS"] = manifest.StreamCopy({}, {}, manifest.Part("../../outside", 0, ""))
            whole.write(folder)
    place.ask("TRUNCATE insights")
    for command in (["verify"], ["restore", "--force"]):
        status, _ = place.run(*command, str(tmp_path))
        assert status == 1
    assert place.ask("SELECT 1 FROM insights") == []


def test_a_backup_that_breaks_off_leaves_nothing_that_looks_like_one(place: Place, tmp_path: Path) -> None:
    place.ask("DROP TABLE alembic_version")
    status, said = place.run("backup", str(tmp_path))
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert "no schema" in said


def test_only_its_owner_can_read_a_backup_and_the_broker_knows_when_it_was_made(place: Place, tmp_path: Path) -> None:
    before = datetime.now(UTC).timestamp()
    assert place.run("backup", str(tmp_path))[0] == 0
    [folder] = keeping.there(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with gzip.open(folder / "insights/insights.copy.gz") as rows:
        assert b"na\xc3\xafve" in rows.read()

    async def noted() -> dict[str, float]:
        async with bus.connect(place.nats.url, name="test", replicas=1) as broker:
            entry = await (await broker.js.key_value(marks.BUCKET)).get(marks.LAST)
            return dict(json.loads(entry.value or b""))

    told = asyncio.run(noted())
    assert told["at_s"] >= before
    assert told["size_bytes"] > 0


def test_rows_that_are_written_during_a_backup_belong_to_it_whole_or_not_at_all(place: Place, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with psycopg.connect(direct_conninfo(place.insights)) as writer:
        writer.execute(
            "INSERT INTO insights SELECT 'mx', owner_id, '', '[]', '[]', '[]', '', '', '' FROM insights LIMIT 1"
        )
        copy = databases.dump(direct_conninfo(place.insights), tmp_path / "b", "insights", table_s=60)
        writer.commit()
    assert copy.tables["insights"].rows == 3


def test_old_backups_go_and_so_does_what_was_broken_off(tmp_path: Path) -> None:
    then = datetime(2026, 11, 1, tzinfo=UTC)
    (tmp_path / "20261031T000000Z.part").mkdir()
    (tmp_path / "not-ours").mkdir()
    for day in range(5):
        with keeping.new(tmp_path, then + timedelta(days=day)) as folder:
            (folder / "x").touch()
    assert len(keeping.thin_out(tmp_path, 2)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20261104T000000Z", "20261105T000000Z", "not-ours"]
    assert keeping.chosen(tmp_path).name == "20261105T000000Z"
    with pytest.raises(BackupUnusable):
        keeping.chosen(tmp_path / "not-ours")


def test_tables_are_filled_after_those_that_they_refer_to() -> None:
    assert databases.in_order("abc", [("a", "b"), ("b", "c")]) == ["c", "b", "a"]
    with pytest.raises(BackupUnusable):
        databases.in_order("ab", [("a", "b"), ("b", "a")])


def test_a_backup_of_a_newer_release_is_refused_before_anything_is_touched(place: Place, tmp_path: Path) -> None:
    newer = manifest.DatabaseCopy("9999", {}, {})
    url = place.insights
    with pytest.raises(BackupUnusable, match="newer release"):
        databases.load(direct_conninfo(url), url, recovery.MIGRATIONS["insights"], tmp_path, newer, table_s=60)
    assert len(place.ask("SELECT 1 FROM insights")) == 3
