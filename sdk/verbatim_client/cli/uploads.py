"""`verbatim upload`: a recording becomes a meeting; what breaks off goes on with the same command."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from verbatim_client.cli.edge import CliError, run
from verbatim_client.cli.logins import logged_in
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import Json, note, print_facts, print_json
from verbatim_client.cli.settings import CliSettings

KINDS = "mp3, wav, ogg, webm, mp4 or m4a."
UPLOAD_FACTS = ("job_id", "meeting_id", "status")


def upload(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="mp3, wav, ogg, webm, mp4 or m4a.")
    ],
    title: Annotated[str | None, typer.Option(help="Of the new meeting; the file's name if not given.")] = None,
    meeting: Annotated[str | None, typer.Option(metavar="MEETING", help="Add it to this meeting instead.")] = None,
    language: Annotated[str | None, typer.Option(help="Such as en; recognised if not given.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is transcribed.")] = False,
    json_lines: JsonLines = False,
) -> None:
    """Upload a recording. One that was broken off goes on where it stopped when the command is given again."""
    if meeting is not None and title is not None:
        raise typer.BadParameter("a meeting that is there has its title", param_hint="--title")
    given = (("title", title), ("meeting_id", meeting), ("language", language))
    fields = {name: value for name, value in given if value}
    run(_upload(ctx.obj, file, fields, wait=wait, json_lines=json_lines))


async def _upload(settings: CliSettings, file: Path, fields: dict[str, str], *, wait: bool, json_lines: bool) -> None:
    async with logged_in(settings) as client:
        begun = BegunUploads(settings.folder)
        key = _key(client.base_url, file, fields)
        place = begun.place(key)
        if place is not None:
            note("going on with an upload that was broken off")
        with _bar("sending") as show:
            done = await client.upload(
                file, progress=show, place=place, begun=lambda where: begun.keep(key, where), **fields
            )
        begun.forget(key)
        job: Json = {}
        if wait:
            with _bar("transcribing", bytes_=False) as show:
                job = await client.job_done(done["job_id"], progress=lambda now: show(int(now["progress"] * 100), 100))
    outcome = done | ({"status": job["status"]} if job else {})
    if json_lines:
        print_json(outcome)
    else:
        print_facts(UPLOAD_FACTS, outcome)
    if job and job["status"] != "completed":
        raise CliError(f"the recording was not transcribed: {job['error'] or job['status']}")


class BegunUploads:
    """The places where uploads go on, in a file of this person."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "uploads.json"

    def place(self, key: str) -> str | None:
        """Give where an upload goes on, if it was begun."""
        return self._read().get(key)

    def keep(self, key: str, place: str) -> None:
        """Keep where an upload goes on."""
        self._write(self._read() | {key: place})

    def forget(self, key: str) -> None:
        """Forget an upload that is over."""
        self._write({known: place for known, place in self._read().items() if known != key})

    def _read(self) -> dict[str, str]:
        # Without the file uploads begin anew, so whatever is wrong with it is no reason to stop.
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(self._file.read_text())
            if isinstance(content, dict):
                return content
        return {}

    def _write(self, content: dict[str, str]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(content))
        new.replace(self._file)


def _key(url: str, file: Path, fields: dict[str, str]) -> str:
    """Return what tells one upload from another: the platform, the file as it is now, what it is to become."""
    found = file.stat()
    told = [url, str(file.resolve()), found.st_size, found.st_mtime_ns, sorted(fields.items())]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@contextlib.contextmanager
def _bar(what: str, *, bytes_: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how far something is."""
    console = Console(stderr=True)
    amount = [DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
    share = [TextColumn("{task.percentage:>3.0f} %")]
    columns = [TextColumn("{task.description}"), BarColumn(), *(amount if bytes_ else share)]
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
