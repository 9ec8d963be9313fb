"""What holds for every command: data for programs, no colours where none are wanted, completion, the microphone."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from verbatim_client.cli import microphones
from verbatim_client.cli.app import HELP, application
from verbatim_client.cli.audio import Audio
from verbatim_client.cli.edge import CliError, Exit

from dev.settings import ROOT

pytestmark = pytest.mark.req("R-UI-2")

# What they print is a file, a program, or what another program says.
WITHOUT_JSON = {"export", "completion", "backup", "verify", "restore"}


def commands() -> Iterator[tuple[str, set[str]]]:
    """Give every command with its options."""

    def below(command: object, name: str) -> Iterator[tuple[str, set[str]]]:
        for part, inner in getattr(command, "commands", {}).items():
            yield from below(inner, f"{name} {part}".strip())
        if not hasattr(command, "commands"):
            yield name, {option for one in command.params for option in one.opts}  # type: ignore[attr-defined]

    yield from below(typer.main.get_command(application()), "")


def cli(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "verbatim_client", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "VERBATIM_URL": "http://127.0.0.1:9", **env},
    )  # fmt: skip


def test_every_command_that_has_data_gives_it_as_json() -> None:
    known = dict(commands())
    assert len(known) > 40
    assert {name for name, options in known.items() if "--json" not in options} == WITHOUT_JSON


def test_the_exit_codes_are_documented_where_people_look() -> None:
    guide = (ROOT / "docs/sdk.md").read_text(encoding="utf-8")
    for code in Exit:
        assert re.search(rf"\b{code.value} \w", HELP.replace("\n", " ")), code
        assert f"| {code.value} |" in guide, code


def test_shells_complete_commands_and_options() -> None:
    for shell, told in (("bash", "complete -o default"), ("zsh", "#compdef verbatim"), ("fish", "complete --command")):
        assert told in cli("completion", shell).stdout
    asked = {"_VERBATIM_COMPLETE": "complete_bash", "COMP_WORDS": "verbatim st", "COMP_CWORD": "1"}
    assert cli(**asked).stdout.split() == ["stream"]


def test_the_version_is_told_without_a_command() -> None:
    told = cli("--version")
    assert (told.returncode, told.stdout.strip()) == (0, "unreleased")


def test_bash_takes_the_completion() -> None:
    script = cli("completion", "bash").stdout + "\ncomplete -p verbatim\n"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "-F _verbatim_completion verbatim" in done.stdout) == (0, True)


def test_without_colours_there_are_none() -> None:
    told = cli("list", "--help", NO_COLOR="1", FORCE_COLOR="1")
    assert told.returncode == 0
    assert "\x1b" not in told.stdout + told.stderr


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only recorder says its arguments, then a second of sound, and goes on until it is ended."""
    program = tmp_path / "arecord"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho $$ > {tmp_path}/pid\n'
        "/usr/bin/head -c 32000 /dev/zero | /usr/bin/tr '\\0' 'a'\nexec /bin/sleep 600\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


async def test_the_microphone_is_what_a_recorder_of_the_machine_hears(recorder: Path) -> None:
    with microphones.listening("hw:1") as source:
        audio = Audio(source, microphones.RATE_HZ, 1)
        assert not audio.is_over
        heard = b""
        stop = asyncio.Event()
        async for frame in audio.frames(stop):
            heard += frame
            if len(heard) == 32_000:
                stop.set()
                break
    assert heard == b"a" * 32_000
    assert (recorder / "arguments").read_text().split()[0] == "--device=hw:1"
    with pytest.raises(ProcessLookupError):
        os.kill(int((recorder / "pid").read_text()), 0)


def test_a_machine_without_a_recorder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CliError, match="install pulseaudio-utils"), microphones.listening():
        pass


def test_a_microphone_that_gives_nothing_is_told_before_a_meeting_is_made(recorder: Path) -> None:
    (recorder / "arecord").write_text("#!/bin/sh\nexit 1\n")
    done = cli("stream", "--microphone", VERBATIM_TOKEN="vbk_1")
    assert (done.returncode, done.stderr) == (1, "error: the microphone gives nothing\n")


def test_a_source_has_to_be_named_and_only_one() -> None:
    for arguments in ((), ("meeting.wav", "--microphone")):
        assert cli("stream", *arguments, VERBATIM_TOKEN="vbk_1").returncode == Exit.USAGE
