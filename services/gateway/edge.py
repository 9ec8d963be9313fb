"""Where requests come in and answers go out: request id, limits, headers, figures, and the last net for failures."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import ids, rpc, sentry, telemetry, tracing
from chassis.errors import AppError, Kind
from chassis.limits import Verdict
from services.gateway import errors, headers, limits
from services.gateway.addresses import Proxies
from services.gateway.bodies import BodyLimits
from services.gateway.limits import RateLimits
from services.gateway.load import Load, work_of
from services.gateway.metrics import ACTIVE_REQUESTS, REQUESTS, RESPONSES

log = telemetry.logger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET_ROUTES = frozenset({"/healthz", "/readyz"})
_FREE_PATHS = frozenset({"/healthz", "/readyz", "/", "/docs", "/openapi.json", "/style.css", "/favicon.ico"})
_PORT = re.compile(rb":[0-9]*$")
_FREE_FOLDER = "/assets/"
_EVENT_STREAM = b"text/event-stream"
# What is left of a body after the answer is read and thrown away, if it is no more than this.
_DRAINED_BYTES_MAX = 64 * 1024
_LINGER_S = 3.0

AccountOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Guard:
    """Who may come in. `account_of` tells whom an Authorization header speaks for, without asking anybody."""

    proxies: Proxies
    load: Load
    rates: RateLimits
    account_of: AccountOf
    origins: Sequence[str]
    hosts: Sequence[str]
    bodies: BodyLimits
    request_s: float


class Edge:
    """The one ASGI callable of the public port.

    Sends WebSockets to the endpoint of their path, everything else to `rest`. The frames of a socket pass by
    untouched: there are hundreds of thousands of them. When it is `leaving`, each answer asks for the end of its
    connection, so that nobody has one left to send on when the port is closed.
    """

    def __init__(self, rest: ASGIApp, sockets: Mapping[str, ASGIApp], guard: Guard) -> None:
        self.leaving = False
        self._rest = rest
        self._sockets = dict(sockets)
        self._guard = guard
        self._origins = frozenset(origin.encode() for origin in guard.origins)
        self._hosts = frozenset(host.lower().encode() for host in guard.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            # From here on `client` is whom the request comes from, whoever brought it.
            scope["client"] = (self._guard.proxies.client(scope), 0)
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = dict(scope["headers"])
        offered = fields.get(b"x-request-id", b"").decode("latin-1")
        with telemetry.bound(ids.accept_request_id(offered)):
            # The endpoint has a span for what it does until the first greeting: the socket lasts for hours.
            endpoint = self._sockets.get(scope["path"])
            try:
                if endpoint is None:
                    raise AppError(Kind.NOT_FOUND, "There is nothing here.")
                self._check_host(scope)
                self._check_origin(fields)
                await endpoint(scope, receive, send)
            except AppError as error:
                await errors.refuse_handshake(error, scope, send)
            except Exception:
                log.exception("socket failed", route=scope["path"] if endpoint else "unmatched")
                await send({"type": "websocket.close", "code": errors.unforeseen().codes.close})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        request = _Request(scope, receive, send, self._guard.bodies.of(scope["path"]), self._origins, last=self.leaving)
        active = ACTIVE_REQUESTS.labels(method)
        active.inc()
        # The trace begins here, whatever the client says of one: who may send anything does not decide what is kept.
        probe = scope["path"] in _QUIET_ROUTES
        with nullcontext(tracing.NONE) if probe else tracing.serve(method, None) as span, telemetry.bound(request.id):
            try:
                await self._answer(request)
            finally:
                active.dec()
                # A stream lasts as long as somebody watches: what counts is when it began.
                took_s = (request.stream_began or time.perf_counter()) - started
                route = getattr(scope.get("route"), "path", "unmatched")
                # No status: the client left, or the process is ending, before there was an answer.
                status = request.status or 499
                # A method that a route does not have is one more set of series for each pair that somebody tries.
                counted = "unmatched" if status == 405 else route
                REQUESTS.labels(method, counted).observe(took_s, tracing.exemplar(span))
                RESPONSES.labels(counted, status).inc()
                _name(span, method, route, status)
                if route not in _QUIET_ROUTES or request.status != 200:
                    log.info("answered", method=method, route=route, status=request.status, ms=round(took_s * 1000, 1))

    async def _answer(self, request: _Request) -> None:
        scope = request.scope
        try:
            await self._serve(request)
        except AppError as error:
            await errors.answer(error, scope)(scope, request.receive, request.send)
        except asyncio.CancelledError:
            # The process ends and this took too long.
            if request.status == 0:
                restarting = AppError(Kind.UNAVAILABLE, "The service is restarting.")
                await errors.answer(restarting, scope)(scope, request.receive, request.send)
            raise
        except Exception:
            log.exception("request failed")
            if request.status == 0:
                await errors.answer(errors.unforeseen(), scope)(scope, request.receive, request.send)
            # An answer that has begun stays without its end: the server then cuts the connection, and the client
            # sees that something is missing.

    async def _serve(self, request: _Request) -> None:
        scope, guard = request.scope, self._guard
        method, path = scope["method"], scope["path"]
        self._check_host(scope)
        if request.is_preflight:
            await request.send_preflight()
            return
        work = work_of(method, path)
        with guard.load.carry(work):
            await self._admit(request)
        if not work.lasting:
            # A body that comes slowly is no work yet: who sends a thousand of them must not keep others out.
            await request.read_ahead()
        with guard.load.carry(work), rpc.within(None if work.lasting else guard.request_s):
            await self._rest(scope, request.receive, request.send)

    async def _admit(self, request: _Request) -> None:
        """Charge for the request. Raises AppError if its sender has had enough, or means to send too much."""
        scope, guard = request.scope, self._guard
        if not _is_free(scope):
            account = guard.account_of(request.fields.get(b"authorization", b"").decode("latin-1"))
            request.verdict = await guard.rates.charge(scope["method"], scope["path"], scope["client"][0], account)
            if not request.verdict.allowed:
                raise limits.refusal(request.verdict)
        if request.declared_bytes > request.body_bytes_max:
            raise AppError(Kind.PAYLOAD_TOO_LARGE, "The body is too long.")

    def _check_host(self, scope: Scope) -> None:
        """Refuse what was sent to a name that is not ours; probes come by address."""
        if not self._hosts or scope["path"] in _QUIET_ROUTES:
            return
        asked = [value for name, value in scope["headers"] if name == b"host"]
        if len(asked) != 1 or _PORT.sub(b"", asked[0].lower()) not in self._hosts:
            raise AppError(Kind.BAD_REQUEST, "This is not the host that was asked for.")

    def _check_origin(self, fields: Mapping[bytes, bytes]) -> None:
        """Let a page open a socket only if it is ours or allowed. What is no browser says no origin."""
        origin = fields.get(b"origin")
        if origin is None or origin in self._origins:
            return
        _, scheme_end, host = origin.partition(b"://")
        if not scheme_end or host.lower() != fields.get(b"host", b"").lower():
            raise AppError(Kind.FORBIDDEN, "Pages of this origin may not open a socket here.")


def _is_free(scope: Scope) -> bool:
    """Tell whether a request is charged to nobody: pages, and probes that ask for no more than a probe does."""
    path = scope["path"]
    if path in _QUIET_ROUTES and scope["query_string"]:
        return False
    return path in _FREE_PATHS or bool(path.startswith(_FREE_FOLDER))


def _name(span: tracing.Span, method: str, route: str, status: int) -> None:
    """Say of a span what is known only when the route is found."""
    span.update_name(f"{method} {route}")
    tracing.tell(span, method=method, route=route, status=status, request_id=telemetry.request_id())
    if status >= 500:
        tracing.spoil(span)
    sentry.rename(f"{method} {route}")


class _Request:
    """One request on its way through: counts its body, dresses its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, body_bytes_max: int, origins: frozenset[bytes], *, last: bool
    ) -> None:
        self.fields: dict[bytes, bytes] = dict(scope["headers"])
        self.scope = scope
        self.status = 0
        self.stream_began = 0.0
        self.verdict = Verdict(True, ())
        self.id = ids.accept_request_id(self.fields.get(b"x-request-id", b"").decode("latin-1"))
        declared = self.fields.get(b"content-length", b"0")
        self.declared_bytes = int(declared) if declared.isdigit() else 0
        origin = self.fields.get(b"origin", b"")
        self._origin = origin if origin in origins else b""
        self.is_preflight = (
            scope["method"] == "OPTIONS" and bool(self._origin) and b"access-control-request-method" in self.fields
        )
        self._receive = receive
        self._send = send
        self.body_bytes_max = body_bytes_max
        self._received_bytes = 0
        self._ahead: deque[Message] = deque()
        self._received_all = False
        self._closing = False
        self._chunked = b"transfer-encoding" in self.fields
        self._last = last

    async def read_ahead(self) -> None:
        """Read the body, which is short by its limit, to its end. Raises AppError(PAYLOAD_TOO_LARGE)."""
        if not (self.declared_bytes or self._chunked):
            return
        while not self._received_all:
            message = await self._next()
            if self._received_bytes > self.body_bytes_max:
                raise AppError(Kind.PAYLOAD_TOO_LARGE, "The body is too long.")
            self._ahead.append(message)
            if message["type"] != "http.request":
                break

    async def receive(self) -> Message:
        if self._ahead:
            return self._ahead.popleft()
        message = await self._next()
        if self._received_bytes > self.body_bytes_max:
            raise errors.too_long()
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            self._received_all = not message.get("more_body", False)
        return message

    async def _linger(self) -> None:
        """Read on for a moment and throw it away: a client that is cut off while it sends may never see the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while not self._received_all:
                    message = await self._receive()
                    self._received_all = message["type"] != "http.request" or not message.get("more_body", False)

    @property
    def _leaves_body(self) -> bool:
        """Whether much of the body is still to come: then the connection ends with the answer, nobody reads it."""
        left = self.declared_bytes - self._received_bytes
        return not self._received_all and (self._chunked or left > _DRAINED_BYTES_MAX)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = dict(message["headers"])
            message["headers"] = [*message["headers"], *self._added(own)]
            if own.get(b"content-type") == _EVENT_STREAM:
                self.stream_began = time.perf_counter()
        elif self._closing and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    def _added(self, own: dict[bytes, bytes]) -> headers.Headers:
        is_page = own.get(b"content-type", b"").startswith(b"text/html")
        added = [*headers.for_answer(self.id, page=is_page), *limits.fields(self.verdict)]
        self._closing = self._leaves_body
        if self._last or self._closing:
            added.append((b"connection", b"close"))
        if b"cache-control" not in own:
            added.append((b"cache-control", b"no-store"))
        if self._origin:
            added += headers.for_origin(self._origin)
        return added

    async def send_preflight(self) -> None:
        """Tell the browser what a page of an allowed origin may send."""
        await self.send({"type": "http.response.start", "status": 204, "headers": list(headers.PREFLIGHT)})
        await self.send({"type": "http.response.body", "body": b""})
