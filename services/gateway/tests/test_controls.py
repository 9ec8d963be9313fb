"""Run-time switches over the API; that they reach every process is tested in the chassis."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.tests.conftest import Gateway, problem

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("R-HEAL-1"), pytest.mark.req("R-RL-1")]

AGGRESSIVE = {"name": "rate_limits", "value": "aggressive", "why": "A flood"}


async def test_admin_sets_sees_and_clears_a_switch(own_gateway: Gateway) -> None:
    admin = own_gateway.as_admin()
    answer = await own_gateway.client.put("/api/admin/controls", json=AGGRESSIVE | {"for_s": 60}, headers=admin)
    assert answer.status_code == 200
    [control] = answer.json()["items"]
    assert {name: control[name] for name in AGGRESSIVE} == AGGRESSIVE
    assert control["until"] == "1970-01-01T00:17:40Z"
    assert control["who"]
    assert (await own_gateway.client.get("/api/admin/controls", headers=admin)).json() == answer.json()
    cleared = await own_gateway.client.put("/api/admin/controls", json=AGGRESSIVE | {"value": None}, headers=admin)
    assert cleared.json() == {"items": []}


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "of course"},
        {"value": "sometimes"},
        {"name": "breaker.whisper", "value": "aggressive"},
        {"name": "Rate Limits"},
        {"name": "a>"},
        {"name": "feature.telepathy", "value": "on"},
        {"name": "pool.meetings", "value": "later"},
        {"why": ""},
        {"for_s": 0},
        {"who": "somebody else"},
    ],
)
async def test_what_is_no_switch_is_refused(gateway: Gateway, wrong: dict[str, Any]) -> None:
    answer = await gateway.client.put("/api/admin/controls", json=AGGRESSIVE | wrong, headers=gateway.as_admin())
    assert answer.status_code == 422
    problem(answer)
    assert gateway.controls.active() == []


async def test_switches_are_for_admins(gateway: Gateway) -> None:
    for headers, status in ((gateway.as_account(), 403), ({}, 401)):
        assert (await gateway.client.get("/api/admin/controls", headers=headers)).status_code == status
        refused = await gateway.client.put("/api/admin/controls", json=AGGRESSIVE, headers=headers)
        assert refused.status_code == status


async def test_without_the_broker_it_is_said_that_nothing_was_set(own_gateway: Gateway) -> None:
    own_gateway.controls.away = True
    answer = await own_gateway.client.put("/api/admin/controls", json=AGGRESSIVE, headers=own_gateway.as_admin())
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
