"""The CAPTCHA hook, against a server that speaks the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qs

import httpx2
import pytest
import pytest_asyncio

from chassis.errors import AppError, Kind
from services.gateway.captcha import NoCaptcha, SiteVerifyCaptcha
from services.gateway.tests.conftest import problem, running
from services.gateway.tests.local_server import LocalServer, local_server

VERIFY = "/siteverify"


@pytest_asyncio.fixture
async def service() -> AsyncIterator[LocalServer]:
    with local_server() as server:
        server.answers[VERIFY] = lambda body: {"success": parse_qs(body.decode()).get("response") == ["a person"]}
        yield server


@pytest_asyncio.fixture
async def captcha(service: LocalServer) -> AsyncIterator[SiteVerifyCaptcha]:
    async with httpx2.AsyncClient(timeout=2) as http:
        yield SiteVerifyCaptcha(http, service.url + VERIFY, "our secret", ["register"])


async def outcome(captcha: SiteVerifyCaptcha, response: str | None) -> AppError | None:
    try:
        await captcha.check("register", response, "192.0.2.7")
    except AppError as error:
        return error
    return None


@pytest.mark.req("R-AUTH-3")
async def test_person_passes_and_program_does_not(captcha: SiteVerifyCaptcha, service: LocalServer) -> None:
    assert await outcome(captcha, "a person") is None
    method, _, body = service.asked[-1]
    asked = parse_qs(body.decode())
    assert (method, asked["secret"], asked["remoteip"]) == ("POST", ["our secret"], ["192.0.2.7"])
    for response in ("a program", "", None):
        refused = await outcome(captcha, response)
        assert refused is not None
        assert (refused.kind, refused.details[0].field) == (Kind.VALIDATION_FAILED, "captcha")


@pytest.mark.req("R-AUTH-3")
async def test_where_it_is_not_asked_for_nobody_is_asked(captcha: SiteVerifyCaptcha, service: LocalServer) -> None:
    await captcha.check("login", None, "192.0.2.7")
    await NoCaptcha().check("register", None, "192.0.2.7")
    assert service.asked == []


@pytest.mark.req("R-AUTH-3")
@pytest.mark.parametrize(
    "answer",
    [(500, b""), (200, b"not json"), (200, b"[]"), (200, b'{"success": "true"}'), (302, b""), (200, b"x" * 100_000)],
)
async def test_service_that_fails_lets_nobody_in(
    captcha: SiteVerifyCaptcha, service: LocalServer, answer: tuple[int, bytes]
) -> None:
    service.answers[VERIFY] = answer
    refused = await outcome(captcha, "a person")
    assert refused is not None
    assert refused.kind in {Kind.UNAVAILABLE, Kind.VALIDATION_FAILED}


@pytest.mark.req("R-AUTH-3")
async def test_service_that_is_away_is_not_the_persons_fault(service: LocalServer) -> None:
    async with httpx2.AsyncClient(timeout=1) as http:
        away = SiteVerifyCaptcha(http, "http://127.0.0.1:1/", "our secret", ["register"])
        refused = await outcome(away, "a person")
    assert refused is not None
    assert (refused.kind, refused.retry_after_s) == (Kind.UNAVAILABLE, 5.0)


@pytest.mark.req("R-AUTH-3")
async def test_account_is_made_with_a_solved_captcha_only(captcha: SiteVerifyCaptcha) -> None:
    ada = {"email": "ada@example.com", "username": "ada", "password": "correct horse"}
    async with running(captcha=captcha) as gateway:
        refused = await gateway.client.post("/api/auth/register", json=ada)
        assert (refused.status_code, problem(refused)["details"][0]["field"]) == (422, "captcha")
        assert gateway.accounts.accounts == {}
        solved = await gateway.client.post("/api/auth/register", json={**ada, "captcha": "a person"})
        assert solved.status_code == 201
        entered = {"email": ada["email"], "password": ada["password"]}
        assert (await gateway.client.post("/api/auth/login", json=entered)).status_code == 200
