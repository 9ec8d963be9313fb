"""A service in which everything fails, and every failure quotes what nobody may read. `python -m tests.observe.loud`.

It stands on the real chassis and the gateway's real edge. What it quotes are canaries: it writes them to the file
CANARIES, one a line, for the test to look for in whatever the process told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pydantic
import sqlalchemy as sa
from fastapi import FastAPI
from prometheus_client import generate_latest
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis import bus, dead_letters, jobs, lifecycle, outbox, postgres, rpc, telemetry
from chassis.cache import Cache
from chassis.errors import AppError, Kind
from chassis.lifecycle import HttpServer, Lifecycle
from chassis.limits import Limiter
from chassis.relay import Relay
from chassis.settings import ServiceSettings, load
from chassis.tests import bench
from chassis.worker import Effect, Policy, Run, Worker
from services.gateway import errors
from services.gateway.addresses import Proxies
from services.gateway.bodies import BodyLimits
from services.gateway.edge import Edge, Guard
from services.gateway.limits import RateLimits, Rules
from services.gateway.load import Load

log = telemetry.logger("loud")
CANARIES: list[str] = []


def canary(kind: str) -> str:
    """Return something that nobody may read, and remember it."""
    CANARIES.append(f"{kind}-{secrets.token_hex(8)}")
    return CANARIES[-1]


class _Model(pydantic.BaseModel):
    number: int


def _of_json() -> None:
    json.loads('{"prompt": "' + canary("prompt"))


def _of_model() -> None:
    _Model.model_validate({"number": canary("name")})


def _of_unicode() -> None:
    (canary("transcript").encode() + b"\xff").decode()


def _of_system() -> None:
    raise FileNotFoundError(2, canary("name"), canary("name"))


def _of_statement() -> None:
    raise sa.exc.StatementError(canary("transcript"), f"SELECT '{canary('secret')}'", {"x": canary("secret")}, None)


def _of_group() -> None:
    raise ExceptionGroup(canary("transcript"), [ValueError(canary("name")), KeyError(canary("secret"))])


def _of_cause() -> None:
    said = canary("transcript")  # in a frame
    try:
        raise LookupError(canary("prompt"))
    except LookupError as fault:
        fault.add_note(canary("secret"))
        raise RuntimeError(f"{said} {canary('name')}") from fault


def _of_error() -> None:
    try:
        raise ValueError(canary("secret"))
    except ValueError as fault:
        raise AppError(Kind.INTERNAL, "Something went wrong on our side.") from fault


KINDS: tuple[Callable[[], None], ...] = (
    _of_json, _of_model, _of_unicode, _of_system, _of_statement, _of_group, _of_cause, _of_error
)  # fmt: skip


def _raise(number: int) -> None:
    KINDS[number % len(KINDS)]()


async def _unary(request: bytes, _: Any) -> bytes:
    _raise(int(request))
    return b""


async def _stream(request: bytes, _: Any) -> AsyncIterator[bytes]:
    yield b"begun"
    _raise(int(request))


def _register(_: object, server: grpc.aio.Server) -> None:
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler(
            "loud.Loud",
            {
                "Unary": grpc.unary_unary_rpc_method_handler(_unary),
                "Stream": grpc.unary_stream_rpc_method_handler(_stream),
            },
        ),
    ))  # fmt: skip


async def _handler(run: Run) -> Effect:
    _raise(int(run.job.key.rpartition("-")[2]))
    raise AssertionError("unreachable")


def _edge() -> Edge:
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False})
    errors.install(app)

    @app.post("/api/loud/{number}")
    async def loud(number: int, body: _Model) -> None:
        _raise(number)

    async def socket(*_: Any) -> None:
        _raise(6)

    limiter = Limiter(Cache("", service="loud", replica="loud"))
    guard = Guard(
        proxies=Proxies(()), load=Load(1000), account_of=lambda _: None, origins=(), hosts=(),
        bodies=BodyLimits(100_000, {}), request_s=10.0,
        rates=RateLimits(limiter, Rules(), aggressive_factor=1.0, is_aggressive=lambda: False),
    )  # fmt: skip
    return Edge(app, {"/transcribe": socket}, guard)


async def _all_layers(life: Lifecycle, url: str) -> None:
    """Have every layer fail in every way."""
    identity = rpc.Identity("loud", "k" * 40)
    server = rpc.Server("127.0.0.1", 0, identity)
    server.add(_register, None)
    await server.start()
    public = HttpServer(_edge(), "127.0.0.1", 0)
    life.spawn(public.run_until_exit(), "public port")
    base = f"http://127.0.0.1:{public.port}"
    async with rpc.peer(f"127.0.0.1:{server.port}", identity) as peer, httpx2.AsyncClient(base_url=base) as http:
        unary: Any = peer.channel.unary_unary("/loud.Loud/Unary")
        stream: Any = peer.channel.unary_stream("/loud.Loud/Stream")
        for number in range(2 * len(KINDS)):
            await _failing(peer.call(unary, str(number).encode(), timeout_s=5))
            await _failing(_drained(peer, stream, number))
            answer = await http.post(f"/api/loud/{number}", json={"number": 1}, headers={"x-token": canary("secret")})
            assert answer.status_code == 500, answer
            assert not any(one in answer.text for one in CANARIES)
            await http.post(f"/api/loud/{number}?q={canary('secret')}", json={"number": canary("transcript")})
            await http.get(f"/api/{canary('name')}")
            _logged(number)
    async with (
        postgres.database(url) as database,
        bus.connect(os.environ["NATS_URL"], name="loud", replicas=1) as broker,
    ):
        await _jobs(life, database, broker)
        await _events(life, broker)
    await server.stop(0)


async def _drained(peer: rpc.Peer, stream: Any, number: int) -> None:
    async for _ in peer.stream(stream, str(number).encode(), timeout_s=5):
        pass


async def _failing(call: Awaitable[object]) -> None:
    try:
        await call
    except AppError as fault:
        log.warning("call failed as expected", fault=str(fault))
    else:
        raise AssertionError("did not fail")


def _logged(number: int) -> None:
    """Fail where only a log line is written: ours, and a library's."""
    try:
        _raise(number)
    except Exception:
        log.exception("logged", password=canary("secret"), text=canary("transcript"), prompt=canary("prompt"))
        logging.getLogger("library").exception("library failed on %s", canary("transcript"))
        forgotten = {"message": canary("name"), "exception": ValueError(canary("name"))}
        asyncio.get_running_loop().call_exception_handler(forgotten)


