"""`verbatim stream`: speaking a recording, or whatever comes down a pipe, into a live session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from verbatim_client.cli import microphones
from verbatim_client.cli.audio import Audio
from verbatim_client.cli.captions import Captions
from verbatim_client.cli.edge import CliError, Exit, answered, run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import note, print_json
from verbatim_client.client import VerbatimClient
from verbatim_client.live import LiveSession
from verbatim_client.settings import LiveSettings, buffering_at
from verbatim_client.speaking import speak

FINISH_WITHIN_S = 120.0
LIVE_SPEED_MAX = 1.0
UNTOLD = frozenset({"ack", "partial", "pong"})


def stream(  # noqa: PLR0913, PLR0917 - these are the command's options
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(metavar="[FILE|-]", help="WAV or raw 16-bit PCM; - is stdin.")] = None,
    microphone: Annotated[bool, typer.Option("--microphone", "-m", help="Listen to the microphone instead.")] = False,
    device: Annotated[str | None, typer.Option(help="Of the microphone, as its recorder names it.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the new meeting; the file's name if not given.")] = None,
    meeting: Annotated[str | None, typer.Option(metavar="MEETING", help="Speak in this meeting instead.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Who speaks.")] = None,
    language: Annotated[str | None, typer.Option(help="Such as en; recognised if not given.")] = None,
    speed: Annotated[float, typer.Option(min=0.0, help="Multiple of real time; 0: as fast as it is taken.")] = 1.0,
    rate: Annotated[int, typer.Option(min=1, help="Samples per second of raw PCM.")] = 16_000,
    channels: Annotated[int, typer.Option(min=1, max=32, help="Channels of raw PCM.")] = 1,
    json_lines: JsonLines = False,
) -> None:
    """Speak audio into a live session; captions come out, one line each, and the accounts at the end.

    A microphone, and stdin at speed 1, are live: they are read on while there is no connection, and what cannot be kept
    becomes a declared gap. Ctrl-C ends the audio and waits for the rest; a second one leaves at once.
    """
    if (file is None) is not microphone:
        raise typer.BadParameter("name a file, - for stdin, or say --microphone", param_hint="FILE")
    name = "microphone" if file is None else "stdin" if file == "-" else os.path.basename(file)  # noqa: PTH119
    if meeting is not None and title is not None:
        raise typer.BadParameter("a meeting that is there has its title", param_hint="--title")
    with answered(), contextlib.ExitStack() as open_:
        client = logged_in(ctx.obj)
        if file is None:
            rate, channels, speed = microphones.RATE_HZ, 1, LIVE_SPEED_MAX
            source = open_.enter_context(microphones.listening(device))
        else:
            # The end of the process closes it: until then a thread may be reading.
            source = sys.stdin.fileno() if file == "-" else os.open(file, os.O_RDONLY)
        audio = Audio(source, rate, channels)
        if file is None and audio.is_over:
            raise CliError("the microphone gives nothing")
        recorder = open_.pop_all()
    wanted = LiveSettings(
        meeting_id=meeting,
        title=None if meeting else title or name,
        language=language,
        speaker=speaker,
        sample_rate=audio.sample_rate,
        channels=audio.channels,
    )
    show = _json_event if json_lines else Captions(sys.stdout, sys.stderr).show
    is_live = file is None or (file == "-" and 0.0 < speed <= LIVE_SPEED_MAX)
    with recorder:
        run(_stream(client, audio, wanted, speed or None, show, source_can_wait=not is_live))


async def _stream(
    client: VerbatimClient,
    audio: Audio,
    wanted: LiveSettings,
    speed: float | None,
    show: Callable[[dict[str, Any]], None],
    *,
    source_can_wait: bool,
) -> None:
    async with client:
        # A platform that is not there, and a login that has ended, are told at once: a session would try for a while.
        await client.me()
        session = client.live(wanted, buffering=buffering_at(speed))
        await _speak(session, audio, speed, show, source_can_wait=source_can_wait)


async def _speak(
    session: LiveSession,
    audio: Audio,
    speed: float | None,
    show: Callable[[dict[str, Any]], None],
    *,
    source_can_wait: bool,
) -> None:
    stop = asyncio.Event()
    with _interruptible(session, stop) as left:
        async with session:
            left.started()
            speaking = asyncio.create_task(
                speak(
                    session,
                    audio.frames(stop),
                    audio.bytes_per_second,
                    speed=speed,
                    finish_within_s=FINISH_WITHIN_S,
                    source_can_wait=source_can_wait,
                )
            )
            # Without this, a fault in speaking would leave the iteration below waiting.
            speaking.add_done_callback(lambda task: session.leave() if _failed(task) else None)
            try:
                async for event in session:
                    show(event)
                if session.finished is None and left.twice:
                    raise CliError("left before the end; the platform completes what it has", Exit.INTERRUPTED)
                await speaking
            finally:
                speaking.cancel()
                await asyncio.wait([speaking])
    if session.finished is None:
        raise CliError("the session ended without its accounts")


class _Interrupts:
    """Ctrl-C: before the session it ends the command, then the audio, then the session."""

    def __init__(self, session: LiveSession, stop: asyncio.Event, command: asyncio.Task[Any]) -> None:
        self.twice = False
        self._session = session
        self._stop = stop
        self._command = command
        self._speaking = False

    def started(self) -> None:
        self._speaking = True

    def interrupt(self) -> None:
        if not self._speaking:
            self._command.cancel()
        elif not self._stop.is_set():
            note("finishing; once more to leave at once")
            self._stop.set()
        else:
            self.twice = True
            self._session.leave()


@contextlib.contextmanager
def _interruptible(session: LiveSession, stop: asyncio.Event) -> Iterator[_Interrupts]:
    command = asyncio.current_task()
    assert command is not None
    interrupts = _Interrupts(session, stop, command)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupts.interrupt)
    try:
        yield interrupts
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _json_event(event: dict[str, Any]) -> None:
    if event["type"] not in UNTOLD:
        # Whoever has the resume token can take the session over: it does not belong into files and pipes.
        print_json({name: value for name, value in event.items() if name != "resume_token"})


def _failed(task: asyncio.Task[Any]) -> bool:
    return not task.cancelled() and task.exception() is not None
