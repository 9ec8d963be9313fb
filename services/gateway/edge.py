"""Where requests come in and answers go out: request id, limits, headers, figures, and the last net for failures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import ids, telemetry
from chassis.errors import AppError, Kind
from services.gateway import errors
from services.gateway.metrics import ACTIVE_REQUESTS, REQUESTS

log = telemetry.logger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET_ROUTES = frozenset({"/healthz", "/readyz"})

_EVENT_STREAM = b"text/event-stream"

_PAGE_POLICY = b"default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
_DATA_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]

Headers = list[tuple[bytes, bytes]]


class Edge:
    """The one ASGI callable of the public port.

    Sends WebSockets to the endpoint of their path, everything else to `rest`. The frames of a socket pass by
    untouched: there are hundreds of thousands of them. When it is `leaving`, each answer asks for the end of its
    connection, so that nobody has one left to send on when the port is closed.
    """

    def __init__(
        self, rest: ASGIApp, sockets: Mapping[str, ASGIApp], *, body_bytes_max: int, origins: Sequence[str]
    ) -> None:
        self.leaving = False
        self._rest = rest
        self._sockets = dict(sockets)
        self._body_bytes_max = body_bytes_max
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        offered = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        with telemetry.bound(ids.accept_request_id(offered)):
            endpoint = self._sockets.get(scope["path"])
            try:
                if endpoint is None:
                    await errors.refuse_handshake(AppError(Kind.NOT_FOUND, "There is nothing here."), scope, send)
                else:
                    await endpoint(scope, receive, send)
            except Exception:
                log.exception("socket failed", route=scope["path"] if endpoint else "unmatched")
                await send({"type": "websocket.close", "code": errors.unforeseen().codes.close})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        request = _Request(scope, receive, send, self._body_bytes_max, self._origins, last=self.leaving)
        active = ACTIVE_REQUESTS.labels(method)
        active.inc()
        with telemetry.bound(request.id):
            try:
                await self._answer(request)
            finally:
                active.dec()
                # A stream lasts as long as somebody watches: what counts is when it began.
                took_s = (request.stream_began or time.perf_counter()) - started
                route = getattr(scope.get("route"), "path", "unmatched")
                # No status: the client left, or the process is ending, before there was an answer.
                REQUESTS.labels(method, route, request.status or 499).observe(took_s)
                if route not in _QUIET_ROUTES or request.status != 200:
                    log.info("answered", method=method, route=route, status=request.status, ms=round(took_s * 1000, 1))

    async def _answer(self, request: _Request) -> None:
        scope = request.scope
        try:
            if request.declared_bytes > self._body_bytes_max:
                raise AppError(Kind.PAYLOAD_TOO_LARGE, "The body is too long.")
            if request.is_preflight:
                await request.send_preflight()
            else:
                await self._rest(scope, request.receive, request.send)
        except AppError as error:
            await errors.answer(error, scope["path"])(scope, request.receive, request.send)
        except Exception:
            log.exception("request failed")
            if request.status == 0:
                await errors.answer(errors.unforeseen(), scope["path"])(scope, request.receive, request.send)
            # An answer that has begun stays without its end: the server then cuts the connection, and the client
            # sees that something is missing.


class _Request:
    """One request on its way through: counts its body, dresses its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, body_bytes_max: int, origins: frozenset[bytes], *, last: bool
    ) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self.scope = scope
        self.status = 0
        self.stream_began = 0.0
        self.id = ids.accept_request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        declared = headers.get(b"content-length", b"0")
        self.declared_bytes = int(declared) if declared.isdigit() else 0
        origin = headers.get(b"origin", b"")
        self._origin = origin if origin in origins else b""
        self.is_preflight = (
            scope["method"] == "OPTIONS" and bool(self._origin) and b"access-control-request-method" in headers
        )
        self._receive = receive
        self._send = send
        self._bytes_left = body_bytes_max
        self._last = last

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes_left -= len(message.get("body", b""))
            if self._bytes_left < 0:
                raise errors.too_long()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = dict(message["headers"])
            message["headers"] = [*message["headers"], *self._added(own)]
            if own.get(b"content-type") == _EVENT_STREAM:
                self.stream_began = time.perf_counter()
        await self._send(message)

    def _added(self, own: dict[bytes, bytes]) -> Headers:
        is_page = own.get(b"content-type", b"").startswith(b"text/html")
        added: Headers = [
            (b"x-request-id", self.id.encode()),
            (b"content-security-policy", _PAGE_POLICY if is_page else _DATA_POLICY),
            *_SECURITY,
        ]
        if self._last:
            added.append((b"connection", b"close"))
        if b"cache-control" not in own:
            added.append((b"cache-control", b"no-store"))
        if self._origin:
            added += [
                (b"access-control-allow-origin", self._origin),
                (b"access-control-expose-headers", b"ETag, Location, Retry-After, X-Request-ID"),
                (b"vary", b"Origin"),
            ]
        return added

    async def send_preflight(self) -> None:
        """Tell the browser what a page of an allowed origin may send. Cookies are never among it."""
        headers = [
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", b"Authorization, Content-Type, If-Match, X-Request-ID"),
            (b"access-control-max-age", b"600"),
        ]
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})
