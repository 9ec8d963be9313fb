"""The gateway: the only public edge. `python -m services.gateway` starts it."""

from __future__ import annotations

from functools import partial

from starlette.types import Receive, Scope, Send

from chassis import lifecycle
from chassis.errors import AppError, Kind
from chassis.lifecycle import HttpServer, Lifecycle
from chassis.rpc import Identity, peer
from chassis.settings import load
from services.gateway import errors
from services.gateway.app import public_app
from services.gateway.auth import AccessTokens
from services.gateway.settings import GatewaySettings


async def start(settings: GatewaySettings, life: Lifecycle) -> None:
    """Connect, serve, and on SIGTERM stop without cutting anybody off."""
    identity = Identity("gateway", settings.service_auth_key.get_secret_value())
    meetings = await life.exits.enter_async_context(peer(settings.meetings_target, identity))
    insights = await life.exits.enter_async_context(peer(settings.insights_target, identity))
    access_tokens = AccessTokens(settings.auth_public_key)

    live = LiveEndpoint()  # <- the real one comes with services/gateway/live.py

    app = public_app(
        settings,
        access_tokens=access_tokens,
        meetings_peer=meetings,
        insights_peer=insights,
        live=live,
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
        ws_ping_interval=20,
        ws_ping_timeout=20,
        proxy_headers=False,
        # Longer than the minute after which common proxies close their side first.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.request_drain_s,
    )
    serving = life.spawn(server.run_until_exit(), "public port")
    life.ready()

    await life.until_stop()

    server.should_exit = True
    await serving


class LiveEndpoint:
    """Stands where live audio will be: refuses every handshake."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await errors.refuse_handshake(AppError(Kind.UNAVAILABLE, "Live audio is not served here yet."), scope, send)


def main() -> None:
    """Run the gateway to its end."""
    settings = load(GatewaySettings)
    lifecycle.run("gateway", settings, partial(start, settings))


if __name__ == "__main__":
    main()
