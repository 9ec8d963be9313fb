"""At a guarded broker the user `backup` may save and bring back streams, and write nothing into them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis import bus
from chassis.errors import AppError
from chassis.tests import servers
from deploy import nats_permissions
from recovery import marks, streams

pytestmark = pytest.mark.req("R-RUN-5", "R-SEC-1")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A broker with the chart's permissions; its addresses for the operator and for `backup`."""
    port = servers._free_port()
    config = tmp_path / "nats.conf"
    (tmp_path / "permissions.conf").write_text(nats_permissions.FILE.read_text())
    users = ["{user: operator, password: p}"] + [
        f"{{user: {user}, password: p, permissions: ${user.upper()}}}" for user in nats_permissions.USERS
    ]
    config.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{store_dir: "{tmp_path}/data"}}\ninclude permissions.conf\n'
        f"authorization {{users: [{', '.join(users)}]}}\n"
    )
    process = servers._process([servers._program("nats-server"), "-c", str(config)], None)
    servers._until(lambda: servers._listens(port), process)
    yield f"nats://operator:p@127.0.0.1:{port}", f"nats://backup:p@127.0.0.1:{port}"
    process.kill()
    process.wait(timeout=10)


async def test_streams_are_saved_and_brought_back_within_the_permissions(
    guarded: tuple[str, str], tmp_path: Path
) -> None:
    (folder := tmp_path / "backup").mkdir()
    async with (
        bus.connect(guarded[0], name="operator", replicas=1) as operator,
        bus.connect(guarded[1], name="recovery", replicas=1) as mine,
        asyncio.timeout(60),
    ):
        await operator.declare(bus.Stream("EVENTS", ("events.>",), max_bytes=1 << 24))
        for number in range(20):
            await operator.publish("events.x", b"%d" % number * 20_000)
        assert await streams.names(mine) == ["EVENTS"]
        copy = await streams.save(mine, "EVENTS", folder)
        await operator.js.purge_stream("EVENTS")
        await streams.load(mine, "EVENTS", folder, copy, replicas=1)
        assert (await operator.js.stream_info("EVENTS")).state.messages == 20
        await marks.note(mine, at_s=1.0, took_s=1.0, size=1, replicas=1)
        with pytest.raises(AppError):
            await mine.publish("events.x", b"forged", timeout_s=1.0)
        assert (await operator.js.stream_info("EVENTS")).state.messages == 20
