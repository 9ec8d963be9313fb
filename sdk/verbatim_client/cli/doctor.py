"""`verbatim doctor`: ordered checks, from the front door to a real transcription, each with what mends it.

The same command is the chart's `helm test`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib import resources
from typing import Annotated, Any

import httpx2
import typer

from verbatim_client.cli import probing
from verbatim_client.cli.edge import CliError, Exit, run
from verbatim_client.cli.findings import FIXES, Finding
from verbatim_client.cli.logins import logged_in, platform_url
from verbatim_client.cli.options import JsonLines
from verbatim_client.cli.printing import plain, print_json
from verbatim_client.cli.settings import CliSettings
from verbatim_client.cli.spans import seconds
from verbatim_client.client import VerbatimClient
from verbatim_client.errors import ApiError, StreamError
from verbatim_client.settings import LiveSettings
from verbatim_client.wire import Event

CHECK_WITHIN_S = 20.0
FINISHED_WITHIN_S = 60.0
CLOCK_APART_S_MAX = 30.0
# "We decided to move the launch of the website to September": 3.7 s, one synthetic voice.
SAMPLE = "sample.ogg"
SAMPLE_WORDS = frozenset(["we", "decided", "to", "move", "the", "launch", "of", "the", "website", "to", "september"])
WORDS_HEARD_MIN = 0.5
SAMPLE_S, SAMPLE_S_OFF = 3.7, 0.2

Faults = (ApiError, StreamError, CliError, httpx2.TransportError, TimeoutError, OSError)


class Doctor:
    """The checks, in an order in which the first that fails is the one to mend."""

    def __init__(self, settings: CliSettings, *, throwaway: bool) -> None:
        self._settings = settings
        self._throwaway = throwaway
        self._url = platform_url(settings)
        self._client: VerbatimClient | None = None
        self._meeting: str | None = None
        self._told_segments = 0

    async def findings(self, tell: Callable[[Finding], None]) -> list[Finding]:
        """Make every check; what needs one that failed is skipped."""
        checks: list[tuple[str, Callable[[], Awaitable[Finding]]]] = [
            ("gateway", self._gateway),
            ("readiness", self._readiness),
            ("account", self._account),
            ("clock", self._clock),
            ("parts", self._parts),
            ("transcription", self._transcription),
            ("storage", self._storage),
            ("clean-up", self._clean_up),
        ]
        made: list[Finding] = []
        broken = ""
        for name, check in checks:
            began = time.monotonic()
            if broken and not (name == "clean-up" and self._meeting):
                finding = Finding(name, "skipped", f"needs {broken}")
            else:
                try:
                    async with asyncio.timeout(CHECK_WITHIN_S + FINISHED_WITHIN_S):
                        finding = await check()
                except Faults as fault:
                    finding = Finding(name, "fail", _told(fault), FIXES[name])
            finding = Finding(**{**asdict(finding), "took_s": round(time.monotonic() - began, 3)})
            broken = name if finding.verdict == "fail" else broken
            made.append(finding)
            tell(finding)
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
        return made

    async def _gateway(self) -> Finding:
        async with httpx2.AsyncClient(base_url=self._url, timeout=CHECK_WITHIN_S) as http:
            answer = await http.get("/healthz")
        if answer.status_code != 200:
            return Finding("gateway", "fail", f"{self._url} answers {answer.status_code}", FIXES["gateway"])
        return Finding("gateway", "ok", self._url)

    async def _readiness(self) -> Finding:
        async with httpx2.AsyncClient(base_url=self._url, timeout=CHECK_WITHIN_S) as http:
            answer = await http.get("/readyz")
        if answer.status_code != 200:
            return Finding("readiness", "fail", "the gateway takes no work", FIXES["readiness"])
        return Finding("readiness", "ok", "takes work")

    async def _account(self) -> Finding:
        if self._throwaway:
            client = await VerbatimClient(self._url).__aenter__()
            self._client = client
            name, password = f"doctor-{secrets.token_hex(6)}", secrets.token_urlsafe(18)
            await client.register(f"{name}@example.com", name, password)
            await client.login(f"{name}@example.com", password)
            return Finding("account", "ok", "made for this check")
        self._client = logged_in(self._settings)
        me = await self._client.me()
        return Finding("account", "ok", plain(me.get("email")))

    async def _clock(self) -> Finding:
        issued_at = _issued_at(self._known.access_token or "")
        if issued_at is None:
            return Finding("clock", "skipped", "an API key tells no time")
        ahead_s = issued_at - time.time()
        if ahead_s > CLOCK_APART_S_MAX:
            return Finding(
                "clock", "warn", f"the platform's clock is {ahead_s:.0f} s ahead of this one", FIXES["clock"]
            )
        return Finding("clock", "ok", "not behind the platform's")

    async def _parts(self) -> Finding:
        try:
            told = await self._known.call("GET", "/readyz?verbose=true")
        except ApiError as fault:
            if fault.status in {401, 403, 404}:
                return Finding("parts", "skipped", "told to administrators only")
            raise
        faults = told.get("faults") or {}
        if faults:
            return Finding(
                "parts", "warn", ", ".join(f"{plain(k)}: {plain(v)}" for k, v in faults.items()), FIXES["parts"]
            )
        return Finding("parts", "ok", "nothing is missing")

    async def _transcription(self) -> Finding:
        sample = resources.files("verbatim_client.cli").joinpath(SAMPLE).read_bytes()
        settings = LiveSettings(title="verbatim doctor", encoding="ogg_opus", language="en", interim=False)
        events: list[Event] = []
        async with self._known.live(settings) as session:

            async def speak() -> None:
                await session.send(sample)
                await session.finish(within_s=FINISHED_WITHIN_S)

            speaking = asyncio.create_task(speak())
            speaking.add_done_callback(lambda task: session.leave() if _failed(task) else None)
            try:
                events = [event async for event in session]
                await speaking
            finally:
                speaking.cancel()
                await asyncio.wait([speaking])
        started = next((event for event in events if event["type"] == "started"), {})
        self._meeting = started.get("meeting_id")
        finished = session.finished or {}
        if finished.get("coverage") != 1.0:
            return Finding("transcription", "fail", f"coverage {finished.get('coverage')}", FIXES["transcription"])
        segments = [event for event in events if event["type"] == "segment"]
        self._told_segments = finished["segments"]
        if len(segments) != self._told_segments or abs(finished["audio_seconds"] - SAMPLE_S) > SAMPLE_S_OFF:
            told = f"{len(segments)} of {self._told_segments} segments came, {finished['audio_seconds']} s were heard"
            return Finding("transcription", "fail", told, FIXES["transcription"])
        heard = {word.strip(".,").lower() for segment in segments for word in segment["text"].split()}
        share = len(heard & SAMPLE_WORDS) / len(SAMPLE_WORDS)
        engines = ", ".join(sorted({plain(segment["engine"]) for segment in segments})) or "none"
        detail = f"{share:.0%} of the words heard, engine {engines}"
        if share < WORDS_HEARD_MIN:
            return Finding("transcription", "fail", detail, FIXES["transcription"])
        if any(segment["quality"] == "draft" for segment in segments):
            return Finding("transcription", "ok", f"{detail} (draft)")
        return Finding("transcription", "ok", detail)

    async def _storage(self) -> Finding:
        assert self._meeting is not None
        deadline = time.monotonic() + CHECK_WITHIN_S
        while True:
            try:
                if len(stored := await self._known.segments(self._meeting)) >= self._told_segments:
                    return Finding("storage", "ok", f"{len(stored)} segment(s) stored, as many as were told")
            except ApiError as fault:
                # The meeting appears with its first entry.
                if fault.status != 404 or time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                return Finding("storage", "fail", "the transcript is not in the database", FIXES["storage"])
            await asyncio.sleep(0.25)

    async def _clean_up(self) -> Finding:
        if self._meeting is None:
            return Finding("clean-up", "skipped", "nothing was made")
        meeting = await self._known.meeting(self._meeting)
        await self._known.delete_meeting(self._meeting, meeting["version"])
        if self._throwaway:
            try:
                await self._known.call("DELETE", "/api/auth/me")
            except ApiError as fault:
                if fault.status != 405:
                    raise
                return Finding("clean-up", "warn", "this platform keeps the account", FIXES["clean-up"])
        return Finding("clean-up", "ok", "nothing is left behind")

    @property
    def _known(self) -> VerbatimClient:
        assert self._client is not None
        return self._client


def doctor(
    ctx: typer.Context,
    throwaway: Annotated[
        bool, typer.Option("--throwaway", help="Make an account for the check, and delete it.")
    ] = False,
    json_lines: JsonLines = False,
    every: Annotated[
        str | None, typer.Option("--every", metavar="SPAN", help="Again and again, as every 5m, until it is ended.")
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="With --every: where Prometheus reads /metrics.")
    ] = "127.0.0.1:9109",
) -> None:
    """Check the platform from outside, down to a real transcription; exit 1 if something is broken."""
    tell = _as_json if json_lines else _as_line
    if every is None:
        run(_doctor(Doctor(ctx.obj, throwaway=throwaway), tell))
        return
    host, _, port = listen.rpartition(":")
    if not port.isdigit():
        raise typer.BadParameter("is written as 127.0.0.1:9109", param_hint="--listen")
    every_s = seconds(every, "--every")
    run(probing.keep(lambda: Doctor(ctx.obj, throwaway=throwaway).findings(tell), every_s, (host or "::", int(port))))


async def _doctor(examination: Doctor, tell: Callable[[Finding], None]) -> None:
    findings = await examination.findings(tell)
    broken = [finding for finding in findings if finding.verdict == "fail"]
    if broken:
        raise CliError(f"{broken[0].check} is broken", Exit.FAILED)


def _as_json(finding: Finding) -> None:
    print_json(asdict(finding))


def _as_line(finding: Finding) -> None:
    print(f"{finding.verdict:7} {finding.check:14} {finding.detail}  ({finding.took_s:.2f} s)", flush=True)
    if finding.fix:
        print(f"{'':7} {'':14} → {finding.fix}", flush=True)


def _told(fault: BaseException) -> str:
    if isinstance(fault, ApiError):
        return f"{fault.status} {fault.code}: {plain(fault.message)} (request {fault.request_id})"
    return plain(str(fault) or type(fault).__name__)


def _issued_at(token: str) -> float | None:
    """Return when a JWT says that it was made; None for what is no JWT. Nothing is believed for more than this."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload: dict[str, Any] = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
        return float(payload["iat"])
    except (ValueError, KeyError, TypeError):
        return None


def _failed(task: asyncio.Task[Any]) -> bool:
    return not task.cancelled() and task.exception() is not None
