"""The watch over the disk: tiers, cleaning, the word to the gateways, and that it ends without a janitor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from chassis import bus, lifecycle
from chassis.broker import Broker
from chassis.controls import Controls
from chassis.errors import AppError
from chassis.tests.servers import NatsServer
from services.janitor.disk import Shares, Tier, measure
from services.janitor.disk_watch import CONTROL, DiskWatch
from services.janitor.tasks import sweep_uploads
from services.janitor.tests.test_sweep import made
from tests.chaos.disk import Disk, may_mount

pytestmark = pytest.mark.req("R-RES-3", "R-SVC-5")

MB = 1_000_000
SHARES = Shares()


@pytest.mark.parametrize(
    ("used", "before", "tier"),
    [
        (0.84, Tier.FINE, Tier.FINE),
        (0.85, Tier.FINE, Tier.CLEAN),
        (0.94, Tier.CLEAN, Tier.CLEAN),
        (0.95, Tier.FINE, Tier.REFUSE),
        (0.93, Tier.REFUSE, Tier.REFUSE),
        (0.90, Tier.REFUSE, Tier.CLEAN),
        (0.50, Tier.REFUSE, Tier.FINE),
    ],
)
def test_a_share_has_its_tier(used: float, before: Tier, tier: Tier) -> None:
    assert SHARES.tier(used, before) is tier


@given(st.lists(st.floats(0.9, 1.0, exclude_min=True), min_size=1, max_size=50))
def test_refusing_does_not_flutter(path: list[float]) -> None:
    tier = Tier.REFUSE
    for used in path:
        tier = SHARES.tier(used, tier)
    assert tier is Tier.REFUSE


def test_the_fullest_disk_counts_and_a_folder_that_is_not_there_does_not(tmp_path: Path) -> None:
    assert [fill.folder for fill in measure([tmp_path, tmp_path / "nowhere"])] == [str(tmp_path)]
    with pytest.raises(FileNotFoundError):
        measure([tmp_path / "nowhere"])


@pytest.fixture
def disk(tmp_path: Path) -> object:
    if why := may_mount():
        pytest.skip(why)
    with Disk(tmp_path / "disk") as there:
        yield there


@asynccontextmanager
async def watching(
    server: NatsServer, folder: Path, *clean: Callable[[], Awaitable[None]], hold_s: float = 60.0
) -> AsyncIterator[tuple[DiskWatch, Controls]]:
    """A watch, and the controls as a gateway knows them."""
    door = Broker(server.url, "janitor")
    connecting = asyncio.create_task(door.keep_connected())
    async with bus.connect(server.url, name="test", replicas=1) as mine, asyncio.timeout(60):
        await door.met.wait()
        gateways = Controls(mine)
        keeping_up = asyncio.create_task(gateways.run())
        try:
            await gateways.read.wait()
            yield DiskWatch(door, [folder], SHARES, clean, who="janitor a", hold_s=hold_s), gateways
        finally:
            await lifecycle.end([keeping_up, connecting])


async def until(gateways: Controls, value: str) -> None:
    async with asyncio.timeout(30):
        while gateways.value(CONTROL) != value:
            await asyncio.sleep(0.02)


async def test_a_disk_that_fills_up_is_cleaned_then_uploads_are_refused_then_let_in_again(
    nats_server: NatsServer, disk: Disk
) -> None:
    (disk.folder / "uploads").mkdir()
    made(disk.folder / "uploads", "upload_old", 700.0, b"x" * MB)
    young = made(disk.folder / "uploads", "upload_young", 10.0, b"x" * 10 * MB)

    async def clean() -> None:
        await sweep_uploads(disk.folder / "uploads", age_s=600.0, removed_max=10)

    async def broken() -> None:
        raise OSError("cannot")

    async with watching(nats_server, disk.folder, broken, clean) as (watch, gateways):
        await watch.look()
        assert watch.tier == 0
        assert len(list((disk.folder / "uploads").iterdir())) == 2
        disk.fill(left_bytes=MB)  # 92 %
        await watch.look()
        assert [path.name for path in (disk.folder / "uploads").iterdir()] == ["upload_young"]
        assert gateways.value(CONTROL) == ""
        disk.fill(left_bytes=MB // 5)  # 98 %
        await watch.look()
        assert watch.tier == 2
        assert REGISTRY.get_sample_value("disk_tier") == 2.0
        await until(gateways, "refuse")
        [told] = gateways.active()
        assert (told.who, told.why) == ("janitor a", "98% of a disk is used")
        young.unlink()
        disk.enlarge()
        await watch.look()
        assert watch.tier == 0
        await until(gateways, "")


async def test_what_a_janitor_refused_ends_by_itself_when_it_is_dead(nats_server: NatsServer, disk: Disk) -> None:
    made(disk.folder, "big", 0.0, b"x" * 10 * MB)
    disk.fill(left_bytes=MB // 5)
    async with watching(nats_server, disk.folder, hold_s=1.0) as (watch, gateways):
        await watch.look()
        until_s = gateways.active()[0].until_s if gateways.active() else time.time() + 1.0
        await until(gateways, "refuse") if time.time() < (until_s or 0.0) - 0.5 else None
        await until(gateways, "")  # nobody looks any more


async def test_a_janitor_whose_disk_is_fine_does_not_lift_what_another_refuses(
    nats_server: NatsServer, disk: Disk, tmp_path: Path
) -> None:
    made(disk.folder, "big", 0.0, b"x" * 10 * MB)
    disk.fill(left_bytes=MB // 5)
    async with watching(nats_server, disk.folder) as (full, gateways):
        with Disk(tmp_path / "other") as other:
            fine = DiskWatch(full._broker, [other.folder], SHARES, [], who="janitor b", hold_s=60.0)
            await full.look()
            await until(gateways, "refuse")
            await fine.look()
            await full.look()
            assert gateways.value(CONTROL) == "refuse"


async def test_a_look_without_a_broker_fails_and_the_next_one_tells(nats_server: NatsServer, disk: Disk) -> None:
    made(disk.folder, "big", 0.0, b"x" * 10 * MB)
    disk.fill(left_bytes=MB // 5)
    lonely = DiskWatch(Broker(nats_server.url, "j"), [disk.folder], SHARES, [], who="j", hold_s=60.0)
    with pytest.raises(AppError):
        await lonely.look()
    assert lonely.tier is Tier.REFUSE


async def test_a_dry_run_refuses_nothing(nats_server: NatsServer, disk: Disk) -> None:
    made(disk.folder, "big", 0.0, b"x" * 10 * MB)
    disk.fill(left_bytes=MB // 5)
    dry = DiskWatch(Broker(nats_server.url, "j"), [disk.folder], SHARES, [], who="j", hold_s=60.0, dry=True)
    await dry.look()  # there is no broker: it would have failed
    assert dry.tier is Tier.REFUSE
