"""The document that clients are made from."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from chassis.errors import TABLE, Kind
from services.gateway.tests.conftest import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = {
    "/api/auth/register": {"post"},
    "/api/auth/login": {"post"},
    "/api/auth/refresh": {"post"},
    "/api/auth/logout": {"post"},
    "/api/auth/me": {"get", "delete"},
    "/api/auth/password": {"post"},
    "/api/auth/ticket": {"post"},
    "/api/auth/logins": {"get", "delete"},
    "/api/auth/logins/{login_id}": {"delete"},
    "/api/auth/api-keys": {"get", "post"},
    "/api/auth/api-keys/{key_id}": {"delete"},
    "/api/admin/accounts": {"get"},
    "/api/admin/controls": {"get", "put"},
    "/api/admin/accounts/{account_id}": {"get", "patch", "delete"},
    "/api/meetings": {"get", "post"},
    "/api/meetings/{meeting_id}": {"get", "patch", "delete"},
    "/api/meetings/{meeting_id}/segments": {"get"},
    "/api/meetings/{meeting_id}/segments/{segment_id}": {"get", "patch"},
    "/api/meetings/{meeting_id}/speakers": {"patch"},
    "/api/meetings/{meeting_id}/export": {"get"},
    "/api/meetings/{meeting_id}/share": {"post"},
    "/api/meetings/{meeting_id}/live": {"get"},
    "/api/tasks": {"get", "post"},
    "/api/tasks/{task_id}": {"get", "patch", "delete"},
    "/api/insights/{meeting_id}": {"get", "post", "patch"},
    "/api/webhooks": {"get", "post"},
    "/api/webhooks/{webhook_id}": {"get", "patch", "delete"},
    "/api/webhooks/{webhook_id}/rotate-secret": {"post"},
    "/api/webhooks/{webhook_id}/test": {"post"},
    "/api/webhooks/{webhook_id}/deliveries": {"get"},
    "/api/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": {"post"},
    "/api/usage": {"get"},
    "/api/analytics": {"get"},
    "/api/jobs/{job_id}": {"get"},
    "/api/jobs/{job_id}/cancel": {"post"},
    "/api/admin/dlq": {"get"},
    "/api/admin/dlq/retry": {"post"},
    "/api/admin/dlq/{letter_id}": {"get", "delete"},
    "/api/admin/dlq/{letter_id}/retry": {"post"},
    "/api/uploads": {"post"},
    "/api/uploads/{file_name}": {"put"},
    "/api/uploads/tus": {"post"},
    "/api/uploads/tus/{upload_id}": {"head", "patch", "delete"},
    "/v1/audio/transcriptions": {"post"},
    "/v1/models": {"get"},
    "/v1/models/{model_id}": {"get"},
    "/healthz": {"get"},
    "/readyz": {"get"},
}
# Nobody changes these: they are made and ended.
WITHOUT_VERSION = {
    "/api/uploads/tus/{upload_id}",
    "/api/auth/me",
    "/api/auth/logins",
    "/api/auth/logins/{login_id}",
    "/api/auth/api-keys/{key_id}",
    "/api/admin/dlq/{letter_id}",
}
KINDS = {str(TABLE[kind].http) for kind in Kind}


async def schema(gateway: Gateway) -> dict[str, Any]:
    document: dict[str, Any] = (await gateway.client.get("/openapi.json")).json()
    return document


@pytest.mark.req("R-API-1")
async def test_every_route_is_documented_with_what_it_answers(gateway: Gateway) -> None:
    document = await schema(gateway)
    assert {path: set(operations) for path, operations in document["paths"].items()} == PUBLIC
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            good = [status for status in answers if status.startswith("2")]
            assert len(good) == 1, (method, path)
            assert operation["description"], (method, path)
            if good != ["204"]:
                assert answers[good[0]]["content"], (method, path)


@pytest.mark.req("R-ERR-1")
async def test_every_failure_of_every_route_is_documented_in_the_one_shape_with_an_example(gateway: Gateway) -> None:
    document = await schema(gateway)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            failures = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
            assert set(failures) <= KINDS
            if path != "/healthz":
                assert {"500", "503", "504"} <= set(failures), (method, path)
            if "security" in operation:
                assert "401" in failures
            if "requestBody" in operation:
                assert {"400", "413", "415", "422"} <= set(failures)
            if "{" in path:
                assert {"404", "422"} <= set(failures)
            if method in {"patch", "delete"} and path not in WITHOUT_VERSION:
                assert {"412", "428"} <= set(failures)
                assert "If-Match" in {one["name"].title() for one in operation["parameters"]}
            # `/v1` speaks as OpenAI does.
            shape = {"$ref": f"#/components/schemas/{'OpenAI' if path.startswith('/v1/') else ''}ErrorAnswer"}
            validator = Draft202012Validator({**shape, "components": document["components"]})
            for status, answer in failures.items():
                content = answer["content"]["application/json"]
                assert content["schema"] == shape, (method, path, status)
                validator.validate(content["example"])
                assert ("Retry-After" in answer.get("headers", {})) == (status in {"429", "503", "504", "507"})


@pytest.mark.req("R-API-1")
async def test_the_reference_page_shows_every_route(gateway: Gateway) -> None:
    page = (await gateway.client.get("/docs")).text
    for path in PUBLIC:
        assert f"<code>{path}</code>" in page
    assert 'id="ErrorAnswer"' in page
