"""Measure what the speech API's absence costs, and what captions cost at it: the figures of docs/performance-speech.md.

python -m tests.bench.speech [--only errors,drafts,outage,healing,fairness,calls] [--minutes 10] [--out FILE]

`errors`: word error rate of the bundled recording, cut every five seconds and cut as we cut. `drafts`: time from the
end of speech to the draft of the embedded engine while the API hangs, and while the breaker keeps it from being asked.
`outage` and `fairness` run in virtual time (`chassis/tests/virtual_time.py`): exact, whatever this machine does
besides. `healing` and `calls` start a platform (`tests/bench/healing.py`, `tests/bench/calls.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import uvloop

from chassis.tests import virtual_time
from services.transcriber.cutting import BYTES_PER_SECOND, Cutter, CuttingSettings
from services.transcriber.recognition import Recogniser, RecognitionSettings
from services.transcriber.slow_start import SlowStartSettings
from services.transcriber.speech import OpenAISpeech
from services.transcriber.sphinx import PocketSphinxSpeech
from services.transcriber.tests.scripted_server import Answer, ScriptedServer
from services.transcriber.tests.virtual_outage import (
    FIRST_MINUTES_S,
    OUTAGE_S,
    SPAN_S,
    SPEAKERS,
    UTTERANCE_EVERY_S,
    Course,
    ScriptedApi,
    course_of,
)
from services.transcriber.turnstile import Lane
from services.transcriber.vendor import Vendor, VendorSettings
from tests.bench import calls, healing
from tests.bench.run import machine
from tests.e2e.speech import plain, recording, script

ENDPOINT_S = 0.5
WINDOW_S = 5.0
ROUNDS = 2
# As it ships, the embedded engine gives way to all else on the machine (niceness 10): on one that is busy with other
# things that would be what is measured.
BUSY: dict[str, Any] = {"niceness": 0, "start_timeout_s": 300.0}
UPLOAD_UTTERANCES = 600


def utterances() -> list[bytes]:
    """Return the bundled recording as the cutter cuts it."""
    pcm, cutter = recording(), Cutter(CuttingSettings())
    return [pcm[one.start_byte : one.end_byte] for one in cutter.feed(pcm) + cutter.flush()]


def windows() -> list[bytes]:
    """Return it in pieces of one length, as clients without voice detection send it."""
    pcm, size = recording(), int(WINDOW_S * BYTES_PER_SECOND)
    return [pcm[start : start + size] for start in range(0, len(pcm), size)]


async def errors() -> list[str]:
    """Return the word error rate of both, with their sizes."""
    engine = PocketSphinxSpeech(workers=1, **BUSY)
    await engine.start()
    lines = ["| bundled recording, embedded engine | requests | words wrong, missing or too many |", "|---|---|---|"]
    try:
        for name, parts in ((f"cut every {WINDOW_S:g} s", windows()), ("cut as we cut", utterances())):
            heard = [await engine.transcribe(part, language="en", prompt="", deadline_s=120) for part in parts]
            rate = jiwer.wer(plain(script()), plain(" ".join(one.text for one in heard)))
            lines.append(f"| {name} | {len(parts)} | {rate:.1%} |")
    finally:
        await engine.close()
    return lines


async def drafts() -> list[str]:
    """Return how soon after the end of speech a draft is there: p50 and p95."""
    lines = ["| draft, from the end of speech | utterances | p50 s | p95 s |", "|---|---|---|---|"]
    never = VendorSettings(breaker=replace(VendorSettings().breaker, failures_in_row=10**9, calls_min=10**9))
    async with AsyncExitStack() as exits:
        server = await exits.enter_async_context(ScriptedServer().run())
        server.otherwise = lambda _: Answer(pause_s=600.0)
        embedded = PocketSphinxSpeech(workers=2, **BUSY)
        exits.push_async_callback(embedded.close)
        await embedded.start()
        for name, settings, opened in (
            ("API takes requests and never answers", never, False),
            ("breaker open", VendorSettings(), True),
        ):
            api = OpenAISpeech(base_url=server.url, api_key="any", model="whisper-1")
            exits.push_async_callback(api.close)
            await api.start()
            vendor = Vendor(api, settings, chance=lambda: 0.5)
            recogniser = Recogniser(embedded, vendor, RecognitionSettings(endpoint_s=ENDPOINT_S))
            exits.push_async_callback(recogniser.close)
            if opened:
                vendor.breaker.trip("scripted")
            took_s = []
            for pcm in utterances() * ROUNDS:
                began = time.monotonic()
                heard = await recogniser.final(pcm, session_id="one", language="en", prompt="")
                took_s.append(ENDPOINT_S + time.monotonic() - began)
                assert heard.quality == "draft"
                if heard.late is not None:
                    heard.late.cancel()
            cuts = statistics.quantiles(took_s, n=20)
            lines.append(f"| {name} | {len(took_s)} | {statistics.median(took_s):.2f} | {cuts[-1]:.2f} |")
    return lines


async def outage() -> list[str]:
    """Return what twenty minutes without the API come to, with and without the slow start of healing."""

    def played(settings: SlowStartSettings) -> Course:
        return virtual_time.run(lambda clock: course_of(clock, settings))

    slowly = await asyncio.to_thread(played, SlowStartSettings())
    at_once = await asyncio.to_thread(played, SlowStartSettings(hold_s=0.0))
    told: tuple[tuple[str, Callable[[Course], str]], ...] = (
        ("breaker open after", lambda one: f"{one.opened_after_s:.1f} s"),
        ("calls until it opened", lambda one: f"{one.asked_until_open}"),
        ("calls in the whole outage", lambda one: f"{one.asked_while_away}"),
        ("probes at one half-open time, at most", lambda one: f"{one.probes_most}"),
        ("calls per second before", lambda one: f"{one.steady_per_s:.1f}"),
        (
            f"busiest {SPAN_S:g} s of the first {FIRST_MINUTES_S:g} s after it closed",
            lambda one: f"{one.peak_first_minutes_per_s:.1f} /s, {one.peak:.2f} times",
        ),
        ("busiest later, while it drains", lambda one: f"{one.peak_later_per_s:.1f} /s"),
        ("calls at one time, at most", lambda one: f"{one.running_most}"),
        ("opened again", lambda one: f"{one.reopened} times"),
        ("drafts, lost, out of order", lambda one: f"{one.drafted}, {one.lost}, {one.disordered}"),
        ("all healed after", lambda one: f"{one.healed_after_s:.0f} s"),
    )
    return [
        f"| {SPEAKERS} people, an utterance each {UTTERANCE_EVERY_S:g} s, {OUTAGE_S / 60:g} min away | as it ships | "
        "without slow start |",
        "|---|---|---|",
        *(f"| {name} | {show(slowly)} | {show(at_once)} |" for name, show in told),
    ]


async def fairness() -> list[str]:
    """Return how long live speech takes beside a two-hour upload, and without."""
    lines = [
        "| live, three sessions, API 1 s per call | p50 s | p95 s |",
        "|---|---|---|",
    ]
    for name, lane, waiting in (
        ("alone", Lane.UPLOAD, 0),
        ("beside an upload of two hours", Lane.UPLOAD, UPLOAD_UTTERANCES),
        ("in one queue with it", Lane.LIVE, UPLOAD_UTTERANCES),
    ):
        took_s = await asyncio.to_thread(virtual_time.run, _beside(lane, waiting))
        lines.append(f"| {name} | {statistics.median(took_s):.2f} | {statistics.quantiles(took_s, n=20)[-1]:.2f} |")
    return lines


def _beside(lane: Lane, waiting: int) -> Callable[[Callable[[], float]], Coroutine[Any, Any, list[float]]]:
    """Have three people speak for five minutes while so many utterances of an upload wait in a lane."""

    async def main(clock: Callable[[], float]) -> list[float]:
        # Deadlines would cut the longest waits off: what is to be seen is the wait.
        settings = VendorSettings(deadline_base_s=10_000.0, deadline_s_max=10_000.0)
        vendor = Vendor(ScriptedApi(clock, latency_s=1.0), settings, clock=clock, chance=lambda: 0.5)

        async def ask(session: str, of: Lane) -> float:
            came = clock()
            await vendor.transcribe(bytes(3200), session_id=session, language=None, prompt="", lane=of)
            return clock() - came

        queued = [asyncio.create_task(ask("upload", lane)) for _ in range(waiting)]
        await asyncio.sleep(0.5)
        live = []
        for number in range(180):
            session = f"live-{number % 3}" if lane is Lane.UPLOAD else "upload"
            live.append(asyncio.create_task(ask(session, Lane.LIVE)))
            await asyncio.sleep(5.0 / 3)
        took_s = await asyncio.gather(*live)
        for one in queued:
            one.cancel()
        return list(took_s)

    return main


async def healed(minutes: float) -> list[str]:
    """Return how long so many minutes of drafts take to heal on a whole platform."""
    with _folder() as folder:
        return [await healing.run(minutes, 4, 1.0, 60.0, folder)]


async def called() -> list[str]:
    """Return what captions cost at the API, ours and those of programs that send their buffer again and again."""
    with _folder() as folder:
        costs = await calls.run(60.0, folder)
    return ["| captions | API calls per audio second | kB sent per audio second |", "|---|---|---|", *map(str, costs)]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        yield Path(name) / "stack"


TITLES = {
    "errors": "Word error rate",
    "drafts": "Drafts",
    "outage": "An outage",
    "healing": "Ten minutes of drafts",
    "fairness": "Fairness",
    "calls": "Calls",
}
# What belongs to be known with the figures.
NOTES = {
    "errors": "The recording's wording and synthetic voices were chosen to suit the engine: this shows what cutting "
    "costs, and says\nnothing about real voices. The embedded engine takes no prompt, so their use is not measured.",
    "drafts": "Utterances are up to 12 s long. While the API may still answer, the draft is held back; with the "
    "breaker open it is written\nas soon as it is heard.",
    "outage": "In virtual time. The busiest time comes later, when healing has doubled up to what may run at one time: "
    "draining faster than\nspeech is the point of it ([ADR 45](adr/0045-healing-begins-slowly.md)).",
    "healing": "`healed` counts from the moment at which the API is back, and holds the rest of the breaker's minute.",
    "fairness": "In virtual time.",
}


async def run(wanted: list[str], minutes: float) -> str:
    """Measure and return the figures as Markdown."""
    measure = {
        "errors": errors, "drafts": drafts, "outage": outage, "healing": lambda: healed(minutes), "fairness": fairness,
        "calls": called,
    }  # fmt: skip
    parts = []
    for name in wanted:
        lines = await measure[name]()
        note = f"\n{NOTES[name]}\n" if name in NOTES else ""
        parts.append(f"## {TITLES[name]}\n\n" + "\n".join(lines) + "\n" + note)
        print(parts[-1], flush=True)
    return "\n".join(parts)


def main() -> int:
    """Print the figures, and write them if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.speech", description=__doc__)
    parser.add_argument("--only", default=",".join(TITLES))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, help="where the page is written")
    chosen = parser.parse_args()
    figures = uvloop.run(run(chosen.only.split(","), chosen.minutes))
    if chosen.out:
        chosen.out.write_text(f"# Speech: figures\n\nMade by `make bench-speech` on {machine()}\n\n{figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
