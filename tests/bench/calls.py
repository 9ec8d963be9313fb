"""Count what live captions cost at the speech API: ours, and those of a program that sends its buffer again and again.

python -m tests.bench.calls [--seconds 60]

In one run, in real time, about the same speech without a pause: a session with partial texts, one without, and two
loops as WhisperLiveKit and whisper_streaming call an API. They send all audio since the last text that they are sure
of, as soon as the call before has been answered and 0.1 s (1 s) of audio is new; above 15 s they let go of the older
half. The API takes half a second for each call and counts by the `language` asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import tempfile
import time
import wave
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import uvloop
from verbatim_client import LiveSettings

from tests.chaos.platform import Platform
from tests.e2e.speech import recording

RATE = 16_000
LATENCY_S = 0.5
BUFFER_S = 15.0
LOUD_ENOUGH = 328  # -40 dBFS
ONE_OF_EACH = {"gateway": 1, "transcriber": 1, "meetings": 1}
# The same as it ships: utterances as long as they may be.
AS_SHIPPED = {"SOFT_CAP_MS": "12000", "HARD_CAP_MS": "28000"}
OURS, OURS_PLAIN, EAGER, PATIENT = "en", "de", "fr", "es"
NAMES = {
    OURS: "Verbatim, partial texts on",
    OURS_PLAIN: "Verbatim, partial texts off",
    EAGER: "buffer sent again after 0.1 s (WhisperLiveKit)",
    PATIENT: "buffer sent again after 1 s (whisper_streaming)",
}


@dataclass(frozen=True)
class Cost:
    """What one way of captioning costs, per second of audio."""

    name: str
    calls: float
    bytes_sent: float

    def __str__(self) -> str:
        return f"| {self.name} | {self.calls:.3f} | {self.bytes_sent / 1000:.0f} |"


def speech(seconds: float) -> bytes:
    """Return the bundled meeting without its pauses, over and over."""
    samples = np.frombuffer(recording(), dtype="<i2")
    blocks = samples[: samples.size // 160 * 160].reshape(-1, 160)
    loud = blocks[np.sqrt((blocks.astype(np.float64) ** 2).mean(axis=1)) > LOUD_ENOUGH].ravel()
    return np.resize(loud, int(seconds * RATE)).astype("<i2").tobytes()


async def run(seconds: float, folder: Path) -> list[Cost]:
    """Caption for so long in every way at once and return what each cost."""
    pcm = speech(seconds)
    nats_server = os.environ.get("VERBATIM_NATS_SERVER") or None
    async with Platform(
        folder, replicas=ONE_OF_EACH, nats_server=nats_server, through_proxies=False, env={"transcriber": AS_SHIPPED}
    ) as platform:
        await platform.script(latency_s=LATENCY_S, deaf=True)
        client = await platform.new_client()

        async def ours(language: str, *, interim: bool) -> None:
            settings = LiveSettings(language=language, interim=interim)
            async for _ in client.stream(pcm, settings, speed=1.0, finish_within_s=60):
                pass

        await asyncio.gather(
            ours(OURS, interim=True),
            ours(OURS_PLAIN, interim=False),
            _resend(platform.oracle_url, pcm, EAGER, every_s=0.1),
            _resend(platform.oracle_url, pcm, PATIENT, every_s=1.0),
        )
        await client.__aexit__(None, None, None)
        async with httpx2.AsyncClient() as http:
            told = (await http.get(f"{platform.oracle_url}/healthz")).json()["languages"]
    return [Cost(name, told[key][0] / seconds, told[key][1] / seconds) for key, name in NAMES.items()]


async def _resend(url: str, pcm: bytes, language: str, *, every_s: float) -> None:
    """Send the buffer again and again while the speech comes in."""
    began = time.monotonic()
    sent_byte = first_byte = 0
    async with httpx2.AsyncClient(timeout=30.0) as http:
        while sent_byte < len(pcm):
            heard_byte = min(len(pcm), int((time.monotonic() - began) * RATE) * 2)
            if heard_byte - sent_byte < every_s * RATE * 2 and heard_byte < len(pcm):
                await asyncio.sleep(0.01)
                continue
            await http.post(
                f"{url}/v1/audio/transcriptions",
                data={"language": language, "model": "any", "response_format": "verbose_json"},
                files={"file": ("a.wav", _wav(pcm[first_byte:heard_byte]), "audio/wav")},
            )
            sent_byte = heard_byte
            if heard_byte - first_byte > BUFFER_S * RATE * 2:
                first_byte = heard_byte - int(BUFFER_S / 2 * RATE) * 2


def _wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(pcm)
    return file.getvalue()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calls", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbatim-calls-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user when we are root
        costs = uvloop.run(run(chosen.seconds, Path(name) / "stack"))
    print("\n| captions | API calls per audio second | kB sent per audio second |\n|---|---|---|")
    print("\n".join(map(str, costs)))
    print("\nTargets on speech without pauses: at most 0.6 calls per audio second with partial texts, 0.15 without.")


if __name__ == "__main__":
    main()
