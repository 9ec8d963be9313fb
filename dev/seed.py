"""The demo account and its sample meeting, made through the public API like everything else."""

from __future__ import annotations

import json
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import httpx2
from verbatim_client import ApiError, LiveSettings, StreamError, VerbatimClient

from dev.people import DEMO
from dev.settings import ROOT, Settings
from dev.stack import running_state

RECORDING = ROOT / "dev" / "assets" / "meeting.wav"
SAMPLE_TITLE = "Weekly planning (sample)"
SAMPLE_SPEED = 8.0
FINISH_WITHIN_S = 180.0


class RecordingError(Exception):
    """The recording is missing or is not 16 kHz mono 16-bit PCM."""


async def seed(settings: Settings) -> int:
    """Seed the running platform of this data folder; give the exit code."""
    state = running_state(settings.data_folder)
    if state is None:
        print("error: no platform runs here; start one: make run", file=sys.stderr)
        return 1
    return 0 if await sow(state.url, settings.data_folder, print) else 1


async def sow(url: str, data_folder: Path, say: Callable[[str], None]) -> bool:
    """Make the demo account and the sample meeting unless they are there; say whether they are now.

    A platform without a sample is still a platform: what goes wrong is told, not raised.
    """
    done = data_folder / "seeded"
    if done.exists():
        return True
    try:
        async with VerbatimClient(url) as client:
            await sign_in(client, data_folder)
            if not [None async for meeting in client.meetings() if meeting["title"] == SAMPLE_TITLE]:
                pcm = read_recording(RECORDING)
                say(f"seeding the meeting '{SAMPLE_TITLE}'")
                sample = LiveSettings(title=SAMPLE_TITLE, language="en")
                speaking = client.stream(pcm, sample, speed=SAMPLE_SPEED, finish_within_s=FINISH_WITHIN_S)
                async for _event in speaking:
                    pass
    except (ApiError, StreamError, RecordingError, httpx2.TransportError, TimeoutError) as error:
        say(f"not seeded: {type(error).__name__}: {error}")
        return False
    done.touch()
    return True


async def sign_in(client: VerbatimClient, data_folder: Path) -> None:
    """Become the demo account, making it if need be.

    The tokens are kept with the data: logins are limited to a few in a quarter of an hour. Raises ApiError.
    """
    kept = data_folder / "keys" / "demo_session.json"
    if kept.exists():
        tokens = json.loads(kept.read_text())
        client.access_token, client.refresh_token = tokens["access_token"], tokens["refresh_token"]
        try:
            await client.refresh()
        except ApiError as error:
            if error.status != httpx2.codes.UNAUTHORIZED:
                raise
            client.access_token = client.refresh_token = None
    if client.access_token is None:
        await _log_in_or_register(client)
    kept.touch(mode=0o600)
    kept.write_text(json.dumps({"access_token": client.access_token, "refresh_token": client.refresh_token}))


def read_recording(path: Path) -> bytes:
    """Read a WAV file as PCM. Raises RecordingError unless it is 16 kHz, mono, 16-bit."""
    if not path.exists():
        raise RecordingError(f"{path.name} is not there")
    with wave.open(str(path)) as recording:
        shape = (recording.getframerate(), recording.getnchannels(), recording.getsampwidth())
        if shape != (16_000, 1, 2):
            raise RecordingError(f"{path.name} is not 16 kHz mono 16-bit PCM but {shape}")
        return bytes(recording.readframes(recording.getnframes()))


async def _log_in_or_register(client: VerbatimClient) -> None:
    try:
        await client.login(DEMO.email, DEMO.password)
    except ApiError as error:
        if error.status != httpx2.codes.UNAUTHORIZED:
            raise
        await client.register(DEMO.email, DEMO.username, DEMO.password)
        await client.login(DEMO.email, DEMO.password)
