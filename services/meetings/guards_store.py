"""Counts of tries, in the database.

All replicas count together, and there is no cache whose loss would let everybody in: where the database is away, nobody
logs in anyway.
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.errors import AppError, Kind
from chassis.postgres import Database
from services.meetings import metrics
from services.meetings.account_tables import known_networks, tries
from services.meetings.devices import Devices
from services.meetings.guards import NOTHING, Place, Rule, Rules, Slot

NETWORKS_KNOWN_S = 90 * 86400.0


@dataclass(frozen=True, slots=True)
class Admission:
    """A try that was admitted, and counts as failed until it is forgiven."""

    at: dt.datetime
    rules: Mapping[bytes, Rule]
    subject: bytes = b""
    network: bytes = b""


class Guards:
    """Admits tries. Each is counted before it is made, so that a thousand at once are not admitted as one."""

    def __init__(
        self, database: Database, rules: Rules, secret: bytes, devices: Devices, clock: Callable[[], dt.datetime]
    ) -> None:
        self._database = database
        self._rules = rules
        self._secret = secret
        self._devices = devices
        self._clock = clock

    async def admit_login(self, email: str, place: Place) -> Admission:
        """Admit a login under an address, whether or not there is such an account.

        Raises AppError(RATE_LIMIT_EXCEEDED). A device that has entered the account before has tries of its own, so
        nobody else can use them up.
        """
        subject, network = self._key("subject", email), self._key("network", place.network)
        if nonce := self._devices.nonce(subject, place.device):
            held: dict[bytes, Rule] = {self._key("device", email, nonce): self._rules.device}
            return await self._admit("login", held, subject=subject, network=network)
        held = {
            self._key("host", place.host): self._rules.address,
            self._key("pair", email, place.network): self._rules.pair,
        }
        unknown = {self._key("account", email): self._rules.account}
        return await self._admit("login", held, unless_known=unknown, subject=subject, network=network)

    async def admit_registration(self, place: Place) -> Admission:
        """Admit the opening of an account. Raises AppError(RATE_LIMIT_EXCEEDED)."""
        return await self._admit("register", {self._key("registration", place.host): self._rules.registration})

    async def admit_guess(self, account_id: str) -> Admission:
        """Admit that somebody who is logged in tells the password. Raises AppError(RATE_LIMIT_EXCEEDED)."""
        return await self._admit("password", {self._key("guess", account_id): self._rules.guess})

    async def forgive(self, admission: Admission) -> None:
        """Count a try no longer: it was right, or it was our fault that it could not be told."""
        await self._database.run("forgive try", lambda connection: _forgive(connection, admission))

    async def entered(self, admission: Admission) -> str:
        """Note that a login was right. Returns the token that marks the device from now on."""
        seen = insert(known_networks).values(subject=admission.subject, network=admission.network, seen_at=admission.at)
        seen = seen.on_conflict_do_update(
            index_elements=["subject", "network"], set_={"seen_at": seen.excluded.seen_at}
        )

        async def work(connection: AsyncConnection) -> None:
            await _forgive(connection, admission)
            await connection.execute(seen)

        await self._database.run("note login", work)
        return self._devices.sign(admission.subject)

    async def forget(self, email: str) -> None:
        """Forget from where an account was entered: it is no more."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                known_networks.delete().where(known_networks.c.subject == self._key("subject", email))
            )

        await self._database.run("forget networks", work)

    async def _admit(
        self,
        what: str,
        rules: dict[bytes, Rule],
        *,
        unless_known: Mapping[bytes, Rule] = MappingProxyType({}),
        subject: bytes = b"",
        network: bytes = b"",
    ) -> Admission:
        now = self._clock()

        async def work(connection: AsyncConnection) -> Admission:
            held = rules
            if unless_known and not await _is_known(connection, subject, network, now):
                held = rules | dict(unless_known)
            # First without a lock: who is refused, and a storm of tries is, makes nobody wait.
            _refuse(what, held, await _read(connection, held, now), now)
            slots = await _read_locked(connection, held, now)
            _refuse(what, held, slots, now)
            await _write(connection, {key: rule.taken(slots[key], now) for key, rule in held.items()})
            return Admission(now, held, subject, network)

        return await self._database.run("admit try", work)

    def _key(self, kind: str, *parts: str) -> bytes:
        # Keyed, so that nobody who reads the table learns who lives where; lengths, so that no two say the same.
        message = b"".join(f"{len(part)}:{part}".encode() for part in (kind, *parts))
        return hmac.digest(self._secret, message, "sha256")


def _refuse(what: str, rules: Mapping[bytes, Rule], slots: Mapping[bytes, Slot], now: dt.datetime) -> None:
    wait_s = max(rule.wait_s(slots[key], now) for key, rule in rules.items())
    if wait_s > 0:
        metrics.TRIES_REFUSED.labels(what).inc()
        raise AppError(Kind.RATE_LIMIT_EXCEEDED, "Too many tries: come back later.", retry_after_s=wait_s)


async def _is_known(connection: AsyncConnection, subject: bytes, network: bytes, now: dt.datetime) -> bool:
    n = known_networks.c
    since = now - dt.timedelta(seconds=NETWORKS_KNOWN_S)
    query = sa.select(sa.exists().where(n.subject == subject, n.network == network, n.seen_at > since))
    return bool((await connection.execute(query)).scalar_one())


async def _read_locked(connection: AsyncConnection, rules: Mapping[bytes, Rule], now: dt.datetime) -> dict[bytes, Slot]:
    # Always in one order: two that share keys wait for each other, not for ever.
    rows = [{"key": key, "forget_at": now} for key in sorted(rules)]
    await connection.execute(insert(tries).on_conflict_do_nothing(), rows)
    return await _read(connection, rules, now, lock=True)


async def _read(
    connection: AsyncConnection, rules: Mapping[bytes, Rule], now: dt.datetime, *, lock: bool = False
) -> dict[bytes, Slot]:
    query = sa.select(tries.c.key, tries.c.tried_at, tries.c.failures, tries.c.locked_until, tries.c.forget_at)
    query = query.where(tries.c.key.in_(sorted(rules))).order_by(tries.c.key)
    found = {
        row.key: Slot(tuple(row.tried_at), row.failures, row.locked_until, row.forget_at)
        for row in await connection.execute(query.with_for_update() if lock else query)
        if row.forget_at > now
    }
    return {key: found.get(key, NOTHING) for key in rules}


async def _forgive(connection: AsyncConnection, admission: Admission) -> None:
    slots = await _read_locked(connection, admission.rules, admission.at)
    await _write(connection, {key: rule.forgiven(slots[key], admission.at) for key, rule in admission.rules.items()})


async def _write(connection: AsyncConnection, slots: Mapping[bytes, Slot]) -> None:
    kept = {key: slot for key, slot in slots.items() if slot.tried_at or slot.failures}
    gone = [key for key in slots if key not in kept]
    for key in sorted(kept):
        slot = kept[key]
        await connection.execute(
            tries.update()
            .where(tries.c.key == key)
            .values(
                tried_at=list(slot.tried_at),
                failures=slot.failures,
                locked_until=slot.locked_until,
                forget_at=slot.forget_at,
            )
        )
    if gone:
        await connection.execute(tries.delete().where(tries.c.key.in_(gone)))
