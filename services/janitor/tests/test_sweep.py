"""Which files are swept, and that nothing else can be."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.janitor import scratch
from services.janitor.sweep import Entry, left_over
from services.janitor.tasks import sweep_uploads

pytestmark = [pytest.mark.req("R-RES-1"), pytest.mark.req("R-SVC-5")]

HOUR_S = 3600.0


def made(folder: Path, name: str, age_s: float, content: bytes = b"x") -> Path:
    path = folder / name
    path.write_bytes(content)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


async def swept(folder: Path, removed_max: int = 100) -> list[str]:
    await sweep_uploads(folder, age_s=HOUR_S, removed_max=removed_max)
    return names(folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_old_uploads_go_and_everything_else_stays(tmp_path: Path) -> None:
    made(tmp_path, "upload_old", 2 * HOUR_S)
    made(tmp_path, "upload_young", 60.0)
    made(tmp_path, "recording.wav", 9 * HOUR_S)
    made(tmp_path, "xupload_old", 9 * HOUR_S)
    (tmp_path / "upload_folder").mkdir()
    os.utime(tmp_path / "upload_folder", (0, 0))
    assert await swept(tmp_path) == ["recording.wav", "upload_folder", "upload_young", "xupload_old"]


async def test_a_link_is_neither_followed_nor_removed(tmp_path: Path) -> None:
    uploads, outside = tmp_path / "uploads", tmp_path / "outside"
    uploads.mkdir()
    outside.mkdir()
    precious = made(outside, "upload_precious", 9 * HOUR_S)
    (uploads / "upload_file_trap").symlink_to(precious)
    (uploads / "upload_folder_trap").symlink_to(outside)
    (uploads / "upload_dangling").symlink_to(tmp_path / "nowhere")
    for trap in uploads.iterdir():
        os.utime(trap, (0, 0), follow_symlinks=False)
    assert await swept(uploads) == ["upload_dangling", "upload_file_trap", "upload_folder_trap"]
    assert precious.read_bytes() == b"x"


async def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = made(outside, "upload_precious", 9 * HOUR_S)
    (tmp_path / "uploads").symlink_to(outside)
    with pytest.raises(OSError, match="uploads"):
        await sweep_uploads(tmp_path / "uploads", age_s=HOUR_S, removed_max=10)
    assert precious.exists()


def test_a_file_that_was_replaced_or_written_to_meanwhile_is_kept(tmp_path: Path) -> None:
    made(tmp_path, "upload_a", 2 * HOUR_S)
    made(tmp_path, "upload_b", 2 * HOUR_S)
    with scratch.opened(tmp_path) as folder:
        assert folder is not None
        first, second = sorted(folder.entries(), key=lambda entry: entry.name)
        (tmp_path / "upload_a").unlink()
        (tmp_path / "upload_a").symlink_to(tmp_path / "upload_b")
        (tmp_path / "upload_b").write_bytes(b"more")
        assert not folder.remove(first)
        assert not folder.remove(second)
    assert (tmp_path / "upload_b").read_bytes() == b"more"


async def test_a_sweep_is_bounded_and_takes_the_oldest_first(tmp_path: Path) -> None:
    for hours in range(2, 8):
        made(tmp_path, f"upload_{hours}", hours * HOUR_S)
    assert await swept(tmp_path, removed_max=4) == ["upload_2", "upload_3"]
    assert await swept(tmp_path, removed_max=4) == []


async def test_a_file_that_somebody_uses_is_kept_however_old(tmp_path: Path) -> None:
    for name in ("upload_open", "upload_locked", "upload_nobodys"):
        made(tmp_path, name, 9 * HOUR_S)
    # A reader does not change the time of a file; and it may read for hours.
    reader = "import sys, time; file = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", reader, str(tmp_path / "upload_open")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with (tmp_path / "upload_locked").open() as locked:
            fcntl.flock(locked, fcntl.LOCK_SH)
            assert await swept(tmp_path) == ["upload_locked", "upload_open"]
    finally:
        process.kill()
        process.communicate()
    assert await swept(tmp_path) == []  # the control: nothing else kept them


async def test_a_dry_run_removes_nothing(tmp_path: Path) -> None:
    made(tmp_path, "upload_old", 9 * HOUR_S)
    await sweep_uploads(tmp_path, age_s=HOUR_S, removed_max=10, dry=True)
    assert names(tmp_path) == ["upload_old"]


async def test_no_folder_is_nothing_to_sweep(tmp_path: Path) -> None:
    await sweep_uploads(tmp_path / "uploads", age_s=HOUR_S, removed_max=10)


async def test_what_is_removed_is_counted(tmp_path: Path) -> None:
    before = REGISTRY.get_sample_value("janitor_removed_bytes_total") or 0.0
    made(tmp_path, "upload_a", 2 * HOUR_S, b"12345")
    await swept(tmp_path)
    assert REGISTRY.get_sample_value("janitor_removed_bytes_total") == before + 5


ENTRIES = st.lists(
    st.builds(
        Entry,
        name=st.sampled_from(["upload_", "upload_1", "other", "up"]),
        inode=st.integers(0, 9),
        regular=st.booleans(),
        modified_s=st.floats(0, 20_000),
        size_bytes=st.just(1),
    )
)


@given(ENTRIES, st.floats(0, 20_000), st.integers(0, 5))
def test_only_old_regular_uploads_are_ever_chosen(entries: list[Entry], now_s: float, most: int) -> None:
    chosen = left_over(entries, now_s=now_s, age_s=HOUR_S, most=most)
    assert len(chosen) <= most
    assert all(e.regular and e.name.startswith("upload_") and now_s - e.modified_s > HOUR_S for e in chosen)
    assert chosen == sorted(chosen, key=lambda entry: (entry.modified_s, entry.name))
