"""A request to a stranger's server goes where it was checked to go, takes no longer and brings no more than allowed.

127.0.0.2 stands for a server in the internet, 127.0.0.1 for one inside.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from chassis.errors import AppError, Kind
from services.meetings.posting import ANSWER_BYTES_MAX, Poster, SystemResolver
from services.meetings.targets import Address, Reach, Target, target
from services.meetings.tests.receiver import Receiver, certificate, receiving

pytestmark = pytest.mark.req("R-API-7")

OUTSIDE, INSIDE = "127.0.0.2", "127.0.0.1"
ONLY_OUTSIDE = Reach([ipaddress.ip_network(OUTSIDE)])
NO_GUARD = Reach([ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")])


class Names:
    """A name server that answers in turn; the last answer stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = [[ipaddress.ip_address(one) for one in answer] for answer in answers]
        self.asked: list[str] = []

    async def addresses(self, host: str) -> Sequence[Address]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Unpinned(Poster):
    """The defence left out: looks a name up, finds it good, and has it looked up again to connect."""

    async def checked(self, to: Target) -> Sequence[Address]:
        await super().checked(to)
        return await self._resolver.addresses(to.host)


def to(url: str) -> Target:
    return target(url, allow_http=True)


def port_of_both() -> int:
    with socket.socket() as probe:
        probe.bind((INSIDE, 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("poster", "led_inside"), [(Poster, False), (Unpinned, True)], ids=["pinned", "negative control"]
)
async def test_a_name_that_leads_elsewhere_when_it_is_asked_again_leads_nowhere_else(
    poster: type[Poster], led_inside: bool
) -> None:
    port = port_of_both()
    names = Names([OUTSIDE], [INSIDE])
    async with receiving(Receiver(), OUTSIDE, port=port) as outside, receiving(Receiver(), INSIDE, port=port) as inside:
        answer = await poster(names, ONLY_OUTSIDE).post(to(outside.url("rebinding.example")), {}, b"{}")
    assert answer.status == 204
    assert (len(outside.got), len(inside.got)) == ((0, 1) if led_inside else (1, 0))
    if not led_inside:
        assert names.asked == ["rebinding.example"]
        assert outside.got[0].headers["Host"] == f"rebinding.example:{port}"


@pytest.mark.parametrize("inside", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "0.1.2.3"])
async def test_a_name_that_leads_inside_is_not_called_nor_one_that_leads_both_ways(inside: str) -> None:
    for found in ([inside], [OUTSIDE, inside]):
        with pytest.raises(AppError) as caught:
            await Poster(Names(found), ONLY_OUTSIDE).post(to("http://inside.example:8080/"), {}, b"{}")
        assert (caught.value.kind, caught.value.message) == (
            Kind.BAD_GATEWAY,
            "Its host has no address that may be called.",
        )


async def test_an_inside_server_is_reached_with_the_guard_off_and_not_with_it_on() -> None:
    """The negative control of the whole guard: what it keeps from being called can be called."""
    async with receiving(Receiver(), INSIDE) as inside:
        for url in (inside.url(), inside.url("localhost")):
            with pytest.raises(AppError):
                await Poster(SystemResolver(), Reach()).post(to(url), {}, b"{}")
        assert inside.got == []
        assert (await Poster(SystemResolver(), NO_GUARD).post(to(inside.url()), {}, b"{}")).status == 204
        assert len(inside.got) == 1


async def test_a_name_that_is_not_there_is_told_like_one_that_leads_inside() -> None:
    with pytest.raises(AppError) as caught:
        await Poster(SystemResolver(), Reach()).post(to("https://nobody.invalid/"), {}, b"{}")
    assert caught.value.message == "Its host has no address that may be called."


async def test_a_redirect_is_not_followed() -> None:
    async with receiving(Receiver(), INSIDE) as inside:
        leading = Receiver(status=307, headers={"Location": inside.url()})
        async with receiving(leading, OUTSIDE) as outside:
            answer = await Poster(Names([OUTSIDE]), NO_GUARD).post(to(outside.url("hook.example")), {}, b"{}")
    assert (answer.status, answer.good, inside.got) == (307, False, [])


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(Receiver(status=500), INSIDE) as proxy, receiving(Receiver(), OUTSIDE) as outside:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setitem(os.environ, name, proxy.url())
        answer = await Poster(Names([OUTSIDE]), ONLY_OUTSIDE).post(to(outside.url("hook.example")), {}, b"{}")
    assert (answer.status, proxy.got) == (204, [])


async def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    async with receiving(Receiver(pause_s=30.0), OUTSIDE) as outside:
        began = time.monotonic()
        with pytest.raises(AppError) as caught:
            await Poster(Names([OUTSIDE]), ONLY_OUTSIDE, timeout_s=0.5).post(to(outside.url("a.example")), {}, b"")
        assert caught.value.kind is Kind.TIMEOUT
        assert time.monotonic() - began < 10.0


async def test_an_endless_answer_is_read_no_further_than_allowed() -> None:
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        try:
            while True:
                writer.write(piece)
                await writer.drain()
                sent += 0x4000
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(endless, OUTSIDE, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = await Poster(Names([OUTSIDE]), ONLY_OUTSIDE).post(to(f"http://a.example:{port}/"), {}, b"")
    assert answer.status == 200
    # Both kernels' buffers hold some megabytes of what nobody reads.
    assert sent < 100 * ANSWER_BYTES_MAX


async def test_what_is_no_answer_is_an_attempt_that_failed() -> None:
    async def rubbish(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    server = await asyncio.start_server(rubbish, OUTSIDE, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(AppError) as caught:
            await Poster(Names([OUTSIDE]), ONLY_OUTSIDE).post(to(f"http://a.example:{port}/"), {}, b"")
    assert caught.value.kind is Kind.BAD_GATEWAY
    with pytest.raises(AppError, match="No connection"):
        await Poster(Names([OUTSIDE]), ONLY_OUTSIDE).post(to(f"http://a.example:{port}/"), {}, b"")


async def test_tls_is_spoken_with_the_name_of_the_url_at_the_address_that_was_checked(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "hook.example")
    async with receiving(Receiver(), OUTSIDE, tls=server) as outside:
        poster = Poster(Names([OUTSIDE]), ONLY_OUTSIDE, tls=client)
        assert (await poster.post(to(outside.url("hook.example")), {}, b"{}")).status == 204
        with pytest.raises(AppError, match="certificate is not valid"):
            await poster.post(to(outside.url("other.example")), {}, b"{}")
        strict = Poster(Names([OUTSIDE]), ONLY_OUTSIDE)
        with pytest.raises(AppError, match="certificate is not valid"):
            await strict.post(to(outside.url("hook.example")), {}, b"{}")
    assert len(outside.got) == 1


async def test_how_long_to_wait_is_read_from_the_answer() -> None:
    async with receiving(Receiver(status=429, headers={"Retry-After": "7"}), OUTSIDE) as outside:
        answer = await Poster(Names([OUTSIDE]), ONLY_OUTSIDE).post(to(outside.url("a.example")), {}, b"")
    assert (answer.status, answer.retry_after_s) == (429, 7.0)
