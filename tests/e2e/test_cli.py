"""The `verbatim` command as a process, against the whole platform."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import struct
import sys
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import psycopg
import pytest
import pytest_asyncio

from chassis import dead_letters, ids
from dev.people import ADMIN
from dev.ports import Ports
from dev.stack import Stack
from tests.corpus import recordings as make
from tests.e2e.conftest import PASSWORD, NewClient
from tests.e2e.speech import ASSETS, Message, closing, plain, recording

pytestmark = pytest.mark.req("R-UI-2")

WITHIN_S = 90.0
NOWHERE = "018f0000-0000-7000-8000-000000000000"
REQUEST_ID = re.compile(r"request [\w-]{8,}\)")


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[Message]:
        return [json.loads(line) for line in self.lines]

    @property
    def error(self) -> str:
        """The one line that tells what went wrong."""
        assert self.out == ""
        assert self.err.count("\n") == 1 and self.err.startswith("error: "), self.err
        return self.err


class Cli:
    """One person's command line, with a home of its own."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.config = home / ".config"
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("VERBATIM_")}
        self._env |= {"HOME": str(home), "XDG_CONFIG_HOME": str(self.config), "VERBATIM_URL": url}

    async def start(self, *arguments: str, **env: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "verbatim_client", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._env | env,
        )

    async def run(self, *arguments: str, given: bytes = b"", **env: str) -> Result:
        process = await self.start(*arguments, **env)
        return await ended(process, given)

    async def login(self, email: str) -> Result:
        return await self.run("login", "--email", email, "--password-stdin", given=f"{PASSWORD}\n".encode())


async def ended(process: asyncio.subprocess.Process, given: bytes = b"") -> Result:
    try:
        async with asyncio.timeout(WITHIN_S):
            out, err = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


@dataclass(frozen=True)
class Person:
    """Somebody with an account and a command line."""

    cli: Cli
    email: str


@pytest_asyncio.fixture(loop_scope="session")
async def person(stack: Stack, new_client: NewClient, tmp_path: Path) -> Person:
    email = str((await (await new_client()).me())["email"])
    return Person(Cli(stack.url, tmp_path), email)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def meeting(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, str, Result]:
    """A meeting's end, spoken once through the command line: the person's, the meeting's id, and what came out."""
    from verbatim_client import VerbatimClient  # noqa: PLC0415

    async with VerbatimClient(stack.url) as client:
        await client.register("cli@verbatim.example", "cli", PASSWORD)
    cli = Cli(stack.url, tmp_path_factory.mktemp("home"))
    assert (await cli.login("cli@verbatim.example")).code == 0
    file = tmp_path_factory.mktemp("spoken") / "closing.wav"
    file.write_bytes(make.wav(closing()))
    result = await cli.run("stream", str(file), "--speed", "6", "--title", "Weekly", "--speaker", "Ada", "--json")
    assert result.code == 0, result.err
    return cli, str(result.objects[-1]["meeting_id"]), result


async def test_login_keeps_tokens_that_only_the_person_can_read(person: Person) -> None:
    result = await person.cli.login(person.email)
    assert (result.code, result.out) == (0, "")
    kept = person.cli.config / "verbatim" / "logins.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert PASSWORD not in kept.read_text()
    assert person.email in (await person.cli.run("whoami")).out
    assert (await person.cli.run("logout")).code == 0
    assert (await person.cli.run("whoami")).code == 3


async def test_a_wrong_password_is_told_with_the_request(person: Person) -> None:
    result = await person.cli.run("login", "--email", person.email, "--password-stdin", given=b"wrong password\n")
    assert result.code == 3
    assert "unauthorized" in result.error and REQUEST_ID.search(result.error)


