"""Client of a Verbatim platform: accounts, meetings, live audio. Speaks the public contract only.

async with VerbatimClient("http://localhost:8000") as client:
    await client.login(email, password)
    async for event in client.stream(pcm, LiveSettings(title="Planning")):
        if event["type"] == "segment":
            print(event["text"])

`SyncVerbatimClient` is the same without asyncio.
"""

from verbatim_client.backoff import Backoff
from verbatim_client.client import VerbatimClient
from verbatim_client.errors import ApiError, ConnectionGivenUpError, SessionLostError, StreamError
from verbatim_client.live import LiveSession
from verbatim_client.settings import Buffering, LiveSettings
from verbatim_client.sync import SyncVerbatimClient
from verbatim_client.transcript import Transcript
from verbatim_client.watch import Watch

__all__ = [
    "ApiError",
    "Backoff",
    "Buffering",
    "ConnectionGivenUpError",
    "LiveSession",
    "LiveSettings",
    "SessionLostError",
    "StreamError",
    "SyncVerbatimClient",
    "Transcript",
    "VerbatimClient",
    "Watch",
]