async def _jobs(life: Lifecycle, database: postgres.Database, broker: bus.Bus) -> None:
    async with database.engine.begin() as connection:
        await connection.run_sync(bench.METADATA.create_all)
    for stream in (outbox.EVENTS, jobs.JOBS, dead_letters.DLQ):
        await broker.declare(stream)
    relay = Relay(database, bench.OUTBOX, bench.STREAMS, broker, (outbox.EVENTS, jobs.JOBS, dead_letters.DLQ))
    worker = Worker(
        "loud", _handler, database=database, queue=bench.QUEUE, broker=broker, policy=Policy(delays_s=(0.05,))
    )  # fmt: skip
    life.spawn(relay.run(), "relay")
    life.spawn(worker.run(), "worker")
    for number in range(len(KINDS)):

        async def put(connection: AsyncConnection, key: str = f"key-{number}") -> None:
            payload = canary("transcript").encode()
            await bench.QUEUE.put(connection, "loud", key, owner_id="o", payload=payload, attempts_max=1)

        await database.run("put", put)
    letters = dead_letters.DeadLetters(lambda: broker)
    async with asyncio.timeout(60):
        while await letters.count() < len(KINDS):
            await asyncio.sleep(0.1)
    found, _ = await letters.list()
    told = [[one.kind, one.error, one.history, one.about] for one in found]
    await asyncio.to_thread(Path(os.environ["LETTERS"]).write_text, json.dumps(told))


async def _events(life: Lifecycle, broker: bus.Bus) -> None:
    done = asyncio.Event()
    failures = 0

    async def handle(_: list[Any]) -> None:
        nonlocal failures
        failures += 1
        if failures > 2:
            done.set()
            return
        try:
            raise ValueError(canary("transcript"))
        except ValueError as fault:
            raise AppError(Kind.UNAVAILABLE, "Not now.") from fault

    consuming = broker.consume(stream="EVENTS", durable="loud", subject="events.loud", handle=handle)
    life.spawn(consuming, "consumer")
    await broker.publish("events.loud", canary("transcript").encode())
    async with asyncio.timeout(30):
        await done.wait()


async def start(life: Lifecycle) -> None:
    """Fail in every layer, tell the canaries, and end by a failure of the process itself."""
    life.ready()
    await _all_layers(life, os.environ["DATABASE_URL"])
    canary("secret")
    last = canary("transcript")
    await asyncio.to_thread(Path(os.environ["CANARIES"]).write_text, "\n".join(CANARIES))
    await asyncio.to_thread(Path(os.environ["METRICS"]).write_bytes, generate_latest())
    raise RuntimeError(last)


if __name__ == "__main__":
    lifecycle.run("loud", load(ServiceSettings), start)