async def test_an_access_token_that_ended_is_renewed_and_kept_by_all_commands_at_once(person: Person) -> None:
    """A refresh token is good once: five commands that find an old access token must not end the login."""
    await person.cli.login(person.email)
    kept = person.cli.config / "verbatim" / "logins.json"
    content = json.loads(kept.read_text())
    old = content["logins"][person.cli.url]
    old["access_token"] = "ended"
    kept.write_text(json.dumps(content))
    results = await asyncio.gather(*(person.cli.run("whoami", "--json") for _ in range(5)))
    assert [result.code for result in results] == [0] * 5, [result.err for result in results]
    renewed = json.loads(kept.read_text())["logins"][person.cli.url]
    assert renewed["access_token"] != "ended" and renewed["refresh_token"] != old["refresh_token"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


async def test_a_token_from_the_environment_needs_no_login(stack: Stack, new_client: NewClient, tmp_path: Path) -> None:
    client = await new_client()
    assert client.access_token is not None
    cli = Cli(stack.url, tmp_path)
    result = await cli.run("whoami", "--json", VERBATIM_TOKEN=client.access_token)
    assert result.objects == [await client.me()]
    assert not (cli.config / "verbatim").exists()


async def test_a_token_goes_only_to_the_platform_that_gave_it(person: Person, tmp_path: Path) -> None:
    await person.cli.login(person.email)
    result = await person.cli.run("--url", "http://127.0.0.1:9", "list")
    assert result.code == 3 and "http://127.0.0.1:9" in result.error
    without_name = Cli(person.cli.url, tmp_path)
    result = await without_name.run("whoami", VERBATIM_URL="")
    assert result.code == 0, "the platform of the last login is the one that is meant"


async def test_streaming_tells_events_and_accounts_as_json(meeting: tuple[Cli, str, Result]) -> None:
    _, meeting_id, result = meeting
    kinds = [event["type"] for event in result.objects]
    assert kinds[0] == "started" and kinds[-1] == "finished"
    assert not {"ack", "partial", "pong"} & set(kinds)
    assert "resume_token" not in result.out
    finished = result.objects[-1]
    assert finished["audio_seconds"] == pytest.approx(len(closing()) / 32_000)
    assert (finished["coverage"], finished["gap_seconds"]) == (1.0, 0)
    segments = [event for event in result.objects if event["type"] == "segment"]
    assert len(segments) == finished["segments"] > 5
    assert {event["speaker"] for event in segments} == {"Ada"}
    assert result.err == ""
    assert meeting_id == result.objects[0]["meeting_id"]


async def test_what_was_said_is_listed_found_shown_and_exported(meeting: tuple[Cli, str, Result]) -> None:
    cli, meeting_id, spoken = meeting
    texts = [event["text"] for event in spoken.objects if event["type"] == "segment"]
    listed = await cli.run("list")
    assert [line.split("\t")[0] for line in listed.lines] == [meeting_id]
    assert listed.lines[0].split("\t")[-1] == "Weekly"
    assert [row["id"] for row in (await cli.run("list", "--json", "--limit", "1")).objects] == [meeting_id]
    assert (await cli.run("list", "--status", "completed")).out == listed.out
    assert await cli.run("list", "--status", "failed") == Result(0, "", "")
    assert "status" in (await cli.run("list", "--status", "asleep")).error
    assert (await cli.run("search", "budget")).out.startswith(meeting_id)
    assert (await cli.run("search", "xylophone")) == Result(0, "", "")
    shown = (await cli.run("show", meeting_id)).out
    assert "Weekly" in shown and all(text in shown for text in texts)
    as_json = (await cli.run("show", meeting_id, "--json")).objects
    assert [part.get("text") for part in as_json] == [None, *texts]
    for format_ in ("txt", "md", "srt", "vtt", "json"):
        exported = (await cli.run("export", meeting_id, "--format", format_)).out
        assert all(plain(text) in plain(exported) for text in texts), format_
    target = cli.config / "out.srt"
    result = await cli.run("export", meeting_id, "-f", "srt", "-o", str(target))
    assert (result.code, result.out) == (0, "")
    assert target.read_text() == (await cli.run("export", meeting_id, "-f", "srt")).out


async def test_a_meeting_that_is_over_is_watched_to_its_end(meeting: tuple[Cli, str, Result]) -> None:
    cli, meeting_id, spoken = meeting
    texts = [event["text"] for event in spoken.objects if event["type"] == "segment"]
    watched = await cli.run("watch", meeting_id, "--json")
    assert watched.code == 0, watched.err
    assert [event["text"] for event in watched.objects if event["type"] == "segment"] == texts
    assert watched.objects[-1]["type"] == "finished"


@pytest.mark.long
async def test_a_meeting_is_watched_while_it_is_spoken(person: Person) -> None:
    await person.cli.login(person.email)
    speaking = await person.cli.start("stream", "-", "--json", "--speed", "0")
    assert speaking.stdout is not None and speaking.stdin is not None
    speaking.stdin.write(recording(20))
    meeting_id = json.loads(await speaking.stdout.readline())["meeting_id"]
    watching = await person.cli.start("watch", meeting_id)
    assert watching.stdout is not None
    first = await watching.stdout.readline()
    assert re.match(rb"\d\d:\d\d  \w+", first), "it comes before the end of the audio"
    spoken = await ended(speaking)
    watched = await ended(watching)
    assert (spoken.code, watched.code) == (0, 0), spoken.err + watched.err
    told = [event for event in spoken.objects if event["type"] == "segment"]
    assert len(watched.lines) + 1 == len(told)
    assert "finished: segments" in watched.err


@pytest.mark.long
async def test_minutes_tasks_and_jobs_are_shown(meeting: tuple[Cli, str, Result]) -> None:
    cli, meeting_id, _ = meeting
    async with asyncio.timeout(WITHIN_S):
        while (minutes := (await cli.run("insights", meeting_id, "--json")).objects)[0]["status"] != "ready":
            pass
        while len(tasks := (await cli.run("tasks", "--meeting", meeting_id, "--json")).objects) < 3:
            pass
    shown = await cli.run("insights", meeting_id)
    assert minutes[0]["summary"][:40] in shown.out and "action items" in shown.out
    assert {task["meeting_id"] for task in tasks} == {meeting_id}
    open_tasks = (await cli.run("tasks", "--status", "open")).lines
    assert sorted(line.split("\t")[0] for line in open_tasks) == sorted(task["id"] for task in tasks)
    assert (await cli.run("tasks", "--status", "done")) == Result(0, "", "")
    job_id = (await cli.run("insights", meeting_id, "--again")).out.strip()
    job = await cli.run("jobs", "show", job_id, "--json")
    assert job.objects[0]["id"] == job_id and job.objects[0]["kind"] == "insights"
    assert job_id in (await cli.run("jobs", "show", job_id)).out
    while (await cli.run("jobs", "show", job_id, "--json")).objects[0]["status"] != "completed":
        pass
    assert (await cli.run("jobs", "cancel", job_id)).code == 1


@pytest.mark.long
@pytest.mark.req("R-JOB-2")
async def test_dead_letters_are_listed_shown_retried_and_discarded_by_admins(person: Person, stack: Stack) -> None:
    await person.cli.login(person.email)
    refused = await person.cli.run("dlq", "list")
    assert refused.code == 1 and "forbidden" in refused.error
    with psycopg.connect(stack.database_url("meetings").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("UPDATE accounts SET role = 'admin' WHERE email = %s", [person.email])
    await person.cli.login(person.email)
    broker = await nats.connect(stack.plan.nats_url)
    try:
        for kind in ("strange", "strange", "event.insights"):
            one = dead_letters.letter(
                ids.new_id(), kind=kind, subject="events.meeting.unheard_of", payload=b"{}", error="It cannot be read."
            )
            await broker.jetstream().publish(one.subject, one.payload, headers={"ce-id": one.id})
    finally:
        await broker.close()
    letters = (await person.cli.run("dlq", "list", "--kind", "strange", "--json")).objects
    assert [letter["error"] for letter in letters] == ["It cannot be read."] * 2
    shown = await person.cli.run("dlq", "show", letters[0]["id"])
    assert "events.meeting.unheard_of" in shown.out
    assert (await person.cli.run("dlq", "retry", letters[0]["id"])).code == 0
    assert (await person.cli.run("dlq", "discard", letters[1]["id"])).code == 0
    assert (await person.cli.run("dlq", "show", letters[1]["id"])).code == 4
    assert (await person.cli.run("dlq", "retry")).code == 2
    assert "1 on their way" in (await person.cli.run("dlq", "retry", "--all", "--kind", "event.insights")).err
    assert (await person.cli.run("dlq", "list", "--kind", "strange")) == Result(0, "", "")


@pytest.mark.req("R-HEAL-1", "R-RL-1")
async def test_switches_are_set_for_a_while_listed_with_who_and_why_and_given_back(
    stack: Stack, tmp_path: Path
) -> None:
    cli = Cli(stack.url, tmp_path)
    given = f"{ADMIN.password}\n".encode()
    assert (await cli.run("login", "--email", ADMIN.email, "--password-stdin", given=given)).code == 0
    done = await cli.run("admin", "controls", "set", "feature.partials", "off", "--for", "30m", "--why", "The drill")
    assert (done.code, done.err) == (0, "feature.partials is off for 1800 s\n")
    listed = (await cli.run("admin", "controls", "list", "--json")).objects
    [control] = [one for one in listed if one["name"] == "feature.partials"]
    assert (control["value"], control["why"], bool(control["who"] and control["until"])) == ("off", "The drill", True)
    assert (await cli.run("admin", "controls", "unset", "feature.partials", "--why", "over")).code == 0
    assert "feature.partials" not in (await cli.run("admin", "controls", "list")).out
    wrong = await cli.run("admin", "controls", "set", "rate_limits", "furious", "--why", "x")
    assert (wrong.code, "validation_failed" in wrong.error) == (1, True)
    assert (await cli.run("admin", "controls", "set", "a", "b", "--why", "x", "--for", "soon")).code == 2


@pytest.mark.long
async def test_captions_are_data_and_accounts_are_messages(person: Person) -> None:
    await person.cli.login(person.email)
    result = await person.cli.run("stream", "-", "--speed", "0", "--title", "Piped", given=recording(15))
    assert result.code == 0
    assert result.lines and all(re.match(r"\d\d:\d\d  \S", line) for line in result.lines)
    assert "\x1b" not in result.out + result.err
    assert re.search(r"finished: segments \d+, audio seconds 15,.* coverage 1", result.err)


async def test_ctrl_c_ends_the_audio_and_keeps_the_rest(person: Person) -> None:
    """Stdin stays open and silent, as a microphone's pipe does."""
    await person.cli.login(person.email)
    process = await person.cli.start("stream", "-", "--json")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(recording(2))
    assert json.loads(await process.stdout.readline())["type"] == "started"
    # What is read is spoken at once or within its length; then the platform says how it serves the session.
    while json.loads(await process.stdout.readline())["type"] != "status":
        pass
    process.send_signal(signal.SIGINT)
    out = await process.stdout.read()
    async with asyncio.timeout(WITHIN_S):
        assert await process.wait() == 0
    finished = json.loads(out.splitlines()[-1])
    assert finished["type"] == "finished" and finished["gap_seconds"] == 0


@pytest.mark.long
async def test_a_second_ctrl_c_leaves_at_once(person: Person) -> None:
    await person.cli.login(person.email)
    process = await person.cli.start("stream", str(ASSETS / "meeting.wav"), "--speed", "0", "--json")
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(await process.stdout.readline())["type"] == "started"
    process.send_signal(signal.SIGINT)
    assert b"finishing" in await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    result = await ended(process)
    if '"finished"' not in result.out:
        assert result.code == 130
        assert result.err.startswith("error: left before the end")


async def test_each_way_to_fail_has_its_code_and_one_line(person: Person, tmp_path: Path) -> None:
    cli = person.cli
    assert "login" in (await cli.run("list")).error
    assert (await cli.run("list")).code == 3
    await cli.login(person.email)
    for command in (["show", NOWHERE], ["export", NOWHERE], ["insights", NOWHERE], ["watch", NOWHERE]):
        result = await cli.run(*command)
        assert result.code == 4, command
        assert "not_found" in result.error and REQUEST_ID.search(result.error)
    result = await cli.run("jobs", "show", NOWHERE)
    assert result.code == 4 and "not_found" in result.error
    result = await cli.run("stream", str(ASSETS / "meeting.wav"), "--meeting", NOWHERE)
    assert result.code == 4 and "not_found" in result.error and REQUEST_ID.search(result.error)
    assert (await cli.run("stream", str(tmp_path / "none.wav"))).code == 1
    for wrong in (["nonsense"], ["export", NOWHERE, "--format", "docx"], ["stream"], ["list", "--limit", "0"]):
        result = await cli.run(*wrong)
        assert (result.code, result.out) == (2, ""), wrong


async def test_a_platform_that_is_not_there_is_5(person: Person) -> None:
    nobody = f"http://127.0.0.1:{Ports.free().of('nobody')}"
    for command in (["list"], ["stream", str(ASSETS / "meeting.wav")], ["watch", NOWHERE]):
        result = await person.cli.run(*command, VERBATIM_URL=nobody, VERBATIM_TOKEN="any")
        assert result.code == 5, command
        assert "cannot be reached" in result.error


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"ID3\x04" + bytes(100), "neither WAV nor raw PCM"),
        (
            b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 3, 1, 16000, 64000, 4, 32),
            "16-bit",
        ),
        (b"RIFF" + struct.pack("<I", 4) + b"WAVE", "no audio"),
    ],
    ids=["mp3", "float", "empty"],
)
async def test_audio_that_is_none_is_refused_before_anything_is_sent(
    person: Person, tmp_path: Path, content: bytes, complaint: str
) -> None:
    await person.cli.login(person.email)
    (tmp_path / "audio").write_bytes(content)
    result = await person.cli.run("stream", str(tmp_path / "audio"))
    assert result.code == 1 and complaint in result.error
    assert (await person.cli.run("list")).out == ""


async def test_a_rate_that_the_platform_does_not_take_is_told_by_field(person: Person, tmp_path: Path) -> None:
    await person.cli.login(person.email)
    path = tmp_path / "cd.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(bytes(44_100 * 4))
    result = await person.cli.run("stream", str(path))
    assert result.code == 1
    assert "validation_failed" in result.error and re.search(r"sample_rate|channels", result.error)


@pytest.mark.long
async def test_a_reader_that_goes_away_is_no_crash(meeting: tuple[Cli, str, Result]) -> None:
    cli, meeting_id, _ = meeting
    process = await cli.start("show", meeting_id, "--json")
    assert process.stdout is not None
    transport: Any = process.stdout._transport  # type: ignore[attr-defined]
    transport.close()
    async with asyncio.timeout(WITHIN_S):
        await process.wait()
    assert process.stderr is not None
    assert b"Traceback" not in await process.stderr.read()
