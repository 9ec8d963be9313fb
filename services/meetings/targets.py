"""Where a webhook may lead: what an address on the web may look like, and which addresses of machines may be called.

Whoever names a URL must not reach through us what only we can reach: our own network, this machine, the metadata of a
cloud. So it is the address to which a name leads that counts, and it is looked at when it is called, not before
(docs/adr/0051-a-webhook-calls-the-address-that-was-checked.md).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_LONGEST = 2000
_PORTS_BELOW = 1024

_URL = re.compile(r"(?P<scheme>https?)://(?P<host>\[[^\]/?#@]*\]|[^\[\]:/?#@]*)(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?].*)?",
                  re.IGNORECASE)  # fmt: skip
# Visible ASCII without what some parsers read as something else.
_PLAIN = re.compile(r"""[!$-;=?-\[\]_a-z~]+""")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Not only what is private: also what leads elsewhere by translation (NAT64, 6to4, Teredo, mapped), and what a cloud
# answers on. Sources: IANA's special-purpose registries; Azure's WireServer.
_NEVER_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
    )
)  # fmt: skip
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NEVER_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in its parts: the host in lower case without brackets, `rest` is path and query."""

    scheme: str
    host: str
    port: int
    rest: str

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def address(self) -> Address | None:
        """The address that the host is, if it is no name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


def target(url: str, *, allow_http: bool) -> Target:
    """Read a URL, strictly. Raises ValueError with what is wrong, without the URL's own words."""
    if len(url) > URL_LONGEST:
        raise ValueError(f"must have at most {URL_LONGEST} characters")
    if "@" in url.split("?", 1)[0]:
        raise ValueError("must hold no user name, password or @")
    if "#" in url:
        raise ValueError("must have no fragment")
    match = _URL.fullmatch(url) if _PLAIN.fullmatch(url) else None
    if match is None:
        raise ValueError("must be a URL such as https://hooks.example.org/mine")
    scheme = match["scheme"].lower()
    if scheme != "https" and not allow_http:
        raise ValueError("must begin with https://")
    usual = 443 if scheme == "https" else 80
    port = int(match["port"]) if match["port"] else usual
    if port != usual and not _PORTS_BELOW <= port <= 65535:
        raise ValueError("must name no port below 1024 but the usual one")
    rest = match["rest"] or "/"
    return Target(scheme, _host(match["host"].lower()), port, rest if rest.startswith("/") else f"/{rest}")


def _host(host: str) -> str:
    if host.startswith("["):
        try:
            # A zone (%eth0) would name a network of ours.
            return str(ipaddress.IPv6Address(host[1:-1] if "%" not in host else ""))
        except ValueError:
            raise ValueError("must have an address as RFC 4291 writes it in brackets") from None
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must have the name of a host")
    if _NUMBER.fullmatch(labels[-1]):
        # 127.1, 0x7f.1, 017700000001 and 2130706433 are addresses to some and names to others.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("must write an IPv4 address as four decimal numbers") from None
    return ".".join(labels)


class Reach:
    """Which addresses may be called: what is in the world's internet, and what an installation allows besides."""

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def permits(self, address: Address) -> bool:
        """Tell whether an address may be called."""
        # Networks of the other family contain nothing.
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        if isinstance(address, ipaddress.IPv4Address):
            return not any(address in network for network in _NEVER_V4)
        if address.scope_id is not None or address not in _GLOBAL_V6:
            return False
        return not any(address in network for network in _NEVER_V6)
