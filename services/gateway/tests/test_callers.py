"""Where somebody who logs in comes from, as `meetings` is told."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.tests.conftest import Gateway, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA = {"email": "ada@example.com", "password": "correct horse"}


async def log_in(gateway: Gateway, **headers: str) -> tuple[str, str, str]:
    """Return the address and the device that meetings was told, and the cookie that was set."""
    answer = await gateway.client.post("/api/auth/login", json=ADA, headers=headers)
    caller = gateway.accounts.callers[-1]
    return caller.address, caller.device, answer.headers.get("set-cookie", "")


@pytest.mark.req("R-AUTH-3")
async def test_login_marks_the_device_and_the_mark_comes_back() -> None:
    async with running() as gateway:
        await gateway.client.post("/api/auth/register", json={**ADA, "username": "ada"})
        address, device, cookie = await log_in(gateway)
        assert (address, device) == ("127.0.0.1", "")
        assert cookie.startswith("device=the-device; HttpOnly; Max-Age=15552000; Path=/; SameSite=strict")
        assert (await log_in(gateway))[1] == "the-device"
        # A failure marks nothing.
        wrong = await gateway.client.post("/api/auth/login", json={**ADA, "password": "wrong"})
        assert "set-cookie" not in wrong.headers


@pytest.mark.req("R-AUTH-3", "R-SEC-1")
async def test_behind_tls_the_mark_belongs_to_this_host_alone() -> None:
    async with running(verbatim_env="production") as gateway:
        await gateway.client.post("/api/auth/register", json={**ADA, "username": "ada"})
        cookie = (await log_in(gateway))[2]
        assert cookie.startswith("__Host-device=the-device;")
        assert "; Secure" in cookie
        assert "domain" not in cookie.lower()
        assert (await log_in(gateway, cookie="device=planted"))[1] == ""
        assert (await log_in(gateway, cookie="__Host-device=kept"))[1] == "kept"


@pytest.mark.req("R-AUTH-3")
async def test_address_is_invented_by_nobody_but_our_proxies() -> None:
    async with running() as gateway:
        forged = {"x-forwarded-for": "198.51.100.1", "x-real-ip": "198.51.100.1", "forwarded": "for=198.51.100.1"}
        assert (await log_in(gateway, **forged))[0] == "127.0.0.1"
    async with running(trusted_proxies=("127.0.0.0/8",)) as gateway:
        assert (await log_in(gateway, **{"x-forwarded-for": "10.9.9.9, 198.51.100.1"}))[0] == "198.51.100.1"


@pytest.mark.req("R-AUTH-2", "R-SEC-1")
@pytest.mark.parametrize(
    "name", ["x-user-id", "x-account-id", "x-owner-id", "x-role", "x-admin", "x-original-url", "x-http-method-override"]
)
async def test_headers_that_some_platforms_believe_are_nothing_here(gateway: Gateway, name: str) -> None:
    owner, other = gateway.as_account(), gateway.as_account()
    meeting = await gateway.new_meeting(owner)
    account = gateway.signer.account_of(owner)
    forged = {**other, name: account if "id" in name else "admin"}
    assert (await gateway.client.get(f"/api/meetings/{meeting}", headers=forged)).status_code == 404
    assert (await gateway.client.get("/api/admin/accounts", headers=forged)).status_code == 403
    assert (await gateway.client.get(f"/api/meetings/{meeting}", headers={name: account})).status_code == 401


SMUGGLED = "GET /api/meetings HTTP/1.1\r\nHost: a\r\nX: "
SMUGGLING = {
    "length and chunks": "POST /api/auth/logout HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked"
    "\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": "POST /api/auth/logout HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n"
    + SMUGGLED,
    "chunks misspelt": "POST /api/auth/logout HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "blank before the colon": "POST /api/auth/logout HTTP/1.1\r\nHost: a\r\nContent-Length : 44\r\n\r\n" + SMUGGLED,
    "line feed alone": "GET /healthz HTTP/1.1\nHost: a\nContent-Length: 0\n\n" + SMUGGLED,
    "header folded": "GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: b\r\n Transfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
}


@pytest.mark.req("R-SEC-1")
@pytest.mark.parametrize("attack", SMUGGLING)
async def test_no_second_request_is_smuggled_behind_one_that_two_could_read_differently(
    gateway: Gateway, attack: str
) -> None:
    """A request that a proxy would take for the body of the first must not be answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(SMUGGLING[attack].encode())
    writer.write_eof()
    async with asyncio.timeout(20):
        said = (await reader.read()).decode(errors="replace")
    writer.close()
    assert said.count("HTTP/1.1 ") <= 1, said
    assert "www-authenticate" not in said.lower(), said


@pytest.mark.req("R-SEC-1")
@pytest.mark.parametrize("value", ["req_abcdefgh\r\nX-Injected: 1", "req_abcdefgh%0d%0aX-Injected: 1", "\x00" * 12])
async def test_nothing_that_is_sent_becomes_a_header_of_the_answer(gateway: Gateway, value: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Request-ID: {value}\r\n\r\n".encode("latin-1"))
    writer.write_eof()
    async with asyncio.timeout(20):
        said = (await reader.read()).decode(errors="replace").lower()
    writer.close()
    assert "x-injected" not in said
