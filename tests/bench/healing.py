"""Measure how long drafts take to heal: people speak while the speech API is away, leave, and then it is back.

python -m tests.bench.healing [--minutes 10] [--sessions 1] [--latency 1.0] [--breaker-open 60]

The speech is the bundled meeting, over and over, spoken as fast as the platform takes it. Limits and the breaker are as
they ship unless said otherwise; the API takes `latency` seconds for each utterance. `healed` counts from the moment at
which the API is back, so it holds the rest of the breaker's open time; `healing` from the first revision.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import httpx2
import uvloop
from verbatim_client import LiveSettings, VerbatimClient

from dev.settings import ROOT
from tests.chaos.platform import Platform

RECORDING = ROOT / "dev/assets/meeting.wav"
ONE_OF_EACH = {"gateway": 1, "transcriber": 1, "meetings": 1, "insights": 0}
LOOK_S = 0.2


async def run(minutes: float, sessions: int, latency_s: float, breaker_open_s: float, folder: Path) -> str:
    """Measure and return a line."""
    with wave.open(str(RECORDING)) as file:
        meeting = file.readframes(file.getnframes())
    length = int(minutes * 60 / sessions * 16_000) * 2
    speech = (meeting * (length // len(meeting) + 1))[:length]
    env = {
        "transcriber": {
            "SPEECH_CONCURRENCY": "8", "EMBEDDED_WORKERS": str(os.cpu_count() or 1),
            "SOFT_CAP_MS": "12000", "HARD_CAP_MS": "28000", "BREAKER_OPEN_S": str(breaker_open_s),
        }
    }  # fmt: skip
    nats_server = os.environ.get("VERBATIM_NATS_SERVER") or None
    async with Platform(
        folder, replicas=ONE_OF_EACH, nats_server=nats_server, through_proxies=False, env=env
    ) as platform:
        await platform.script(status=503)
        client = await platform.new_client()
        began = time.monotonic()
        meetings = await asyncio.gather(*(_speak(client, speech) for _ in range(sessions)))
        spoken_s = time.monotonic() - began
        drafts = sum([one["draft_segments"] for one in meetings])
        await platform.script(status=200, latency_s=latency_s, deaf=True)
        asked = await _requests(platform)
        back = time.monotonic()
        first, healed = await _heal(client, [one["meeting_id"] for one in meetings], drafts)
        asked = await _requests(platform) - asked
        await client.__aexit__(None, None, None)
    heard = f"{minutes:g} min in {sessions} session(s), {drafts} drafts (drafted in {spoken_s:.0f} s)"
    given = f"API {latency_s:g} s per call, breaker {breaker_open_s:g} s"
    return f"{heard}, {given}: healed {healed - back:.1f} s, healing {healed - first:.1f} s, {asked} calls"


async def _speak(client: VerbatimClient, speech: bytes) -> dict[str, Any]:
    events = client.stream(speech, LiveSettings(interim=False, language="en"), speed=30.0, finish_within_s=500)
    last: dict[str, Any] = {}
    async for event in events:
        last = event
    return last


async def _heal(client: VerbatimClient, meeting_ids: list[str], drafts: int) -> tuple[float, float]:
    """Wait until no draft is left; return when the first was revised, and when the last."""
    first = 0.0
    while True:
        left = sum([(await client.meeting(meeting_id))["draft_segments"] for meeting_id in meeting_ids])
        now = time.monotonic()
        if not first and left < drafts:
            first = now
        if left == 0:
            return first, now
        await asyncio.sleep(LOOK_S)


async def _requests(platform: Platform) -> int:
    async with httpx2.AsyncClient() as http:
        return int((await http.get(f"{platform.oracle_url}/healthz")).json()["requests"])


def main() -> int:
    """Print the line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.healing", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--latency", type=float, default=1.0)
    parser.add_argument("--breaker-open", type=float, default=60.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        work = run(chosen.minutes, chosen.sessions, chosen.latency, chosen.breaker_open, Path(name) / "stack")
        print(uvloop.run(work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
