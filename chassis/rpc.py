"""gRPC between services: deadlines, identity, request ids, and AppError across the wire intact."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import grpc
import jwt
import orjson
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import Counter, Histogram

from chassis import ids, telemetry, tracing
from chassis.errors import AppError, Kind, Problem, kind_of_grpc
from chassis.second_try import SecondTry
from chassis.settings import ServiceSettings
from chassis.tls import Tls

log = telemetry.logger(__name__)

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
_ERROR_KEY = "verbatim-error-bin"
_AUDIENCE = "verbatim-internal"
_TOKEN_LIFE_S = 300.0
# Few, and no status among the labels: each method has all of them (docs/adr/0153).
_BUCKETS = (0.01, 0.05, 0.25, 1.0, 5.0)

_LABELS = ["rpc_method"]

SERVER_CALLS = Histogram("rpc_server_call_duration_seconds", "Time to answer a unary call.", _LABELS, buckets=_BUCKETS)
CLIENT_CALLS = Histogram("rpc_client_call_duration_seconds", "Time a unary call took.", _LABELS, buckets=_BUCKETS)
_FAILED = ["rpc_method", "rpc_response_status_code"]
SERVER_FAILURES = Counter("rpc_server_failures_total", "Unary calls answered with an error, by status.", _FAILED)
CLIENT_FAILURES = Counter("rpc_client_failures_total", "Unary calls that failed, by status.", _FAILED)

AGAIN = Counter(
    "rpc_client_retries_total", "Reads asked a second time because the first met a broken connection.", ["rpc_method"]
)

# Measured against a frozen peer: keepalive alone does not fail over, http2.ping_timeout_ms does.
_KEEPALIVE: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
]
_CHANNEL: list[tuple[str, Any]] = [
    *_KEEPALIVE,
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
    # Not what another channel last saw of an address: it may be waiting to try a server again that was there before.
    ("grpc.use_local_subchannel_pool", 1),
    # A replica that says that it retires is asked nothing more, before it refuses anything.
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}'),
]
_SERVER: list[tuple[str, Any]] = [
    *_KEEPALIVE,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 2000),
    ("grpc.http2.max_ping_strikes", 0),
]

# What callers get to hear that a replica retires. Their health checks are streams: it is a matter of milliseconds.
_NOTICE_S = 0.5
_AGAIN_AFTER_S = (0.02, 0.1)

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)

Res = TypeVar("Res")


class Identity:
    """Who this process is to its peers: signs short-lived tokens with the shared key and checks those of others.

    With `tls` it has a certificate as well, and speaks to nobody that has none.
    """

    def __init__(
        self, service: str, key: str, *, tls: Tls | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._service = service
        self.tls = tls
        self._key = key
        self._clock = clock
        self._token = ""
        self._token_until = 0.0
        self._checked: dict[str, tuple[float, str]] = {}

    @classmethod
    def of(cls, service: str, settings: ServiceSettings) -> Identity:
        """Return who a service is by its settings."""
        return cls(service, settings.service_auth_key.get_secret_value(), tls=Tls.of(settings))

    def token(self) -> str:
        """Return a token that is good for at least half of its life."""
        now = self._clock()
        if now > self._token_until - _TOKEN_LIFE_S / 2:
            self._token_until = now + _TOKEN_LIFE_S
            claims = {"iss": self._service, "aud": _AUDIENCE, "iat": int(now), "exp": int(self._token_until)}
            self._token = jwt.encode(claims, self._key, algorithm="HS256")
        return self._token

    def check(self, token: str) -> str:
        """Return the name of the calling service.

        Raises AppError(UNAUTHORIZED) for a token that is missing, forged or expired. A checked token is remembered
        until it expires, so that a call costs a dictionary look-up.
        """
        now = self._clock()
        known = self._checked.get(token)
        if known and known[0] > now:
            return known[1]
        try:
            options: Any = {"require": ["exp", "iat", "iss"]}
            claims = jwt.decode(token, self._key, ["HS256"], options, audience=_AUDIENCE, leeway=60)
        except jwt.PyJWTError as fault:
            raise AppError(
                Kind.UNAUTHORIZED, "The caller is not a service of this installation.", log=str(fault)
            ) from fault
        if len(self._checked) > 1000:
            self._checked.clear()
        self._checked[token] = (float(claims["exp"]), str(claims["iss"]))
        return str(claims["iss"])

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what every call carries."""
        return (
            ("authorization", self.token()),
            ("x-request-id", telemetry.request_id() or ids.new_request_id()),
            *tracing.carried().items(),
        )


