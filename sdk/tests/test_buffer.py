"""Where unacknowledged audio is kept, and what becomes of it when there is no room. The rest: test_outbox_model.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from verbatim_client import Buffering
from verbatim_client.buffer import AudioBuffer
from verbatim_client.outbox import Outbox
from verbatim_client.spool import Spool
from verbatim_client.wire import FRAME_MAX_BYTES

KIB = 1024
FRAME = 16 * KIB


def buffer(folder: Path, disk_bytes: int) -> AudioBuffer:
    return AudioBuffer(Buffering(FRAME_MAX_BYTES, disk_bytes, folder))


def fill(audio: AudioBuffer) -> None:
    while not audio.write(bytes(FRAME)):
        pass


def drain(audio: AudioBuffer) -> list[tuple[int, int, bool]]:
    frames = []
    while audio.backlog_bytes:
        frame = audio.send_next()
        frames.append((frame.start, frame.end, frame.audio is None))
    return frames


def test_a_spool_is_a_ring_that_never_grows(tmp_path: Path) -> None:
    spool = Spool(10 * KIB, tmp_path)
    held: list[tuple[int, bytes]] = []
    for number in range(100):
        data = bytes([number]) * 3 * KIB
        place = spool.put(data)
        assert place is not None
        held.append((place, data))
        if len(held) == 3:
            assert spool.put(data) is None, "the fourth does not fit"
            place, data = held.pop(0)
            assert spool.get(place, len(data)) == data
            spool.forget_below(place + len(data))
    assert [descriptor.stat().st_size for descriptor in open_files_below(tmp_path)] == [10 * KIB]
    spool.close()
    assert open_files_below(tmp_path) == []


def open_files_below(folder: Path) -> list[Path]:
    """Find the files without a name that this process has open."""
    # The listing sees the descriptor that it lists with, which is gone afterwards.
    links = [link for fd in os.listdir("/proc/self/fd") if (link := Path("/proc/self/fd", fd)).is_symlink()]  # noqa: PTH208
    return [link for link in links if str(link.readlink()).startswith(str(folder))]


def test_a_file_of_recorded_speech_has_no_name(tmp_path: Path) -> None:
    audio = buffer(tmp_path, 64 * KIB)
    fill(audio)
    assert audio.spool.used_bytes == 64 * KIB
    assert list(tmp_path.iterdir()) == []
    audio.close()


def test_a_killed_process_leaves_no_audio_behind(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from verbatim_client.spool import Spool\n"
        "spool = Spool(1_000_000, pathlib.Path(sys.argv[1])); spool.put(b'secret' * 1000)\n"
        "print('kept', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"kept\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_makes_a_gap_not_an_end(tmp_path: Path) -> None:
    audio = buffer(tmp_path / "not there", 64 * KIB)
    fill(audio)
    assert isinstance(audio.spool.fault, FileNotFoundError)
    assert audio.dropped_bytes == FRAME
    assert drain(audio)[-1] == (FRAME_MAX_BYTES, FRAME_MAX_BYTES + FRAME, True)


def test_what_was_full_takes_audio_again_only_when_there_is_some_room(tmp_path: Path) -> None:
    """One gap of five minutes can be read; three thousand gaps of a tenth of a second cannot."""
    audio = buffer(tmp_path, 192 * KIB)
    fill(audio)
    audio.send_next()
    audio.acknowledge(FRAME)
    assert audio.write(bytes(FRAME)) == FRAME
    audio.send_next()
    audio.acknowledge(2 * FRAME)
    assert audio.write(bytes(FRAME)) == 0
    gaps = [(start, end) for start, end, is_gap in drain(audio) if is_gap]
    assert gaps == [(256 * KIB, 256 * KIB + 2 * FRAME)]
    audio.close()


def test_hours_of_backlog_are_few_pieces(tmp_path: Path) -> None:
    audio = buffer(tmp_path, 8 * KIB * KIB)
    while not audio.write(bytes(320)):
        pass
    assert audio.pieces < 500
    audio.close()


def test_a_message_keeps_its_place_among_audio_that_is_joined_on_disk(tmp_path: Path) -> None:
    audio = buffer(tmp_path, 64 * KIB)
    outbox = Outbox(audio)
    for _ in range(8):
        audio.write(bytes(8 * KIB))
    audio.write(bytes(KIB))
    outbox.say({"type": "finalize"})
    audio.write(bytes(KIB))
    generation = outbox.begin(0, 1_000_000)
    said = []
    while outbox.has_something(generation):
        said.append(outbox.next_message(generation))
    assert said[-2] == json.dumps({"type": "finalize"})
    assert [len(frame or "") for frame in (said[-3], said[-1])] == [KIB + 8, KIB + 8]
    audio.close()


@pytest.mark.parametrize("wrong", [{"memory_bytes": 1000}, {"disk_bytes": -1}, {"catch_up": 1.0}])
def test_what_cannot_work_is_refused_at_once(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Buffering(**wrong)  # type: ignore[arg-type]
