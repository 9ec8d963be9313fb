"""Where a request comes from: the client's address, behind proxies that we trust and behind none other."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_FORWARDED_MAX = 32

UNKNOWN = "unknown"


class Proxies:
    """The proxies whose word we take. Without any, the client is whoever is connected."""

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks`: addresses or CIDR blocks. Raises ValueError for anything else."""
        self._networks = tuple(ipaddress.ip_network(network, strict=False) for network in networks)

    def client(self, scope: Any) -> str:
        """Return the client's address: of X-Forwarded-For, the right-most that is not one of our proxies.

        What is left of that was written by whoever that is, and may be invented.
        """
        peer = _parsed(scope["client"][0]) if scope.get("client") else None
        if peer is None:
            return UNKNOWN
        if not self._trusted(peer):
            return str(peer)
        written = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        for part in reversed(written.decode("latin-1").split(",")[-_FORWARDED_MAX:]):
            hop = _parsed(part.strip())
            if hop is None:
                # Our proxy wrote what we cannot read: whom it stands for is not known, so it stands for itself.
                break
            peer = hop
            if not self._trusted(hop):
                break
        return str(peer)

    def trusts(self, address: str) -> bool:
        """Tell whether an address is one of our proxies."""
        found = _parsed(address)
        return found is not None and self._trusted(found)

    def _trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def network_of(address: str) -> str:
    """Return whom to count an address for: itself, or of an IPv6 address the /64 that one subscriber has at least."""
    found = _parsed(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return address


def _parsed(text: str) -> _Address | None:
    # Some proxies write ports, and IPv6 in brackets.
    text = text.removeprefix("[").partition("]")[0] if text.startswith("[") else text
    if text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found
