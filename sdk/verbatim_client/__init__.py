"""Client of a Verbatim platform: accounts, meetings, live audio. Speaks the public contract only.

async with VerbatimClient("http://localhost:8000") as client:
    await client.login(email, password)
    async for event in client.stream(pcm, title="Planning"):
        if event["type"] == "segment":
            print(event["text"])
"""

from verbatim_client.backoff import Backoff
from verbatim_client.client import VerbatimClient
from verbatim_client.errors import ApiError, ConnectionGivenUpError, SessionLostError, StreamError
from verbatim_client.live import LiveSession
from verbatim_client.settings import Buffering, LiveSettings
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
    "Transcript",
    "VerbatimClient",
    "Watch",
]
