"""How often something may be tried: within a window, or ever more slowly. Pure."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass, field, replace

LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Slot:
    """What is remembered of the tries under one key. Behind `forget_at` it is as good as nothing."""

    tried_at: tuple[dt.datetime, ...] = ()
    failures: int = 0
    locked_until: dt.datetime | None = None
    forget_at: dt.datetime = LONG_AGO


NOTHING = Slot()


@dataclass(frozen=True, slots=True)
class Window:
    """So many tries in any stretch of time of this length, exactly."""

    tries: int
    length: dt.timedelta

    def wait_s(self, slot: Slot, now: dt.datetime) -> float:
        """Return for how long no try is admitted; 0 if one is now."""
        recent = self._recent(slot, now)
        return (recent[-self.tries] + self.length - now).total_seconds() if len(recent) >= self.tries else 0.0

    def taken(self, slot: Slot, now: dt.datetime) -> Slot:
        """Count a try."""
        return replace(slot, tried_at=(*self._recent(slot, now), now), forget_at=now + self.length)

    def forgiven(self, slot: Slot, tried_at: dt.datetime) -> Slot:
        """Count a try no longer."""
        left = list(slot.tried_at)
        if tried_at in left:
            left.remove(tried_at)
        return replace(slot, tried_at=tuple(left))

    def _recent(self, slot: Slot, now: dt.datetime) -> tuple[dt.datetime, ...]:
        return tuple(sorted(at for at in slot.tried_at if at > now - self.length))


@dataclass(frozen=True, slots=True)
class Slowing:
    """So many tries as they come; behind each further one a pause, twice as long as the one before.

    One success, or a quiet day behind the last pause, and all is forgotten.
    """

    free: int
    first: dt.timedelta
    longest: dt.timedelta
    forget: dt.timedelta = field(default=dt.timedelta(days=1))

    def wait_s(self, slot: Slot, now: dt.datetime) -> float:
        """Return for how long no try is admitted; 0 if one is now."""
        return max(0.0, (slot.locked_until - now).total_seconds()) if slot.locked_until else 0.0

    def taken(self, slot: Slot, now: dt.datetime) -> Slot:
        """Count a try."""
        failures = slot.failures + 1
        if failures < self.free:
            return replace(slot, failures=failures, forget_at=now + self.forget)
        # The exponent is bounded before the power is taken: nobody needs 2**100000 minutes.
        pause = min(self.longest, self.first * 2 ** min(failures - self.free, 30))
        return replace(slot, failures=failures, locked_until=now + pause, forget_at=now + pause + self.forget)

    def forgiven(self, slot: Slot, tried_at: dt.datetime) -> Slot:
        """Count no try any longer."""
        return NOTHING


Rule = Window | Slowing


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for whom. Addresses of IPv6 are counted by /64: whoever has one has them all."""

    address: Window
    """Failed logins from one address."""
    pair: Slowing
    """Failed logins to one account from one network."""
    account: Window
    """Failed logins to one account from all networks from which nobody has entered it before."""
    device: Window
    """Failed logins to one account from one device from which it was entered before: whatever others do."""
    registration: Window
    """Accounts opened from one address."""
    guess: Window
    """Wrong current passwords of somebody who is logged in and changes it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request came from: the address as the gateway saw it, and the token that marks a device that we know."""

    address: str = ""
    device: str = ""

    @property
    def host(self) -> str:
        """The address, or the network that one host has in IPv6; what is none is one place."""
        return _cut(self.address, v4_bits=32, v6_bits=64)

    @property
    def network(self) -> str:
        """The network of the address: /24, in IPv6 /64."""
        return _cut(self.address, v4_bits=24, v6_bits=64)


def _cut(address: str, *, v4_bits: int, v6_bits: int) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return _cut(str(found.ipv4_mapped), v4_bits=v4_bits, v6_bits=v6_bits)
        return str(ipaddress.ip_network((int(found), v6_bits), strict=False))
    return str(ipaddress.ip_network((int(found), v4_bits), strict=False))
