"""Where a webhook may not lead, however it is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meetings.targets import Reach, target

pytestmark = pytest.mark.req("R-API-7")

# How the inside is written by those who want to get there. Refused by what the URL says, before any name is looked up.
BAD_URLS = [
    "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "//example.com/",
    "example.com", "https:example.com", "https:/example.com", "https://", "https:///hook", "javascript:alert(1)",
    "https://user@example.com/", "https://user:pw@example.com/", "https://example.com@10.0.0.1/",
    "https://10.0.0.1@example.com/", "https://example.com\\@10.0.0.1/", "https://example.com/#@10.0.0.1/",
    "https://example.com#.evil.example", "https:\\\\10.0.0.1\\", "https://10.0.0.1\\.example.com/",
    "https://2130706433/", "https://0x7f000001/", "https://017700000001/", "https://127.1/", "https://127.0.1/",
    "https://0177.0.0.1/", "https://0x7f.0.0.1/", "https://127.0.0.01/", "https://127.0.0.1.1/", "https://0/",
    "https://256.256.256.256/", "https://1.2.3/", "https://[::1/", "https://::1/", "https://[::1]]/",
    "https://[fe80::1%25lo]/", "https://[fe80::1%lo]/", "https://[127.0.0.1]/", "https://[]/", "https://[::g]/",
    "https://exam ple.com/", "https://example.com/a b", " https://example.com/", "https://example.com/\r\nHost: x",
    "https://example.com/\x00", "https://ex\tample.com/", "https://①②⑦.⓪.⓪.①/", "https://１２７.0.0.1/",
    "https://ⓔxample.com/", "https://münchen.example/", "https://example。com/", "https://-a.example/",
    "https://a-.example/", "https://a..example/", "https://.example/", "https://_a.example/", "https://*.example/",
    "https://a,b.example/", "https://example.com:0/", "https://example.com:22/", "https://example.com:65536/",
    "https://example.com:99999999999/", "https://example.com:-1/", "https://example.com:80x/", "https://example.com:/",
    "https://example.com:443:80/", "https://" + "a" * 64 + ".example/", "https://" + "a." * 130 + "example/",
    "https://example.com/" + "a" * 2000,
]  # fmt: skip

INSIDE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1",  # noqa: S104
    "127.255.255.254",
    "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1",
    "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:10.0.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1",
    "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:db8::1",
    "2002:a00:1::1", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "5f00::1", "4000::1",
]  # fmt: skip

OUTSIDE = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        target(url, allow_http=False)
    assert url not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "port", "rest"),
    [
        ("https://example.com", "example.com", 443, "/"),
        ("HTTPS://Hooks.Example.COM/a/b?c=d@e", "hooks.example.com", 443, "/a/b?c=d@e"),
        ("https://example.com.:8443?x", "example.com", 8443, "/?x"),
        ("https://xn--mnchen-3ya.example/", "xn--mnchen-3ya.example", 443, "/"),
        ("https://93.184.216.34/", "93.184.216.34", 443, "/"),
        ("https://[2606:4700:0::1111]/", "2606:4700::1111", 443, "/"),
        ("https://3com.example/", "3com.example", 443, "/"),
    ],
)
def test_a_usual_url_is_read_as_it_is_meant(url: str, host: str, port: int, rest: str) -> None:
    read = target(url, allow_http=False)
    assert (read.host, read.port, read.rest) == (host, port, rest)


def test_without_tls_only_where_it_is_allowed() -> None:
    assert target("http://example.com/", allow_http=True).port == 80


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside_is_not_called_unless_it_is_allowed(address: str) -> None:
    found = ipaddress.ip_address(address)
    assert not Reach().permits(found)
    assert Reach([ipaddress.ip_network(found)]).permits(found)  # negative control: it is this rule that refuses


@pytest.mark.parametrize("address", OUTSIDE)
def test_the_internet_may_be_called(address: str) -> None:
    assert Reach().permits(ipaddress.ip_address(address))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_may_be_called_that_python_knows_to_be_no_public_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if Reach().permits(address):
        assert address.is_global
        assert not address.is_multicast
