"""Links that show one meeting."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from verbatim.meetings.v1 import logins_pb2 as pb

from chassis import ids
from chassis.errors import AppError, Kind
from services.gateway.auth import Principal
from services.gateway.revocations import Revocations
from services.gateway.shares import LIFE_S, PREFIX, Shares
from services.gateway.tests.conftest import SERVICE_KEY, Gateway

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("R-AUTH-2", "R-WS-6")]

NOW = 1_800_000_000.0


async def shared(gateway: Gateway, owner: dict[str, str], meeting: str) -> dict[str, str]:
    answer = await gateway.client.post(f"/api/meetings/{meeting}/share", headers=owner)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert told["path"] == f"/#/shared/{meeting}/{told['token']}"
    return {"Authorization": f"Bearer {told['token']}"}


async def test_link_reads_its_meeting_and_no_other(gateway: Gateway) -> None:
    owner = gateway.as_account()
    meeting, another = await gateway.new_meeting(owner), await gateway.new_meeting(owner)
    link = await shared(gateway, owner, meeting)
    for below in ("", "/segments", "/export?format=md"):
        assert (await gateway.client.get(f"/api/meetings/{meeting}{below}", headers=link)).status_code == 200
        assert (await gateway.client.get(f"/api/meetings/{another}{below}", headers=link)).status_code == 404


async def test_link_opens_no_other_route_and_changes_nothing(gateway: Gateway) -> None:
    """Every route of the document, present and future: what is not listed here has to refuse a link."""
    owner = gateway.as_account()
    meeting = await gateway.new_meeting(owner)
    link = await shared(gateway, owner, meeting)
    readable = {
        "/api/meetings/{meeting_id}", "/api/meetings/{meeting_id}/segments", "/api/meetings/{meeting_id}/export",
        "/api/meetings/{meeting_id}/live", "/api/insights/{meeting_id}",
        "/api/meetings/{meeting_id}/segments/{segment_id}",
    }  # fmt: skip
    without_caller = {
        "/api/auth/register", "/api/auth/login", "/api/auth/refresh", "/api/auth/logout", "/healthz", "/readyz"
    }  # fmt: skip
    refused = 0
    for path, operations in (await gateway.client.get("/openapi.json")).json()["paths"].items():
        for method in operations:
            if path in without_caller or (method == "get" and path in readable):
                continue
            url = re.sub(r"{\w+}", lambda name: meeting if name[0] == "{meeting_id}" else ids.new_id(), path)
            answer = await gateway.client.request(method, url, headers=link)
            assert answer.status_code == 403, (method, path, answer.text)
            refused += 1
    assert refused >= 40
    assert (await gateway.client.get(f"/api/meetings/{meeting}", headers=owner)).json()["version"] == 1


async def test_only_the_owner_makes_one(gateway: Gateway) -> None:
    owner, other = gateway.as_account(), gateway.as_account()
    meeting = await gateway.new_meeting(owner)
    assert (await gateway.client.post(f"/api/meetings/{meeting}/share", headers=other)).status_code == 404


def maker(**changed: Any) -> Principal:
    return Principal(ids.new_id(), "user", NOW + 900, issued_at=NOW - 60, login_id=ids.new_id(), **changed)


async def test_link_ends_after_a_day_and_cannot_be_made_up_or_changed() -> None:
    now = NOW
    shares, meeting = Shares(SERVICE_KEY, lambda: now), ids.new_id()
    token, expires_at = shares.issue(maker(), meeting)
    assert expires_at == NOW + LIFE_S == NOW + 86_400
    assert shares.authenticate(token).meeting_id == meeting
    of_another_key, _ = Shares("another key").issue(maker(), meeting)
    for wrong in (token[:-2], PREFIX + token, token.replace(".", "", 1), of_another_key):
        with pytest.raises(AppError) as caught:
            shares.authenticate(wrong)
        assert caught.value.kind is Kind.UNAUTHORIZED
    now = NOW + LIFE_S
    with pytest.raises(AppError):
        shares.authenticate(token)


async def test_link_ends_with_all_logins_of_its_maker_and_with_the_key_that_made_it_but_not_with_a_sign_out() -> None:
    shares = Shares(SERVICE_KEY, lambda: NOW)
    by_login, by_key = maker(), maker(key_id=ids.new_id())

    def ends(who: Principal, kind: pb.RevocationKind.ValueType, of: str) -> bool:
        revocations = Revocations(lambda: NOW)
        at = Timestamp()
        at.FromSeconds(int(NOW) + 1)
        revocations.learn(pb.Revocation(kind=kind, id=of, at=at))
        try:
            revocations.check(shares.authenticate(shares.issue(who, ids.new_id())[0]))
        except AppError:
            return True
        return False

    assert ends(by_login, pb.REVOCATION_KIND_ACCOUNT, by_login.account_id)
    assert ends(by_key, pb.REVOCATION_KIND_API_KEY, by_key.key_id)
    assert not ends(by_login, pb.REVOCATION_KIND_LOGIN, by_login.login_id)


async def test_links_live_no_longer_than_revocations_are_remembered() -> None:
    clock = time.time()
    revocations = Revocations(lambda: clock)
    at = Timestamp()
    at.FromSeconds(int(clock))
    who = maker()
    revocations.learn(pb.Revocation(kind=pb.REVOCATION_KIND_ACCOUNT, id=who.account_id, at=at))
    clock += LIFE_S
    # Learning anything else sweeps out what is too old.
    revocations.learn(pb.Revocation(kind=pb.REVOCATION_KIND_ACCOUNT, id=ids.new_id(), at=at))
    with pytest.raises(AppError):
        revocations.check(Principal(who.account_id, "user", clock + 1, issued_at=clock - LIFE_S - 1))
