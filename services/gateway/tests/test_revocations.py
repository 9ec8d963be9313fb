"""What is revoked closes what is open, and nothing else does."""

from __future__ import annotations

import asyncio
import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.meetings.v1 import logins_pb2 as pb

from chassis import bus, ids
from chassis.errors import AppError, Kind
from chassis.tests.servers import NatsServer, nats_server
from services.gateway.auth import Principal
from services.gateway.broker import Broker
from services.gateway.revocations import SUBJECT, RevocationNews, Revocations
from services.gateway.tests.conftest import running

__all__ = ["nats_server"]

LOGIN, KEY, ACCOUNT = pb.REVOCATION_KIND_LOGIN, pb.REVOCATION_KIND_API_KEY, pb.REVOCATION_KIND_ACCOUNT


def revoked(kind: pb.RevocationKind.ValueType, subject: str, at: float | None = None) -> pb.Revocation:
    stamp = Timestamp()
    stamp.FromNanoseconds(int((time.time() if at is None else at) * 1e9))
    return pb.Revocation(kind=kind, id=subject, at=stamp)


def somebody(**fields: object) -> Principal:
    given = {"issued_at": time.time(), **fields}
    return Principal(ids.new_id(), "user", time.time() + 900, **given)  # type: ignore[arg-type]


def is_revoked(revocations: Revocations, who: Principal) -> bool:
    try:
        revocations.check(who)
    except AppError as error:
        assert error.kind is Kind.UNAUTHORIZED
        return True
    return False


@pytest.mark.req("R-AUTH-1")
def test_login_key_or_account_that_is_revoked_is_and_others_are_not() -> None:
    revocations = Revocations()
    by_login, by_key, other = somebody(login_id=ids.new_id()), somebody(key_id=ids.new_id()), somebody()
    revocations.learn(revoked(LOGIN, by_login.login_id))
    revocations.learn(revoked(KEY, by_key.key_id))
    assert [is_revoked(revocations, who) for who in (by_login, by_key, other)] == [True, True, False]
    # The same id as something else is something else.
    assert not is_revoked(revocations, somebody(key_id=by_login.login_id))


@pytest.mark.req("R-AUTH-1")
def test_of_an_account_is_revoked_what_was_given_before_and_nothing_that_comes_later() -> None:
    revocations, now = Revocations(), time.time()
    who = somebody(issued_at=now)
    revocations.learn(revoked(ACCOUNT, who.account_id, now + 0.5))
    assert is_revoked(revocations, who)
    later = Principal(who.account_id, "user", now + 900, issued_at=now + 0.6)
    assert not is_revoked(revocations, later)
    # Told again out of order, nothing changes.
    revocations.learn(revoked(ACCOUNT, who.account_id, now - 100))
    assert is_revoked(revocations, who)


@pytest.mark.req("R-AUTH-1")
def test_who_is_open_is_told_once_it_is_revoked_and_not_after_it_left() -> None:
    revocations = Revocations()
    who, other = somebody(login_id=ids.new_id()), somebody(login_id=ids.new_id())
    told: list[AppError] = []
    with revocations.watched(who, told.append), revocations.watched(other, told.append):
        revocations.learn(revoked(LOGIN, who.login_id, 1000.0))
        revocations.learn(revoked(LOGIN, who.login_id, 1000.0))
        assert [error.kind for error in told] == [Kind.UNAUTHORIZED]
        with pytest.raises(AppError), revocations.watched(who, told.append):
            pass
    revocations.learn(revoked(LOGIN, other.login_id))
    assert len(told) == 1
    assert revocations._watchers == {}


@pytest.mark.req("R-AUTH-1")
def test_memory_of_revocations_is_given_back_when_they_no_longer_matter() -> None:
    clock = [time.time()]
    revocations = Revocations(lambda: clock[0])
    for _ in range(1000):
        revocations.learn(revoked(LOGIN, ids.new_id(), clock[0]))
    clock[0] += 3 * 86400
    revocations.learn(revoked(LOGIN, ids.new_id(), clock[0]))
    assert len(revocations._revoked) == 1


@pytest.mark.req("R-AUTH-1", "R-HEAL-2")
async def test_news_come_by_the_broker_at_once_and_without_it_by_asking(nats_server: NatsServer) -> None:
    async with running() as gateway:
        broker, revocations = Broker(nats_server.url, "test"), Revocations()
        news = RevocationNews(revocations, gateway.entrance.meetings, broker, every_s=0.3, timeout_s=2.0)
        tasks = [asyncio.create_task(broker.run()), asyncio.create_task(news.run())]
        try:
            told, asked = somebody(login_id=ids.new_id()), somebody(login_id=ids.new_id())
            async with asyncio.timeout(20), bus.connect(nats_server.url, name="meetings", replicas=1) as own:
                while not is_revoked(revocations, told):
                    await own.client.publish(SUBJECT, b"\xff not a revocation")
                    await own.client.publish(SUBJECT, revoked(LOGIN, told.login_id).SerializeToString())
                    await asyncio.sleep(0.02)
            nats_server.kill()
            gateway.logins.revoke(LOGIN, asked.login_id)
            async with asyncio.timeout(20):
                while not is_revoked(revocations, asked):
                    await asyncio.sleep(0.02)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.mark.req("R-AUTH-1")
async def test_nobody_is_shut_out_because_it_cannot_be_asked_who_is_revoked() -> None:
    async with running() as gateway:
        who = gateway.as_account()
        for kind in (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.INTERNAL, Kind.UNAUTHORIZED):
            gateway.logins.fault = AppError(kind, "Not now.")
            await gateway.entrance.news.look()
            assert (await gateway.client.get("/api/meetings", headers=who)).status_code == 200


@pytest.mark.req("R-AUTH-1")
async def test_logout_ends_the_access_token_at_once_on_the_gateway_that_was_told() -> None:
    async with running() as gateway:
        account, login_id = ids.new_id(), ids.new_id()
        gateway.logins.logins[account] = [pb.Login(id=login_id), pb.Login(id=ids.new_id())]
        who = {"Authorization": f"Bearer {gateway.signer.token(sub=account, sid=login_id)}"}
        listed = (await gateway.client.get("/api/auth/logins", headers=who)).json()["items"]
        assert [one["current"] for one in listed] == [True, False]
        assert (await gateway.client.delete(f"/api/auth/logins/{listed[1]['id']}", headers=who)).status_code == 204
        assert (await gateway.client.get("/api/meetings", headers=who)).status_code == 200
        assert (await gateway.client.delete("/api/auth/logins", headers=who)).status_code == 204
        refused = await gateway.client.get("/api/meetings", headers=who)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.req("R-AUTH-1", "R-WS-6")
async def test_viewer_is_told_and_closed_when_the_login_ends() -> None:
    async with running() as gateway:
        account, login_id = ids.new_id(), ids.new_id()
        who = {"Authorization": f"Bearer {gateway.signer.token(sub=account, sid=login_id)}"}
        meeting = await gateway.new_meeting(who)
        stream = gateway.client.stream("GET", f"/api/meetings/{meeting}/live", headers=who)
        async with asyncio.timeout(20), stream as answer:
            lines = answer.aiter_lines()
            await until_line(lines, "retry:")
            gateway.entrance.revocations.learn(revoked(LOGIN, login_id))
            assert '"unauthorized"' in await until_line(lines, 'data: {"type":"error"')


async def until_line(lines: object, beginning: str) -> str:
    async for line in lines:  # type: ignore[attr-defined]
        if line.startswith(beginning):
            return str(line)
    raise AssertionError("the stream ended")
