"""What the command line is made of: audio from pipes, captions on terminals, logins in files. Whole: tests/e2e."""

from __future__ import annotations

import asyncio
import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from verbatim_client.cli.app import application
from verbatim_client.cli.audio import Audio
from verbatim_client.cli.captions import ERASE_LINE, Captions
from verbatim_client.cli.edge import CliError
from verbatim_client.cli.logins import Login, Logins
from verbatim_client.cli.minutes import minutes_lines, task_lines
from verbatim_client.cli.printing import plain

pytestmark = pytest.mark.req("R-UI-2")

SPEECH = bytes(range(256)) * 50


@contextmanager
def piped(content: bytes) -> Iterator[int]:
    """Give the reading end of a pipe that somebody has written to and closed."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    try:
        yield reader
    finally:
        os.close(reader)


def wav(pcm: bytes, *, length: int | None = None, kind: int = 1, before: bytes = b"", rate: int = 8000) -> bytes:
    format_ = struct.pack("<HHIIHH", kind, 2, rate, rate * 4, 4, 16)
    chunks = before + b"fmt " + struct.pack("<I", len(format_)) + format_
    chunks += b"data" + struct.pack("<I", len(pcm) if length is None else length) + pcm
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


async def read(audio: Audio) -> list[bytes]:
    async with asyncio.timeout(5):
        return [frame async for frame in audio.frames(asyncio.Event())]


@pytest.mark.parametrize(
    "content",
    [
        wav(SPEECH),
        wav(SPEECH, length=0xFFFFFFFF),
        wav(SPEECH, length=0),
        wav(SPEECH, kind=0xFFFE),
        wav(SPEECH, before=b"LIST" + struct.pack("<I", 3) + b"abc\0"),
        wav(SPEECH) + b"LIST" + struct.pack("<I", 4) + b"tail",
    ],
    ids=["plain", "unknown length", "no length", "extensible", "another chunk before", "another chunk behind"],
)
async def test_a_wav_file_is_its_audio_and_nothing_else(content: bytes) -> None:
    with piped(content) as source:
        audio = Audio(source, 16_000, 1)
        assert (audio.sample_rate, audio.channels, audio.bytes_per_second) == (8000, 2, 32_000)
        frames = await read(audio)
    assert b"".join(frames) == SPEECH
    assert {len(frame) for frame in frames[:-1]} == {3200}


@pytest.mark.parametrize("rest", [b"", b"x"])
async def test_raw_audio_begins_with_its_first_byte_and_ends_with_a_whole_sample(rest: bytes) -> None:
    with piped(SPEECH + rest) as source:
        assert b"".join(await read(Audio(source, 16_000, 1))) == SPEECH


async def test_a_silent_pipe_is_left_when_asked() -> None:
    reader, writer = os.pipe()
    os.write(writer, SPEECH[:6400])
    stop = asyncio.Event()
    frames = []
    async with asyncio.timeout(5):
        async for frame in Audio(reader, 16_000, 1).frames(stop):
            frames.append(frame)
            if len(frames) == 2:
                stop.set()
    assert b"".join(frames) == SPEECH[:6400]
    os.close(writer)  # which ends the reading thread; the reading end stays its own


async def test_a_source_that_breaks_is_an_error_not_an_end(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, SPEECH[:12])
    audio = Audio(reader, 16_000, 1)
    folder = os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, reader)
    with pytest.raises(IsADirectoryError):
        await read(audio)
    for descriptor in (reader, writer, folder):
        os.close(descriptor)


@pytest.mark.parametrize("content", [b"OggS" + bytes(50), b"\0\0\0\x20ftypM4A " + bytes(50), wav(b"", kind=3)])
def test_what_is_no_pcm_is_not_sent_as_noise(content: bytes) -> None:
    with piped(content) as source, pytest.raises(CliError, match="convert it first"):
        Audio(source, 16_000, 1)


class Terminal(io.StringIO):
    """A console that people look at."""

    def isatty(self) -> bool:
        return True


def show(messages: io.StringIO) -> str:
    out = io.StringIO()
    captions = Captions(out, messages)
    captions.show({"type": "partial", "text": "good mor"})
    captions.show({"type": "segment", "start": 61.5, "text": "Good morning.", "speaker": "Ada", "quality": "draft"})
    captions.show({"type": "revised", "start": 61.5, "text": "Good morning!", "speaker": None})
    captions.show({"type": "gap", "start": 70.0, "end": 75.0, "reason": "client_missing"})
    captions.show({"type": "disconnected", "reason": "moving", "retry_in_s": 2.0})
    return out.getvalue()


def test_captions_are_one_line_each_and_partials_are_for_terminals() -> None:
    elsewhere, terminal = io.StringIO(), Terminal()
    captions = "01:01  Ada: Good morning.  (draft)\n01:01  (revised) Good morning!\n"
    captions += "01:10  (missing until 01:15: client_missing)\n"
    assert show(elsewhere) == show(terminal) == captions
    assert elsewhere.getvalue() == "       (connection lost, trying again in 2 s: moving)\n"
    assert terminal.getvalue().startswith(f"{ERASE_LINE}  ...  good mor{ERASE_LINE}")


def test_what_was_said_cannot_steer_the_terminal() -> None:
    assert plain("a\x1b[2Jb\u202ec\nd") == "a [2Jb c d"
    out = io.StringIO()
    Captions(out, io.StringIO()).show({"type": "segment", "start": 0, "text": "\x1b]0;owned\x07hello\r\n"})
    assert out.getvalue() == "00:00  ]0;owned hello\n"
    assert "\x1b" not in "".join(minutes_lines({"summary": "\x1b[31mred", "decisions": [{"text": "\x1b[0m"}]}))


def test_minutes_and_tasks_read_as_lists() -> None:
    minutes = {"summary": "All well.", "quality": "draft", "engine": "extract", "decisions": [{"text": "Ship."}]}
    assert minutes_lines(minutes) == ["summary (draft, extract)", "  All well.", "", "decisions", "  - Ship."]
    tasks: list[dict[str, Any]] = [
        {"title": "Write", "assignee": "Ada", "due": None, "status": "done"},
        {"title": "Read", "status": "open"},
    ]
    assert task_lines(tasks) == ["  [x] Write (assignee: Ada)", "  [ ] Read"]


async def test_logins_are_kept_by_platform(tmp_path: Path) -> None:
    logins = Logins(tmp_path / "config")
    first, second = Login("a@b.example", "at1", "rt1"), Login("a@b.example", "at2", "rt2")
    async with logins.locked():
        logins.keep("http://one", first)
        logins.keep("http://two", second)
    assert (logins.at("http://one"), logins.at("http://two"), logins.at("http://three")) == (first, second, None)
    assert logins.current_url() == "http://two"
    async with logins.locked():
        logins.forget("http://two")
    assert (logins.current_url(), logins.at("http://two")) == ("http://one", None)
    assert sorted(path.name for path in (tmp_path / "config").iterdir()) == ["logins.json", "logins.lock"]


async def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    order: list[str] = []

    async def second() -> None:
        async with Logins(tmp_path).locked():
            order.append("second")

    async with asyncio.timeout(5), logins.locked():
        waiting = asyncio.create_task(second())
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        order.append("first")
    await waiting
    assert order == ["first", "second"]


def test_damaged_logins_are_told(tmp_path: Path) -> None:
    (tmp_path / "logins.json").write_text("{")
    with pytest.raises(CliError, match="damaged"):
        Logins(tmp_path).at("http://one")


def test_every_command_tells_what_it_does() -> None:
    runner, app = CliRunner(), application()
    top = runner.invoke(app, ["--help"])
    assert "Exit codes: 0 ok, 1 failed" in " ".join(top.output.split())
    commands = "login logout whoami stream watch list search show export tasks insights analytics"
    for command in commands.split():
        told = runner.invoke(app, [command, "--help"])
        assert told.exit_code == 0 and command in top.output, command
        assert ("--json" in told.output) == (command != "export"), command
