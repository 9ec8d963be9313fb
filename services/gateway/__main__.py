"""The gateway: the only public edge. `python -m services.gateway` starts it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial

import httpx2

from chassis import lifecycle
from chassis.cache import Cache, State
from chassis.dead_letters import DeadLetters
from chassis.lifecycle import HttpServer, Lifecycle
from chassis.limits import Limiter
from chassis.objects import Objects
from chassis.rpc import Identity, Peer, peer
from chassis.seats import Seats
from chassis.settings import load
from services.gateway.access_tokens import AccessTokens
from services.gateway.addresses import Proxies
from services.gateway.admission import Admission
from services.gateway.api_key_checks import ApiKeyChecks
from services.gateway.app import Doors, public_app
from services.gateway.broker import Broker
from services.gateway.budget import AudioBudget
from services.gateway.callers import Callers
from services.gateway.captcha import Captcha, NoCaptcha, SiteVerifyCaptcha
from services.gateway.captions import NatsCaptions
from services.gateway.connection import LiveLimits
from services.gateway.credentials import Credentials
from services.gateway.entrance import Entrance
from services.gateway.entries import StoredEntries
from services.gateway.external_tokens import ExternalTokens, NoExternalTokens, OidcTokens
from services.gateway.issuer_keys import IssuerKeys
from services.gateway.last_known import LastKnown
from services.gateway.limits import RateLimits
from services.gateway.live import LiveEndpoint
from services.gateway.protocol import CountedSocket, Crowd, Patience, PatientHttp
from services.gateway.relay import Fleet
from services.gateway.revocations import RevocationNews, Revocations
from services.gateway.settings import Settings
from services.gateway.shares import Shares
from services.gateway.switches import Switches
from services.gateway.tickets import Tickets
from services.gateway.transcribing import Transcribers
from services.gateway.uploading import BUCKET, UploadDesk, UploadSettings
from services.gateway.viewers import ViewerLimits, Viewers


async def start(
    settings: Settings,
    life: Lifecycle,
    *,
    fleet_type: type[Fleet] = Fleet,
    cache_type: type[Cache] = Cache,
    socket_protocol: type[CountedSocket] = CountedSocket,
) -> None:
    """Connect, serve, and on SIGTERM stop without cutting anybody off.

    The fault tests leave a defence out by a class of their own, to see that its absence is noticed.
    """
    identity = Identity.of("gateway", settings)
    meetings = await life.exits.enter_async_context(peer(settings.meetings_target, identity))
    insights = await life.exits.enter_async_context(peer(settings.insights_target, identity))
    # Services of the operator's choice, outside of this installation: an issuer of tokens, a CAPTCHA.
    outside = await life.exits.enter_async_context(httpx2.AsyncClient(timeout=5.0, follow_redirects=False))

    broker = Broker(settings.nats_url, life.replica, replicas=settings.nats_replicas)
    entrance = _entrance(settings, meetings, broker, outside, life)

    cache = cache_type(
        settings.redis_url.get_secret_value(),
        service="gateway",
        replica=life.replica,
        replicas_min=settings.gateway_replicas,
    )
    switches = Switches(settings.nats_url, life.replica, replicas=settings.nats_replicas, orders=life.orders)
    life.spawn(switches.run(), "controls")
    limiter = Limiter(cache)
    rates = RateLimits(
        limiter,
        settings.rules,
        aggressive_factor=settings.rate_limits_aggressive,
        is_aggressive=lambda: switches.value("rate_limits") == "aggressive",
    )
    budget = AudioBudget(
        meetings, minutes_per_month=settings.audio_minutes_per_month, timeout_s=settings.budget_timeout_s
    )
    admission = Admission(rates, limiter, Seats(cache, "sessions"), settings.session_limits, budget)
    figures = LastKnown(cache, "analytics")
    life.orders.may_forget(figures.forget)
    life.spawn(cache.run(), "redis")
    life.spawn(admission.run(), "sessions")

    fleet = fleet_type(settings.transcriber_targets, identity)
    life.spawn(fleet.run(), "transcribers")
    live = LiveEndpoint(fleet, entrance, admission, _limits(settings))

    entries = StoredEntries(meetings, insights, timeout_s=settings.call_timeout_s)
    viewers = Viewers(entries, NatsCaptions(broker), _viewer_limits(settings))
    life.spawn(broker.run(), "broker")
    life.spawn(entrance.news.run(), "revocations")

    # A connection of its own: captions need not wait behind files.
    storage = Broker(settings.nats_url, f"{life.replica}-uploads")
    life.spawn(storage.run(), "uploads")
    desk = UploadDesk(
        meetings,
        Objects(storage.require, BUCKET),
        _upload_settings(settings),
        budget,
        # The janitor sets it when a disk is nearly full, and it ends by itself.
        is_full=lambda: switches.value("uploads") == "refuse",
    )

    transcribers = Transcribers(
        fleet, file_bytes_max=settings.transcription_bytes_max, timeout_s=settings.transcription_timeout_s
    )
    letters = DeadLetters(broker.require)
    doors = Doors(entrance, meetings, insights, live, viewers, desk, switches, letters, transcribers, budget, figures)
    life.tell("redis", lambda: _cache_told(cache))
    life.tell("broker", lambda: {"state": "ok" if broker.connected else "away"})
    life.tell("transcribers", lambda: {"state": "ok" if fleet.live else "away", "connected": sorted(fleet.live)})
    app = public_app(settings, doors, rates=rates, readiness=life.readiness, ailing=life.ailing)
    crowd = Crowd(
        most=settings.connections_max,
        most_of_one=settings.connections_per_ip_max,
        proxies=Proxies(settings.trusted_proxies),
    )
    server = HttpServer(
        app,
        settings.host,
        settings.port,
        http=partial(PatientHttp, crowd, _patience(settings)),
        ws=partial(socket_protocol, crowd),
        ws_per_message_deflate=False,
        ws_max_size=262_144,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.heartbeat_s,
        # Longer than the minute after which common proxies close their side first.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.request_drain_s,
    )
    serving = life.spawn(server.run_until_exit(), "public port")
    life.ready()

    await life.until_stop()

    # Readiness says no from here on, but who has not seen that yet is still served: uvicorn will close the port and all
    # idle connections at once, and a request on its way would meet that.
    app.leaving = True
    await asyncio.sleep(settings.notice_s)
    # uvicorn closes every socket at once when it is told to exit: clients must know where to go before.
    await asyncio.gather(live.drain(settings.live_drain_s), viewers.drain(settings.live_drain_s))
    server.should_exit = True
    await serving
    await admission.settle()


def _entrance(
    settings: Settings, meetings: Peer, broker: Broker, outside: httpx2.AsyncClient, life: Lifecycle
) -> Entrance:
    timeout_s, revocations = settings.call_timeout_s, Revocations()
    shares = Shares(settings.service_auth_key.get_secret_value())
    checks = ApiKeyChecks(meetings, timeout_s=timeout_s)
    life.orders.may_forget(checks.forget)
    credentials = Credentials(
        AccessTokens(settings.auth_public_key),
        checks,
        _external(settings, meetings, outside, life),
        shares,
        revocations,
    )
    return Entrance(
        meetings=meetings,
        credentials=credentials,
        tickets=Tickets(settings.service_auth_key.get_secret_value(), broker),
        shares=shares,
        revocations=revocations,
        news=RevocationNews(revocations, meetings, broker, every_s=settings.revocation_poll_s, timeout_s=timeout_s),
        callers=Callers(secure=settings.verbatim_env == "production"),
        captcha=_captcha(settings, outside),
        timeout_s=timeout_s,
        login_timeout_s=settings.login_timeout_s,
        fresh_login_s=settings.fresh_login_s,
    )


def _cache_told(cache: Cache) -> dict[str, object]:
    """Return the state of the connection to Redis and its statistics (R-RL-2)."""
    told = asdict(cache.statistics())
    return told | {"state": "ok" if cache.state is State.CONNECTED else cache.state.value}


def _external(settings: Settings, meetings: Peer, outside: httpx2.AsyncClient, life: Lifecycle) -> ExternalTokens:
    if not settings.oidc_issuer:
        return NoExternalTokens()
    keys = IssuerKeys(outside, settings.oidc_issuer, settings.oidc_jwks_url)
    life.spawn(keys.run(), "keys of the issuer")
    life.orders.may_forget(keys.forget)
    return OidcTokens(settings.oidc_issuer, settings.oidc_audience, keys, meetings, timeout_s=settings.call_timeout_s)


def _captcha(settings: Settings, outside: httpx2.AsyncClient) -> Captcha:
    if not settings.captcha_verify_url:
        return NoCaptcha()
    secret = settings.captcha_secret.get_secret_value()
    return SiteVerifyCaptcha(outside, settings.captcha_verify_url, secret, settings.captcha_where)


def _limits(settings: Settings) -> LiveLimits:
    return LiveLimits(
        heartbeat_s=settings.heartbeat_s,
        token_grace_s=settings.token_grace_s,
    )


def _upload_settings(settings: Settings) -> UploadSettings:
    return UploadSettings(
        file_bytes_max=settings.upload_bytes_max,
        at_once_max=settings.uploads_at_once_max,
        idle_s=settings.upload_idle_s,
        call_s=settings.call_timeout_s,
    )


def _patience(settings: Settings) -> Patience:
    return Patience(
        head_s=settings.head_timeout_s,
        head_bytes_max=settings.head_bytes_max,
        body_bytes_per_s=settings.body_bytes_per_s_min,
        read_s=settings.unread_timeout_s,
    )


def _viewer_limits(settings: Settings) -> ViewerLimits:
    return ViewerLimits(
        viewers_max=settings.viewers_max,
        viewers_per_account_max=settings.viewers_per_account_max,
        heartbeat_s=settings.viewer_heartbeat_s,
        stall_s=settings.viewer_stall_s,
        life_s=settings.viewer_life_s,
        backlog_max=settings.viewer_backlog_max,
        poll_s=settings.viewer_poll_s,
        insights_wait_s=settings.viewer_insights_wait_s,
        heal_wait_s=settings.viewer_heal_wait_s,
    )


def main() -> None:
    """Run the gateway to its end."""
    settings = load(Settings)
    lifecycle.run("gateway", settings, partial(start, settings))


if __name__ == "__main__":
    main()
