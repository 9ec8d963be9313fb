"""The public application, put together: routes, failures, pages, and the edge around them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from chassis import telemetry
from chassis.dead_letters import DeadLetters
from chassis.errors import AppError, Kind
from chassis.rpc import Peer
from services.gateway import errors, pages
from services.gateway.addresses import Proxies
from services.gateway.api import (
    accounts,
    admin_accounts,
    analytics,
    api_keys,
    dead_letters,
    edits,
    health,
    insights,
    jobs,
    logins,
    meetings,
    openai,
    shares,
    tasks,
    transcripts,
    tus,
    uploads,
    usage,
    webhooks,
)
from services.gateway.api import controls as controls_api
from services.gateway.api import viewers as viewers_api
from services.gateway.api.controls import ControlDesk
from services.gateway.api.health import Ailing, Readiness
from services.gateway.bodies import BodyLimits
from services.gateway.budget import AudioBudget, ModelSpending
from services.gateway.document import Described
from services.gateway.edge import Edge, Guard
from services.gateway.entrance import Entrance
from services.gateway.last_known import LastKnown
from services.gateway.limits import RateLimits
from services.gateway.load import Load
from services.gateway.settings import Settings
from services.gateway.site import Site
from services.gateway.transcribing import Transcribers
from services.gateway.uploading import UploadDesk
from services.gateway.viewers import Viewers

_ABOUT = (
    "Live meetings and recordings into transcripts, minutes and tasks. Times are RFC 3339 in UTC, durations seconds, "
    "ids are UUIDs. Every failure has the shape of ErrorAnswer, and every answer an X-Request-ID that its log lines "
    "share. What is versioned carries an ETag, and a call that changes it sends that as If-Match. Live audio goes to "
    "the WebSocket /transcribe."
)


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the routes lead to."""

    entrance: Entrance
    meetings: Peer
    insights: Peer
    live: ASGIApp
    viewers: Viewers
    uploads: UploadDesk
    controls: ControlDesk
    letters: DeadLetters
    transcribers: Transcribers
    budget: AudioBudget
    analytics: LastKnown


def public_app(
    settings: Settings, doors: Doors, *, rates: RateLimits, readiness: Readiness, ailing: Ailing = dict
) -> Edge:
    """Return the ASGI callable of the public port."""
    app = FastAPI(
        title="Verbatim",
        version=telemetry.VERSION,
        description=_ABOUT,
        # Ours are below: the framework's documentation pages load scripts from elsewhere.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.credentials = doors.entrance.credentials
    errors.install(app)
    call_s, export_s = settings.call_timeout_s, settings.export_timeout_s
    routers = (
        accounts.routes(doors.entrance),
        logins.routes(doors.entrance),
        api_keys.routes(doors.entrance),
        admin_accounts.routes(doors.entrance),
        meetings.routes(doors.meetings, timeout_s=call_s),
        transcripts.routes(doors.meetings, timeout_s=call_s, export_timeout_s=export_s),
        edits.routes(doors.meetings, timeout_s=call_s),
        viewers_api.routes(doors.viewers, doors.entrance),
        shares.routes(doors.meetings, doors.entrance.shares, timeout_s=call_s),
        tasks.routes(doors.meetings, timeout_s=call_s),
        webhooks.routes(doors.meetings, timeout_s=call_s),
        usage.routes(doors.budget, ModelSpending(doors.insights, timeout_s=settings.budget_timeout_s)),
        insights.routes(doors.insights, timeout_s=call_s),
        analytics.routes(doors.insights, doors.analytics, timeout_s=call_s),
        jobs.routes(doors.meetings, doors.insights, timeout_s=call_s),
        tus.routes(doors.uploads),
        uploads.routes(doors.uploads),
        controls_api.routes(doors.controls),
        dead_letters.routes(doors.letters),
        openai.routes(doors.transcribers, model=settings.whisper_model, idle_s=settings.upload_idle_s),
        health.routes(readiness, ailing),
    )
    for router in routers:
        # Not `include_router`: it makes every route anew, half a second in the midst of the first request.
        app.router.routes.extend(router.routes)
    _add_pages(app)
    guard = Guard(
        proxies=Proxies(settings.trusted_proxies),
        load=Load(settings.load_max),
        rates=rates,
        account_of=doors.entrance.credentials.account_of,
        origins=settings.allowed_origins,
        hosts=settings.allowed_hosts,
        bodies=BodyLimits(
            settings.body_bytes_max,
            {
                "/api/uploads": settings.upload_bytes_max,
                "/v1/audio/transcriptions": settings.transcription_bytes_max,
            },
        ),
        request_s=settings.request_timeout_s,
    )
    return Edge(app, {"/transcribe": doors.live}, guard)


def _add_pages(app: FastAPI) -> None:
    """Add what is the same for everybody, made once."""
    described = Described(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return _fixed(await described.schema(), "application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _fixed(await described.page(), "text/html; charset=utf-8")

    @app.get("/style.css", include_in_schema=False)
    async def style() -> Response:
        return _fixed(pages.STYLE.encode(), "text/css; charset=utf-8")

    _add_site(app, Site.read())


def _add_site(app: FastAPI, site: Site) -> None:
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return site.page.answer(request.headers)

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str, request: Request) -> Response:
        if (found := site.assets.get(name)) is None:
            raise AppError(Kind.NOT_FOUND, "There is nothing here.")
        return found.answer(request.headers)


def _fixed(content: bytes, media_type: str) -> Response:
    return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-cache"})
