"""`/api/webhooks`."""

from __future__ import annotations

from typing import Any

import pytest

from chassis import ids
from services.gateway.tests.conftest import Gateway, problem

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("R-API-7")]

URL = "https://hooks.example.org/mine"


async def made(gateway: Gateway, who: dict[str, str]) -> dict[str, Any]:
    answer = await gateway.client.post("/api/webhooks", json={"url": URL}, headers=who)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_webhook_is_made_listed_changed_and_deleted_and_its_secret_is_shown_once(gateway: Gateway) -> None:
    who = gateway.as_account()
    first = await gateway.client.post("/api/webhooks", json={"url": URL, "description": "<b>ours</b>"}, headers=who)
    assert (first.status_code, first.headers["etag"], first.headers["cache-control"]) == (201, '"1"', "no-store")
    body, path = first.json(), first.headers["location"]
    assert body.pop("secret") == "whsec_1"
    assert body == {
        "id": path.rpartition("/")[2],
        "url": URL,
        "events": ["meeting.completed", "meeting.healed", "insights.ready"],
        "description": "ours",
        "enabled": True,
        "disabled_reason": None,
        "disabled_at": None,
        "failures": 0,
        "version": 1,
        "created_at": "2026-11-27T12:00:00Z",
        "updated_at": "2026-11-27T12:00:00Z",
    }
    listed = (await gateway.client.get("/api/webhooks", headers=who)).json()
    assert listed == {"items": [body], "next_cursor": None}
    assert (await gateway.client.get(path, headers=who)).json() == body
    change = {"enabled": False, "events": ["insights.ready"]}
    assert (await gateway.client.patch(path, json=change, headers=who)).status_code == 428
    changed = await gateway.client.patch(path, json=change, headers={**who, "If-Match": '"1"'})
    assert (changed.headers["etag"], changed.json()["enabled"], changed.json()["events"]) == (
        '"2"',
        False,
        ["insights.ready"],
    )
    late = await gateway.client.delete(path, headers={**who, "If-Match": '"1"'})
    assert (late.status_code, problem(late)["version"]) == (412, 2)
    turned = await gateway.client.post(f"{path}/rotate-secret", headers={**who, "If-Match": '"2"'})
    assert (turned.status_code, turned.json()["secret"], turned.headers["cache-control"]) == (
        200,
        "whsec_3",
        "no-store",
    )
    assert (await gateway.client.post(f"{path}/rotate-secret", headers=who)).status_code == 428
    assert (await gateway.client.delete(path, headers={**who, "If-Match": '"3"'})).status_code == 204
    assert (await gateway.client.get(path, headers=who)).status_code == 404


async def test_deliveries_are_asked_for_listed_and_sent_again(gateway: Gateway) -> None:
    who = gateway.as_account()
    path = f"/api/webhooks/{(await made(gateway, who))['id']}"
    asked = await gateway.client.post(f"{path}/test", headers=who)
    assert (asked.status_code, asked.json()["event"], asked.json()["response_status"]) == (202, "webhook.test", None)
    listed = await gateway.client.get(f"{path}/deliveries", params={"status": "pending"}, headers=who)
    assert listed.json()["items"] == [asked.json()]
    assert (await gateway.client.get(f"{path}/deliveries?status=lost", headers=who)).status_code == 422
    again = f"{path}/deliveries/{asked.json()['id']}/redeliver"
    assert (await gateway.client.post(again, headers=who)).status_code == 409
    gateway.webhooks.deliveries[asked.json()["id"]].status = "dead"
    assert (await gateway.client.post(again, headers=who)).status_code == 202
    unknown = f"{path}/deliveries/{ids.new_id()}/redeliver"
    assert (await gateway.client.post(unknown, headers=who)).status_code == 404


@pytest.mark.req("R-AUTH-2")
async def test_anothers_webhook_is_not_found(gateway: Gateway) -> None:
    owner, other = gateway.as_account(), {**gateway.as_account(), "If-Match": '"1"'}
    path = f"/api/webhooks/{(await made(gateway, owner))['id']}"
    for method, route in (
        ("GET", path),
        ("DELETE", path),
        ("POST", f"{path}/rotate-secret"),
        ("POST", f"{path}/test"),
        ("GET", f"{path}/deliveries"),
        ("POST", f"{path}/deliveries/{ids.new_id()}/redeliver"),
    ):
        assert (await gateway.client.request(method, route, headers=other)).status_code == 404, (method, route)
    assert (await gateway.client.patch(path, json={"enabled": False}, headers=other)).status_code == 404
    assert (await gateway.client.get("/api/webhooks", headers=other)).json()["items"] == []


@pytest.mark.req("R-VAL-1")
@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("url", {}),
        ("url", {"url": "ftp://example.com/"}),
        ("url", {"url": "https://exa mple.com/"}),
        ("url", {"url": "https://example.com/\x00"}),
        ("url", {"url": "https://example.com/" + "a" * 2000}),
        ("url", {"url": "https://10.0.0.1/"}),
        ("events.0", {"url": URL, "events": ["meeting.dreamt"]}),
        ("events", {"url": URL, "events": []}),
        ("secret", {"url": URL, "secret": "whsec_mine"}),
        ("owner_id", {"url": URL, "owner_id": "me"}),
    ],
)
async def test_a_webhook_that_does_not_hold_is_refused_by_field(gateway: Gateway, field: str, sent: Any) -> None:
    answer = await gateway.client.post("/api/webhooks", json=sent, headers=gateway.as_account())
    assert answer.status_code == 422
    assert [one["field"] for one in problem(answer)["details"]] == [field]
