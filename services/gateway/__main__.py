"""The gateway: the only public edge. `python -m services.gateway` starts it."""

from __future__ import annotations

import asyncio
from functools import partial

from chassis import lifecycle
from chassis.broker import Broker
from chassis.dead_letters import DeadLetters
from chassis.lifecycle import HttpServer, Lifecycle
from chassis.rpc import Identity, peer
from chassis.settings import load
from services.gateway.app import public_app
from services.gateway.auth import AccessTokens
from services.gateway.captions import NatsCaptions
from services.gateway.connection import LiveLimits
from services.gateway.entries import StoredEntries
from services.gateway.live import LiveEndpoint
from services.gateway.relay import Fleet
from services.gateway.settings import Settings
from services.gateway.viewers import ViewerLimits, Viewers


async def start(settings: Settings, life: Lifecycle) -> None:
    """Connect, serve, and on SIGTERM stop without cutting anybody off."""
    identity = Identity("gateway", settings.service_auth_key.get_secret_value())
    meetings = await life.exits.enter_async_context(peer(settings.meetings_target, identity))
    insights = await life.exits.enter_async_context(peer(settings.insights_target, identity))
    access_tokens = AccessTokens(settings.auth_public_key)

    fleet = Fleet(settings.transcriber_targets, identity)
    life.spawn(fleet.run(), "transcribers")
    live = LiveEndpoint(fleet, meetings, access_tokens, _limits(settings))

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
        readiness=life.readiness,
    )
    server = HttpServer(
        app,
        settings.host,
        settings.port,
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_max_size=262_144,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.heartbeat_s,
        proxy_headers=False,
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


def _limits(settings: Settings) -> LiveLimits:
    return LiveLimits(
        heartbeat_s=settings.heartbeat_s,
        sessions_per_account=settings.sessions_per_account,
        token_grace_s=settings.token_grace_s,
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
