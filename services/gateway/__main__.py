"""The gateway: the only public edge. `python -m services.gateway` starts it."""

from __future__ import annotations

import asyncio
from functools import partial

from chassis import lifecycle
from chassis.broker import Broker
from chassis.cache import Cache
from chassis.dead_letters import DeadLetters
from chassis.lifecycle import HttpServer, Lifecycle
from chassis.limits import Limiter
from chassis.rpc import Identity, peer
from chassis.seats import Seats
from chassis.settings import load
from services.gateway.addresses import Proxies
from services.gateway.admission import Admission
from services.gateway.app import public_app
from services.gateway.auth import AccessTokens
from services.gateway.captions import NatsCaptions
from services.gateway.connection import LiveLimits
from services.gateway.entries import StoredEntries
from services.gateway.limits import RateLimits
from services.gateway.live import LiveEndpoint
from services.gateway.protocol import CountedSocket, Crowd, Patience, PatientHttp
from services.gateway.relay import Fleet
from services.gateway.settings import Settings
from services.gateway.switches import Switches
from services.gateway.viewers import ViewerLimits, Viewers


async def start(settings: Settings, life: Lifecycle) -> None:
    """Connect, serve, and on SIGTERM stop without cutting anybody off."""
    identity = Identity("gateway", settings.service_auth_key.get_secret_value())
    meetings = await life.exits.enter_async_context(peer(settings.meetings_target, identity))
    insights = await life.exits.enter_async_context(peer(settings.insights_target, identity))
    access_tokens = AccessTokens(settings.auth_public_key)

    cache = Cache(
        settings.redis_url.get_secret_value(),
        service="gateway",
        replica=life.replica,
        replicas_min=settings.gateway_replicas,
    )
    switches = Switches(settings.nats_url, life.replica, replicas=settings.nats_replicas)
    life.spawn(switches.run(), "controls")
    limiter = Limiter(cache)
    rates = RateLimits(
        limiter,
        settings.rules,
        aggressive_factor=settings.rate_limits_aggressive,
        is_aggressive=lambda: switches.value("rate_limits") == "aggressive",
    )
    admission = Admission(rates, limiter, Seats(cache, "sessions"), settings.session_limits)
    life.spawn(cache.run(), "redis")
    life.spawn(admission.run(), "sessions")

    fleet = Fleet(settings.transcriber_targets, identity)
    life.spawn(fleet.run(), "transcribers")
    live = LiveEndpoint(fleet, meetings, access_tokens, admission, _limits(settings))

    captions = NatsCaptions(settings.nats_url, life.replica)
    life.spawn(captions.run(), "captions")
    entries = StoredEntries(meetings, insights, timeout_s=settings.call_timeout_s)
    viewers = Viewers(entries, captions, _viewer_limits(settings))

    broker = Broker(settings.nats_url, life.replica)
    life.spawn(broker.keep_connected(), "broker")

    app = public_app(
        settings,
        access_tokens=access_tokens,
        meetings_peer=meetings,
        insights_peer=insights,
        live=live,
        viewers=viewers,
        letters=DeadLetters(lambda: broker.bus),
        rates=rates,
        readiness=life.readiness,
    )
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
        ws=partial(CountedSocket, crowd),
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


def _limits(settings: Settings) -> LiveLimits:
    return LiveLimits(
        heartbeat_s=settings.heartbeat_s,
        token_grace_s=settings.token_grace_s,
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
    )


def main() -> None:
    """Run the gateway to its end."""
    settings = load(Settings)
    lifecycle.run("gateway", settings, partial(start, settings))


if __name__ == "__main__":
    main()
