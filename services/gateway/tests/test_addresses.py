"""Whose address a request has."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.addresses import UNKNOWN, Proxies, network_of

pytestmark = pytest.mark.req("R-RL-1")


def scope(peer: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"client": (peer, 1234) if peer else None, "headers": headers}


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        ((), "203.0.113.9", (), "203.0.113.9"),
        ((), "203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
        (("10.0.0.0/8",), "203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
        (("10.0.0.0/8",), "10.1.2.3", ("198.51.100.1",), "198.51.100.1"),
        (("10.0.0.0/8",), "10.1.2.3", ("1.1.1.1, 198.51.100.1",), "198.51.100.1"),
        (("10.0.0.0/8",), "10.1.2.3", ("1.1.1.1", "198.51.100.1, 10.9.9.9"), "198.51.100.1"),
        (("10.0.0.0/8",), "10.1.2.3", (), "10.1.2.3"),
        (("10.0.0.0/8",), "10.1.2.3", ("10.4.4.4",), "10.4.4.4"),
        (("10.0.0.0/8",), "10.1.2.3", ("8.8.8.8, nonsense",), "10.1.2.3"),
        (("10.0.0.0/8",), "10.1.2.3", ("8.8.8.8, ",), "10.1.2.3"),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", ("198.51.100.1:4711",), "198.51.100.1"),
        (("fd00::/8",), "fd00::1", ("[2001:db8::7]:443",), "2001:db8::7"),
        ((), None, (), UNKNOWN),
    ],
)
def test_only_our_own_proxies_are_believed(
    trusted: tuple[str, ...], peer: str | None, forwarded: tuple[str, ...], client: str
) -> None:
    assert Proxies(trusted).client(scope(peer, *forwarded)) == client


def test_subscriber_with_many_ipv6_addresses_is_one() -> None:
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2:ffff::1") != network_of("2001:db8:1:3::1")
    assert network_of("198.51.100.1") == "198.51.100.1"
