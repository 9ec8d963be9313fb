"""One-time tickets, on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import jwt
import pytest

from chassis import ids
from chassis.errors import AppError, Kind
from chassis.tests.servers import NatsServer, nats_server
from services.gateway import wire
from services.gateway.auth import Principal
from services.gateway.broker import Broker
from services.gateway.tickets import LIFE_S, USED, Tickets

__all__ = ["nats_server"]

KEY = "a key that only the tests have ........"


def somebody(**changed: object) -> Principal:
    fields = {
        "expires_at": time.time() + 900.5, "issued_at": time.time(), "login_id": ids.new_id(),
        "scopes": frozenset({"stream"}), **changed,
    }  # fmt: skip
    return Principal(ids.new_id(), "user", **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Broker]:
    broker = Broker(server.url, "test")
    running = asyncio.create_task(broker.run())
    try:
        async with asyncio.timeout(20):
            while not broker.connected:
                await asyncio.sleep(0.02)
        yield broker
    finally:
        running.cancel()
        await asyncio.wait([running])


async def refused(tickets: Tickets, ticket: str) -> Kind:
    with pytest.raises(AppError) as caught:
        await tickets.redeem(ticket)
    return caught.value.kind


@pytest.mark.req("R-AUTH-1")
async def test_ticket_stands_for_its_owner_once_at_whatever_gateway(nats_server: NatsServer) -> None:
    async with connected(nats_server) as here, connected(nats_server) as there:
        one, other = Tickets(KEY, here), Tickets(KEY, there)
        who = somebody()
        ticket, life_s = one.issue(who)
        assert life_s == LIFE_S == 30
        assert await other.redeem(ticket) == who
        for gateway in (one, other):
            assert await refused(gateway, ticket) is Kind.UNAUTHORIZED
        assert await one.redeem(one.issue(who)[0]) == who


@pytest.mark.req("R-AUTH-1")
async def test_of_many_who_use_one_ticket_at_once_one_gets_in(nats_server: NatsServer) -> None:
    async with connected(nats_server) as here, connected(nats_server) as there:
        gateways = [Tickets(KEY, here), Tickets(KEY, there)]
        ticket, _ = gateways[0].issue(somebody())
        results = await asyncio.gather(*(one.redeem(ticket) for one in gateways * 10), return_exceptions=True)
        assert sum(isinstance(result, Principal) for result in results) == 1
        kinds = {result.kind for result in results if isinstance(result, AppError)}
        assert kinds == {Kind.UNAUTHORIZED}


@pytest.mark.req("R-AUTH-1")
async def test_used_ticket_stays_used_when_the_broker_starts_again(nats_server: NatsServer) -> None:
    async with connected(nats_server) as broker:
        tickets = Tickets(KEY, broker)
        ticket, _ = tickets.issue(somebody())
        await tickets.redeem(ticket)
        nats_server.kill()
        # It may be good or not: nobody can tell, so nobody is told that it is bad.
        assert await refused(tickets, tickets.issue(somebody())[0]) is Kind.UNAVAILABLE
        nats_server.start()
        async with asyncio.timeout(20):
            while (kind := await refused(tickets, ticket)) is Kind.UNAVAILABLE:
                await asyncio.sleep(0.1)
        assert kind is Kind.UNAUTHORIZED


@pytest.mark.req("R-AUTH-1")
async def test_notes_of_used_tickets_are_kept_longer_than_tickets_live_and_no_more(nats_server: NatsServer) -> None:
    async with connected(nats_server) as broker:
        tickets = Tickets(KEY, broker)
        await tickets.redeem(tickets.issue(somebody())[0])
        config = (await broker.require().js.stream_info(USED.name)).config
        assert LIFE_S * 2 < (config.max_age or 0) <= 600
        await broker.require().js.delete_stream(USED.name)
        await tickets.redeem(tickets.issue(somebody())[0])


@pytest.mark.req("R-AUTH-1")
async def test_ticket_that_is_forged_expired_or_something_else_is_refused(nats_server: NatsServer) -> None:
    clock = [time.time()]
    async with connected(nats_server) as broker:
        tickets = Tickets(KEY, broker, clock=lambda: clock[0])
        clock[0] -= 31
        expired, _ = tickets.issue(somebody())
        clock[0] += 31
        good, _ = tickets.issue(somebody())
        claims = jwt.decode(good, options={"verify_signature": False})
        forged = [
            Tickets("another key that only the tests have", broker).issue(somebody())[0],
            jwt.encode(claims, "", algorithm="none"),
            jwt.encode({**claims, "aud": "verbatim-api"}, tickets._key, algorithm="HS256"),
            jwt.encode({**claims, "exp": None}, tickets._key, algorithm="HS256"),
            good[:-4] + "AAAA",
        ]
        for ticket in (expired, *forged, "", "nonsense", "é", "x" * 5000):
            assert await refused(tickets, ticket) is Kind.UNAUTHORIZED
        assert await tickets.redeem(good)


@pytest.mark.req("R-AUTH-1")
def test_ticket_lives_no_longer_than_what_it_was_given_for() -> None:
    tickets = Tickets(KEY, Broker("nats://127.0.0.1:1", "test"))
    assert tickets.issue(somebody(expires_at=time.time() + 5.5))[1] == 5
    assert tickets.issue(somebody(expires_at=time.time() - 5))[1] == 0


@pytest.mark.req("R-AUTH-1")
@pytest.mark.parametrize(
    ("query", "ticket"),
    [
        (b"ticket=abc", "abc"),
        (b"x=1&ticket=a%2Eb", "a.b"),
        (b"", ""),
        (b"ticket=", ""),
        (b"ticket=a&ticket=b", ""),
        (b"Ticket=abc", ""),
        (b"&" * 50 + b"ticket=a", "a"),
        (b"\xff=1&ticket=a", "a"),
    ],
)
def test_ticket_is_read_from_the_query(query: bytes, ticket: str) -> None:
    assert wire.ticket_of(query) == ticket


async def test_broker_that_is_away_is_asked_for_in_vain() -> None:
    with pytest.raises(AppError) as caught:
        Broker("nats://127.0.0.1:1", "test").require()
    assert caught.value.kind is Kind.UNAVAILABLE


@pytest.mark.req("R-AUTH-1")
async def test_clocks_of_gateways_may_differ_by_a_minute(nats_server: NatsServer) -> None:
    """PyJWT refuses what was given in the future: a gateway that was two seconds behind let nobody in."""
    async with connected(nats_server) as broker:
        here = Tickets(KEY, broker)
        for ahead_s, told in (
            (-10.0, None),
            (2.0, None),
            (55.0, None),
            (90.0, Kind.UNAUTHORIZED),
            (-35.0, Kind.UNAUTHORIZED),
        ):
            there = Tickets(KEY, broker, clock=partial(_clock, ahead_s))
            who = somebody(expires_at=time.time() + 900.5)
            ticket, _ = there.issue(who)
            if told is None:
                assert await here.redeem(ticket) == who
            else:
                assert await refused(here, ticket) is told


def _clock(ahead_s: float) -> float:
    return time.time() + ahead_s