class Peer:
    """The door to one service. `call` is the only way to make a unary call."""

    def __init__(self, target: str, identity: Identity) -> None:
        self.target = target
        self.channel = (
            grpc.aio.secure_channel(target, identity.tls.channel(), options=_CHANNEL)
            if identity.tls
            else grpc.aio.insecure_channel(target, options=_CHANNEL)
        )
        self._identity = identity
        self._second_try = SecondTry()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a stream to the peer carries."""
        return self._identity.metadata()

    async def call(self, method: Callable[..., Awaitable[Res]], request: Any, *, timeout_s: float) -> Res:
        """Call, at most for `timeout_s` and never longer than what is left of the caller's own deadline.

        One attempt; a method that its contract calls NO_SIDE_EFFECTS gets a second one within the same time when the
        first met a broken connection. Whoever calls must not try again. Raises AppError: the peer's own, or
        UNAVAILABLE / TIMEOUT for the transport's failures.
        """
        until = time.monotonic() + _within_callers_deadline(timeout_s)
        name = getattr(method, "_method", b"").decode() or "unknown"
        try:
            answer = await self._attempt(method, request, name, until)
        except grpc.aio.AioRpcError as fault:
            # With our trailer it is the peer's own verdict, not a failure of the way to it.
            if _carried(fault) is not None or not self._second_try.allows(name, fault.code()):
                raise _to_app_error(fault, self.target) from fault
        else:
            self._second_try.earn()
            return answer
        AGAIN.labels(name).inc()
        await asyncio.sleep(random.uniform(*_AGAIN_AFTER_S))
        try:
            return await self._attempt(method, request, name, until)
        except grpc.aio.AioRpcError as fault:
            raise _to_app_error(fault, self.target) from fault

    async def _attempt(self, method: Callable[..., Awaitable[Res]], request: Any, name: str, until: float) -> Res:
        started = time.monotonic()
        status = grpc.StatusCode.OK
        with tracing.step(name, rpc=name) as span:
            try:
                return await method(request, timeout=max(0.0, until - started), metadata=self.metadata())
            except grpc.aio.AioRpcError as fault:
                status = fault.code()
                raise
            finally:
                tracing.tell(span, rpc_status=status.name)
                CLIENT_CALLS.labels(name).observe(time.monotonic() - started)
                if status is not grpc.StatusCode.OK:
                    CLIENT_FAILURES.labels(name, status.name).inc()

    async def stream(
        self, method: Callable[..., AsyncIterable[Res]], request: Any, *, timeout_s: float
    ) -> AsyncIterator[Res]:
        """Yield the messages of a server stream that is over, last message and all, within `timeout_s`.

        Leaving the iteration early cancels the call. Raises AppError as `call` does, also after some messages.
        """
        # No span of its own: a generator may be left in another context than it was entered in. The peer has one.
        messages = method(request, timeout=_within_callers_deadline(timeout_s), metadata=self.metadata())
        try:
            async for message in messages:
                yield message
        except grpc.aio.AioRpcError as fault:
            raise _to_app_error(fault, self.target) from fault
        finally:
            cast(grpc.aio.Call, messages).cancel()

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        await self.channel.close()


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Let all calls that are made inside end within so many seconds from now, and within those of an outer one.

    None sets nothing. Tasks that are started inside keep the deadline: start none that live longer.
    """
    until = _deadline.get()
    if seconds is not None:
        own = time.monotonic() + seconds
        until = own if until is None else min(own, until)
    token = _deadline.set(until)
    try:
        yield
    finally:
        _deadline.reset(token)


def _within_callers_deadline(timeout_s: float) -> float:
    until = _deadline.get()
    return timeout_s if until is None else min(timeout_s, max(0.0, (until - time.monotonic()) * 0.9))


@asynccontextmanager
async def peer(target: str, identity: Identity) -> AsyncIterator[Peer]:
    """Open a door and close it at the end."""
    door = Peer(target, identity)
    try:
        yield door
    finally:
        await door.close()


