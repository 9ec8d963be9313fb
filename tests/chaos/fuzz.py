"""Sessions whose client repeats, reorders, overlaps and skips frames: what a bad network and a bad client send."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from verbatim_client import VerbatimClient
from websockets.asyncio.client import ClientConnection, connect

from tests.chaos.numbered import CHUNK_BYTES, CHUNKS_PER_SECOND, speech
from tests.chaos.workload import TITLE, Ledger, Workload, note

# The platform ends a connection at the hundredth fault.
HOLES_MAX = 60
OLD_CHUNKS = 40


class FuzzedWorkload(Workload):
    """Speaks with a bare socket, each chunk in one of several wrong ways and at last in the right one."""

    async def _talk(self, ledger: Ledger, client: VerbatimClient) -> None:
        async with connect(client.ws_url, max_size=None, compression=None) as socket:
            start: dict[str, Any] = {"type": "start", "token": client.access_token, "interim": False}
            await socket.send(json.dumps(start | {"title": f"{TITLE} {ledger.number}"}))
            started = json.loads(await socket.recv())
            note(ledger, started)
            ledger.session_id, ledger.meeting_id = started["session_id"], started["meeting_id"]
            reading = asyncio.create_task(_read(socket, ledger))
            try:
                stream = await self._send(socket, ledger)
                await socket.send(json.dumps({"type": "finish", "offset": len(stream)}))
                async with asyncio.timeout(self._finish_within_s):
                    await reading
            except Exception as fault:  # noqa: BLE001 - whatever ends the session is the finding
                ledger.failure = f"{type(fault).__name__}: {fault}"
            finally:
                reading.cancel()

    async def _send(self, socket: ClientConnection, ledger: Ledger) -> bytearray:
        draw = random.Random(f"fuzz/{self._seed}/{ledger.number}")
        stream = bytearray()
        holes = 0
        for chunk, (audio, spoken) in enumerate(speech(ledger.number, self._rhythm, self._seed)):
            if self._enough.is_set() and not spoken:
                break
            await asyncio.sleep(1.0 / CHUNKS_PER_SECOND / self._speed)
            offset = len(stream)
            stream += audio
            kind = draw.choices(("plain", "again", "old", "ahead"), weights=(60, 15, 15, 10))[0]
            if kind == "old":
                # From an odd place in what is held into what is new, so that a part of it must be trimmed.
                first = max(0, offset - 2 * draw.randrange(1, OLD_CHUNKS * CHUNK_BYTES // 2))
                first = max(first, len(stream) - 64 * 1024)
                await _frame(socket, first, stream[first:])
            elif kind == "ahead" and holes < HOLES_MAX:
                holes += 1
                await _frame(socket, offset + CHUNK_BYTES // 2, stream[offset + CHUNK_BYTES // 2 :])
            await _frame(socket, offset, audio)
            if kind == "again":
                await _frame(socket, offset, audio)
            ledger.chunks += 1
            if spoken:
                ledger.spoken.append(chunk)
        return stream


async def _frame(socket: ClientConnection, offset: int, audio: bytes | bytearray) -> None:
    await socket.send(offset.to_bytes(8, "big") + bytes(audio))


async def _read(socket: ClientConnection, ledger: Ledger) -> None:
    while ledger.finished is None:
        note(ledger, json.loads(await socket.recv()))
