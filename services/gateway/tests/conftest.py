"""A gateway on a real port, in front of real gRPC servers with fakes in them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import httpx2
import jwt
import pytest
import pytest_asyncio
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from verbatim.insights.v1.analytics_pb2_grpc import add_AnalyticsServiceServicer_to_server
from verbatim.insights.v1.insights_pb2_grpc import add_InsightsServiceServicer_to_server
from verbatim.insights.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server as add_model_usage
from verbatim.meetings.v1.accounts_pb2_grpc import add_AccountsServiceServicer_to_server
from verbatim.meetings.v1.api_keys_pb2_grpc import add_ApiKeysServiceServicer_to_server
from verbatim.meetings.v1.logins_pb2_grpc import add_LoginsServiceServicer_to_server
from verbatim.meetings.v1.meetings_pb2_grpc import add_MeetingsServiceServicer_to_server
from verbatim.meetings.v1.tasks_pb2_grpc import add_TasksServiceServicer_to_server
from verbatim.meetings.v1.transcripts_pb2_grpc import add_TranscriptsServiceServicer_to_server
from verbatim.meetings.v1.uploads_pb2_grpc import add_UploadsServiceServicer_to_server
from verbatim.meetings.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server
from verbatim.meetings.v1.webhooks_pb2_grpc import add_WebhooksServiceServicer_to_server
from verbatim.transcriber.v1.recordings_pb2_grpc import add_RecordingsServiceServicer_to_server
from verbatim.transcriber.v1.transcriber_pb2_grpc import add_TranscriberServiceServicer_to_server

from chassis import ids
from chassis.bus import Bus
from chassis.cache import Cache
from chassis.dead_letters import DeadLetters
from chassis.errors import AppError, Kind
from chassis.lifecycle import HttpServer
from chassis.limits import Limiter
from chassis.objects import Objects
from chassis.rpc import Identity, Peer, Server, peer
from services.gateway import errors
from services.gateway.access_tokens import AccessTokens
from services.gateway.addresses import Proxies
from services.gateway.api_key_checks import ApiKeyChecks
from services.gateway.app import Doors, public_app
from services.gateway.broker import Broker
from services.gateway.budget import AudioBudget
from services.gateway.callers import Callers
from services.gateway.captcha import Captcha, NoCaptcha
from services.gateway.credentials import Credentials
from services.gateway.entrance import Entrance
from services.gateway.entries import StoredEntries
from services.gateway.external_tokens import NoExternalTokens
from services.gateway.last_known import LastKnown
from services.gateway.limits import RateLimits
from services.gateway.protocol import CountedSocket, Crowd, Patience, PatientHttp
from services.gateway.relay import Fleet
from services.gateway.revocations import RevocationNews, Revocations
from services.gateway.settings import Settings
from services.gateway.shares import Shares
from services.gateway.tests.fake_accounts import FakeAccounts, FakeApiKeys, FakeLogins
from services.gateway.tests.fake_recordings import FakeRecordings, FakeRelay
from services.gateway.tests.fake_transcripts import FakeTranscripts
from services.gateway.tests.fake_uploads import FakeUploads
from services.gateway.tests.fake_webhooks import FakeModelUsage, FakeUsage, FakeWebhooks
from services.gateway.tests.fakes import (
    FakeAnalytics,
    FakeCaptions,
    FakeControls,
    FakeInsights,
    FakeMeetings,
    FakeTasks,
)
from services.gateway.tickets import Tickets
from services.gateway.transcribing import Transcribers
from services.gateway.uploading import BUCKET, UploadDesk, UploadSettings
from services.gateway.viewers import ViewerLimits, Viewers

VIEWER_LIMITS = ViewerLimits(poll_s=30.0, hurry_s=0.05, insights_wait_s=0.2)
SERVICE_KEY = "a key that only the tests have ........"


class Signer:
    """Signs tokens as the meetings service does, and as an attacker would."""

    def __init__(self) -> None:
        self.private_key = Ed25519PrivateKey.generate()
        self.public_pem = (
            self.private_key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return good claims with some changed; None takes one away."""
        now = int(time.time())
        claims = {
            "iss": "verbatim",
            "aud": "verbatim-api",
            "sub": ids.new_id(),
            "role": "user",
            "typ": "access",
            "jti": ids.new_id(),
            "iat": now,
            "nbf": now,
            "exp": now + 900,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def account_of(self, headers: dict[str, str]) -> str:
        """Return the account for which headers speak."""
        token = headers["Authorization"].removeprefix("Bearer ")
        return str(jwt.decode(token, options={"verify_signature": False})["sub"])

    def token(self, **changed: Any) -> str:
        return jwt.encode(self.claims(**changed), self.private_key, algorithm="EdDSA")


@dataclass
class Gateway:
    """The gateway under test: its clients speak HTTP to `client`, its neighbours are the fakes."""

    signer: Signer
    accounts: FakeAccounts = field(default_factory=FakeAccounts)
    api_keys: FakeApiKeys = field(default_factory=FakeApiKeys)
    logins: FakeLogins = field(default_factory=FakeLogins)
    broker: Broker = field(default_factory=lambda: Broker("nats://127.0.0.1:1", "test"))
    captcha: Captcha = field(default_factory=NoCaptcha)
    meetings: FakeMeetings = field(default_factory=FakeMeetings)
    tasks: FakeTasks = field(default_factory=FakeTasks)
    insights: FakeInsights = field(default_factory=FakeInsights)
    analytics: FakeAnalytics = field(default_factory=FakeAnalytics)
    uploads: FakeUploads = field(default_factory=FakeUploads)
    webhooks: FakeWebhooks = field(default_factory=FakeWebhooks)
    usage: FakeUsage = field(default_factory=FakeUsage)
    model_usage: FakeModelUsage = field(default_factory=FakeModelUsage)
    recordings: FakeRecordings = field(default_factory=FakeRecordings)
    faults: dict[str, str] = field(default_factory=dict)
    ailing: dict[str, str] = field(default_factory=dict)
    aggressive: bool = False
    full: bool = False
    controls: FakeControls = field(default_factory=FakeControls)
    captions: FakeCaptions = field(default_factory=FakeCaptions)
    connection: Bus | None = None
    viewers: Viewers = field(init=False)
    objects: Objects = field(init=False)
    entrance: Entrance = field(init=False)
    port: int = 0
    client: httpx2.AsyncClient = field(init=False)
    backends: list[Server] = field(default_factory=list)

    def as_account(self, account_id: str | None = None) -> dict[str, str]:
        """Return headers that speak for an account (a new one by default)."""
        return {"Authorization": f"Bearer {self.signer.token(sub=account_id or ids.new_id())}"}

    def as_admin(self) -> dict[str, str]:
        """Return headers that speak for somebody who looks after the platform."""
        return {"Authorization": f"Bearer {self.signer.token(role='admin')}"}

    async def new_meeting(self, who: dict[str, str], title: str = "Planning") -> str:
        answer = await self.client.post("/api/meetings", json={"title": title}, headers=who)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def letters(self) -> Bus:
        if self.connection is None:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.")
        return self.connection

    async def readiness(self) -> dict[str, str]:
        return self.faults


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients: to read the certificates costs more than most tests do."""
    return ssl.create_default_context()


async def _live(scope: Any, receive: Any, send: Any) -> None:
    """Stand for the live endpoint: breaks at the word of the query."""
    if scope["query_string"] == b"break":
        raise ZeroDivisionError("the canary of a bug")
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1000})


async def _backend(stack: AsyncExitStack, service: str, *servicers: tuple[Any, object]) -> Server:
    server = Server("127.0.0.1", 0, Identity(service, SERVICE_KEY))
    for register, servicer in servicers:
        server.add(register, servicer)
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return server


def _entrance(settings: Settings, gateway: Gateway, meetings: Peer) -> Entrance:
    revocations, shares = Revocations(), Shares(SERVICE_KEY)
    credentials = Credentials(
        AccessTokens(settings.auth_public_key),
        ApiKeyChecks(meetings, timeout_s=5.0),
        NoExternalTokens(),
        shares,
        revocations,
    )
    return Entrance(
        meetings=meetings,
        credentials=credentials,
        tickets=Tickets(SERVICE_KEY, gateway.broker),
        shares=shares,
        revocations=revocations,
        news=RevocationNews(revocations, meetings, gateway.broker, every_s=10.0, timeout_s=5.0),
        callers=Callers(secure=settings.verbatim_env == "production"),
        captcha=gateway.captcha,
        timeout_s=settings.call_timeout_s,
        login_timeout_s=settings.login_timeout_s,
        fresh_login_s=settings.fresh_login_s,
    )


@asynccontextmanager
async def running(
    viewer_limits: ViewerLimits = VIEWER_LIMITS, captcha: Captcha | None = None, look_s: float = 5.0, **changed: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway with some settings changed."""
    gateway = Gateway(Signer(), captcha=captcha or NoCaptcha())
    async with AsyncExitStack() as stack:
        meetings = await _backend(
            stack,
            "meetings",
            (add_AccountsServiceServicer_to_server, gateway.accounts),
            (add_ApiKeysServiceServicer_to_server, gateway.api_keys),
            (add_LoginsServiceServicer_to_server, gateway.logins),
            (add_MeetingsServiceServicer_to_server, gateway.meetings),
            (add_TasksServiceServicer_to_server, gateway.tasks),
            (add_TranscriptsServiceServicer_to_server, FakeTranscripts(gateway.meetings)),
            (add_UploadsServiceServicer_to_server, gateway.uploads),
            (add_UsageServiceServicer_to_server, gateway.usage),
            (add_WebhooksServiceServicer_to_server, gateway.webhooks),
        )
        insights = await _backend(
            stack,
            "insights",
            (add_InsightsServiceServicer_to_server, gateway.insights),
            (add_AnalyticsServiceServicer_to_server, gateway.analytics),
            (add_model_usage, gateway.model_usage),
        )
        transcriber = await _backend(
            stack,
            "transcriber",
            (add_RecordingsServiceServicer_to_server, gateway.recordings),
            (add_TranscriberServiceServicer_to_server, FakeRelay()),  # type: ignore[abstract]
        )
        gateway.backends = [meetings, insights]
        settings = Settings(
            service_auth_key=SERVICE_KEY,
            auth_public_key=gateway.signer.public_pem,
            transcriber_targets=f"127.0.0.1:{transcriber.port}",
            meetings_target=f"127.0.0.1:{meetings.port}",
            insights_target=f"127.0.0.1:{insights.port}",
            **{"rate_limits_ip": "", "rate_limits_account": "", "rate_limits_routes": "", **changed},
        )
        identity = Identity("gateway", SERVICE_KEY)
        meetings_peer = await stack.enter_async_context(peer(settings.meetings_target, identity))
        insights_peer = await stack.enter_async_context(peer(settings.insights_target, identity))
        entries = StoredEntries(meetings_peer, insights_peer, timeout_s=settings.call_timeout_s)
        gateway.viewers = Viewers(entries, gateway.captions, viewer_limits)
        # Without a running connection the broker is away, which most tests need not know.
        storage = Broker(settings.nats_url, "gateway under test")
        if "nats_url" in changed:
            connecting = asyncio.create_task(storage.run())
            stack.callback(connecting.cancel)
        gateway.objects = Objects(storage.require, BUCKET)
        fleet = Fleet(settings.transcriber_targets, identity)
        linking = asyncio.create_task(fleet.run())
        stack.callback(linking.cancel)
        upload_settings = UploadSettings(
            file_bytes_max=settings.upload_bytes_max,
            at_once_max=settings.uploads_at_once_max,
            idle_s=settings.upload_idle_s,
        )
        budget = AudioBudget(
            meetings_peer,
            minutes_per_month=settings.audio_minutes_per_month,
            timeout_s=settings.budget_timeout_s,
        )
        gateway.entrance = _entrance(settings, gateway, meetings_peer)
        doors = Doors(
            gateway.entrance,
            meetings_peer,
            insights_peer,
            _live,
            gateway.viewers,
            UploadDesk(meetings_peer, gateway.objects, upload_settings, budget, is_full=lambda: gateway.full),
            gateway.controls,
            DeadLetters(gateway.letters),
            Transcribers(fleet, file_bytes_max=settings.transcription_bytes_max, timeout_s=10.0),
            budget,
            LastKnown(Cache("", service="gateway", replica="test"), "analytics"),
        )
        rates = RateLimits(
            Limiter(Cache("", service="gateway", replica="test")),
            settings.rules,
            aggressive_factor=settings.rate_limits_aggressive,
            is_aggressive=lambda: gateway.aggressive,
        )
        app = public_app(settings, doors, rates=rates, readiness=gateway.readiness, ailing=lambda: gateway.ailing)
        crowd = Crowd(most=10_000, most_of_one=settings.connections_per_ip_max, proxies=Proxies(()))
        patience = Patience(head_s=settings.head_timeout_s, read_s=settings.unread_timeout_s, look_s=look_s)
        server = HttpServer(
            app,
            "127.0.0.1",
            0,
            http=partial(PatientHttp, crowd, patience),
            ws=partial(CountedSocket, crowd),
            ws_per_message_deflate=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        serving = asyncio.create_task(server.run_until_exit())
        gateway.port = server.port
        gateway.client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10, verify=_tls())
        try:
            yield gateway
        finally:
            await gateway.client.aclose()
            gateway.meetings.release.set()
            server.should_exit = True
            await serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    """One gateway for all tests of a file, which each come with accounts of their own."""
    async with running() as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module")
async def own_gateway() -> AsyncIterator[Gateway]:
    """A gateway for a test that breaks something."""
    async with running() as gateway:
        yield gateway


@pytest.fixture(scope="module", autouse=True)
def _plain_logs() -> Iterator[None]:
    before = structlog.get_config()
    processors: list[Any] = [structlog.contextvars.merge_contextvars, structlog.processors.format_exc_info]
    structlog.configure(processors=[*processors, structlog.processors.JSONRenderer()])
    yield
    structlog.configure(**before)


def problem(answer: httpx2.Response) -> dict[str, Any]:
    """Return the error that an answer holds, after checking what every error has."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert set(body) <= set(errors.ErrorAnswer.model_fields), body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert isinstance(body["message"], str)
    assert body["message"]
    return dict(body)