class Server:
    """The gRPC server of a service, with health service, identity check and error mapping."""

    def __init__(self, host: str, port: int, identity: Identity) -> None:
        self._server = grpc.aio.server(options=_SERVER, interceptors=[_Edge(identity)])
        self._identity = identity
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._host = host
        self._asked_port = port
        self.port = 0

    def add(self, register: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        """Register one servicer with its generated function."""
        register(servicer, self._server)

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken."""
        try:
            address = f"{self._host}:{self._asked_port}"
            tls = self._identity.tls
            self.port = (
                self._server.add_secure_port(address, tls.server()) if tls else self._server.add_insecure_port(address)
            )
        except RuntimeError as fault:
            raise OSError(f"cannot listen on {self._host}:{self._asked_port}") from fault
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def retire(self) -> None:
        """Tell callers to ask others from now on, and give them a moment to hear it. Calls are still answered."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(_NOTICE_S)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give those under way `grace_s`, then cut them."""
        await self._server.stop(grace_s)


class _Edge(grpc.aio.ServerInterceptor):
    """Where calls come in: identity, request id, deadline; where failures go out in the taxonomy's words."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith("/grpc.health."):
            return handler
        offered = dict(details.invocation_metadata or ())
        request = ids.accept_request_id(cast(str, offered.get("x-request-id", "")))
        token = cast(str, offered.get("authorization", ""))
        method: str = details.method
        carrier = {tracing.HEADER: cast(str, offered.get(tracing.HEADER, ""))}

        if not handler.request_streaming and not handler.response_streaming:

            async def unary(message: Any, context: Any) -> Any:
                started = time.monotonic()
                status = grpc.StatusCode.OK
                with tracing.serve(method, carrier, rpc=method) as span, telemetry.bound(request):
                    await self._admit(token, context)
                    try:
                        _deadline.set(_until(context))
                        return await handler.unary_unary(message, context)
                    except AppError as error:
                        status = error.codes.grpc
                        tracing.fail(span, error)
                        await _abort(context, error)
                    except Exception as fault:
                        status = grpc.StatusCode.INTERNAL
                        tracing.fail(span, fault)
                        log.exception("call failed", method=method)
                        await _abort(context, AppError(Kind.INTERNAL, "Something went wrong on our side."))
                    finally:
                        tracing.tell(span, rpc_status=status.name)
                        took_s = time.monotonic() - started
                        SERVER_CALLS.labels(method).observe(took_s, tracing.exemplar(span))
                        if status is not grpc.StatusCode.OK:
                            SERVER_FAILURES.labels(method, status.name).inc()

            return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)

        inner = handler.stream_stream or handler.unary_stream
        if inner is None:
            raise AssertionError("client-streaming calls are not used")

        # Not a generator: one that is cancelled while gRPC sends what it has yielded is left to the collector, which
        # ends it late and in another context. Cancelled here, everything inside is over at once.
        async def stream(messages: Any, context: Any) -> None:
            # A stream both ways lasts as long as its processes do: what passes on it is traced, not the stream.
            traced = nullcontext() if handler.request_streaming else tracing.serve(method, carrier, rpc=method)
            with traced, telemetry.bound(request):
                await self._admit(token, context)
                try:
                    _deadline.set(_until(context))
                    async with aclosing(inner(messages, context)) as answers:
                        async for answer in answers:
                            try:
                                await context.write(answer)
                            except grpc.aio.InternalError:
                                return  # the caller has left
                except AppError as error:
                    await _abort(context, error)
                except grpc.aio.BaseError as fault:
                    log.info("stream cut", method=method, fault=repr(fault))  # the caller has left, or we are stopping
                except Exception:
                    log.exception("stream failed", method=method)
                    await _abort(context, AppError(Kind.INTERNAL, "Something went wrong on our side."))

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                stream, handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)

    async def _admit(self, token: str, context: Any) -> None:
        try:
            self._identity.check(token)
        except AppError as error:
            log.warning("caller refused", fault=str(error))
            # Without our trailer: to the caller this is its own fault, and never "your token is bad" for its client.
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)


def _until(context: Any) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + float(remaining)


async def _abort(context: Any, error: AppError) -> None:
    wire = {
        "kind": error.kind.value,
        "message": error.message,
        "details": [[d.field, d.problem] for d in error.details],
        "retry_after_s": error.retry_after_s,
        "version": error.version,
    }
    await context.abort(error.codes.grpc, error.message, trailing_metadata=((_ERROR_KEY, orjson.dumps(wire)),))


def _carried(fault: grpc.aio.AioRpcError) -> AppError | None:
    """Return the AppError that the peer sent in its trailers; None if it did not fail in its own words."""
    trailers: Sequence[tuple[str, Any]] = tuple(fault.trailing_metadata() or ())
    for key, value in trailers:
        if key == _ERROR_KEY:
            wire = orjson.loads(value)
            return AppError(
                Kind(wire["kind"]),
                wire["message"],
                details=tuple(Problem(field, problem) for field, problem in wire["details"]),
                retry_after_s=wire["retry_after_s"],
                version=wire["version"],
            )
    return None


def _to_app_error(fault: grpc.aio.AioRpcError, target: str) -> AppError:
    if (carried := _carried(fault)) is not None:
        return carried
    kind = kind_of_grpc(fault.code())
    message = (
        "A part of the service does not answer."
        if kind in {Kind.UNAVAILABLE, Kind.TIMEOUT}
        else "A call inside failed."
    )
    return AppError(kind, message, log=f"{target}: {fault.code().name}: {fault.details()}")


def app_error(fault: grpc.aio.AioRpcError, target: str) -> AppError:
    """Return the AppError that a failed stream carried."""
    return _to_app_error(fault, target)
