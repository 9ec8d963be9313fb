"""People who speak numbered audio through the gateway, from inside the cluster, until the file ENOUGH is there.

`python -m tests.cluster.speaker URL SESSIONS FOLDER` writes how far each is to FOLDER/state.json twice a second. When
all have finished, FOLDER/verdict.json says what was acknowledged, lost and repeated.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path

import httpx2
from verbatim_client import VerbatimClient
from verbatim_client.errors import ApiError

from tests.chaos.judge import Segment, Verdict, judge
from tests.chaos.workload import Ledger, Workload

PASSWORD = "a password for the cluster tests"
TELL_EVERY_S = 0.5
REACHED_WITHIN_S = 300.0
STORED_WITHIN_S = 120.0
FINISH_WITHIN_S = 300.0


async def main() -> None:
    """Speak, tell, judge."""
    url, sessions, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    async with VerbatimClient(url) as client:
        await _account(client)
        workload = Workload([client], sessions, speed=1.0, seed=1, finish_within_s=FINISH_WITHIN_S)
        workload.start()
        while not (folder / "enough").exists():
            _write(folder / "state.json", {one.number: one.acked_offset for one in workload.ledgers})
            await asyncio.sleep(TELL_EVERY_S)
        await workload.finish()
        verdict = Verdict()
        for ledger in workload.ledgers:
            verdict.add(judge(ledger, await _stored(client, ledger)))
        told = asdict(verdict) | {
            "clean": verdict.clean,
            "sessions": len(workload.ledgers),
            "reconnects": sum(one.reconnects for one in workload.ledgers),
            "longest_pause_s": max(one.longest_pause_s(0.0, time.monotonic()) for one in workload.ledgers),
            "failures": [one.failure for one in workload.ledgers if one.failure],
        }
        _write(folder / "verdict.json", told)


async def _account(client: VerbatimClient) -> None:
    deadline = time.monotonic() + REACHED_WITHIN_S
    email = f"{uuid.uuid4().hex}@verbatim.example"
    while True:
        try:
            await client.register(email, "speaker", PASSWORD)
            await client.login(email, PASSWORD)
            return
        except (ApiError, httpx2.TransportError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(1.0)


async def _stored(client: VerbatimClient, ledger: Ledger) -> list[Segment]:
    """Return what the database holds when it is as much as the accounts say, or what is there after a while."""
    wanted = ledger.finished["segments"] if ledger.finished else None
    deadline = time.monotonic() + STORED_WITHIN_S
    rows: list[Segment] = []
    while time.monotonic() < deadline and ledger.meeting_id:
        try:
            rows = await client.segments(ledger.meeting_id)
        except (ApiError, httpx2.TransportError):
            rows = []
        if len(rows) == wanted and not any(row["quality"] == "draft" for row in rows):
            break
        await asyncio.sleep(0.5)
    return rows


def _write(path: Path, told: object) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(told))
    aside.replace(path)


if __name__ == "__main__":
    asyncio.run(main())
