"""What is good for nothing any more though it has not expired, and who must hear of it at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from nats.aio.msg import Msg
from verbatim.meetings.v1 import logins_pb2 as pb
from verbatim.meetings.v1.logins_pb2_grpc import LoginsServiceStub

from chassis import bus, ids, telemetry
from chassis.errors import AppError, Kind
from chassis.rpc import Peer
from services.gateway import metrics
from services.gateway.auth import Principal
from services.gateway.broker import Broker

log = telemetry.logger(__name__)

SUBJECT = "events.account.revoked"
# Longer than anything lives that was signed before.
_KEPT_S = 2 * 86400.0
_FORGET_EVERY_S = 3600.0

Tell = Callable[[AppError], None]


class Revocations:
    """What this gateway knows to be revoked."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._revoked: dict[tuple[int, str], float] = {}
        self._watchers: dict[tuple[int, str], dict[object, tuple[Principal, Tell]]] = {}
        self._forget_at = clock() + _FORGET_EVERY_S

    def check(self, who: Principal) -> None:
        """Raise AppError(UNAUTHORIZED) if what the principal came in with is revoked."""
        if self._is_revoked(who):
            raise _revoked()

    def learn(self, revocation: pb.Revocation) -> None:
        """Take a revocation in, and tell whoever is open with it. The same may come often."""
        key, at = (int(revocation.kind), revocation.id), revocation.at.ToNanoseconds() / 1e9
        if self._revoked.get(key, 0.0) >= at:
            return
        self._revoked[key] = at
        for who, tell in list(self._watchers.get(key, {}).values()):
            if self._is_revoked(who):
                metrics.REVOKED_CLOSED.inc()
                tell(_revoked())
        self._forget()

    @contextmanager
    def watched(self, who: Principal, tell: Tell) -> Iterator[None]:
        """Have `tell` called, once or more often, if what the principal came in with is revoked meanwhile."""
        self.check(who)
        entry = object()
        keys = _keys(who)
        for key in keys:
            self._watchers.setdefault(key, {})[entry] = (who, tell)
        try:
            yield
        finally:
            for key in keys:
                watchers = self._watchers[key]
                del watchers[entry]
                if not watchers:
                    del self._watchers[key]

    def _is_revoked(self, who: Principal) -> bool:
        for key in _keys(who):
            at = self._revoked.get(key)
            # Of an account, what was given out up to then; of a login or a key, all.
            if at is not None and (key[0] != pb.REVOCATION_KIND_ACCOUNT or who.issued_at <= at):
                return True
        return False

    def _forget(self) -> None:
        now = self._clock()
        if now < self._forget_at:
            return
        self._forget_at = now + _FORGET_EVERY_S
        self._revoked = {key: at for key, at in self._revoked.items() if at > now - _KEPT_S}


def _keys(who: Principal) -> list[tuple[int, str]]:
    keys = [(int(pb.REVOCATION_KIND_ACCOUNT), who.account_id)]
    if who.login_id:
        keys.append((int(pb.REVOCATION_KIND_LOGIN), who.login_id))
    if who.key_id:
        keys.append((int(pb.REVOCATION_KIND_API_KEY), who.key_id))
    return keys


def _revoked() -> AppError:
    return AppError(Kind.UNAUTHORIZED, "The login or API key has ended.", log="token refused: revoked")


class RevocationNews:
    """Brings revocations in: the broker tells of each at once, and what it does not, `meetings` is asked for.

    While neither answers, nothing is closed: a good credential is never called wrong because we cannot ask.
    """

    def __init__(
        self, revocations: Revocations, meetings: Peer, broker: Broker, *, every_s: float, timeout_s: float
    ) -> None:
        self._revocations = revocations
        self._meetings = meetings
        self._stub = LoginsServiceStub(meetings.channel)
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._as_of: Timestamp | None = None
        broker.when_connected(self._listen)

    async def run(self) -> None:
        """Ask for ever, every few seconds."""
        while True:
            with telemetry.bound(ids.new_request_id()):
                await self.look()
            await asyncio.sleep(self._every_s * random.uniform(0.8, 1.0))

    async def look(self) -> None:
        """Ask for what is new. After a call that revokes something, this replica need not wait to be told."""
        try:
            answer = await self._meetings.call(
                self._stub.ListRevocations, pb.ListRevocationsRequest(since=self._as_of), timeout_s=self._timeout_s
            )
        except AppError as fault:
            # Whatever it is: the next look asks for the same again.
            metrics.REVOCATION_LOOKS.labels("failed").inc()
            log.warning("revocations not read", fault=str(fault))
            return
        metrics.REVOCATION_LOOKS.labels("done").inc()
        for revocation in answer.revocations:
            self._revocations.learn(revocation)
        self._as_of = answer.as_of

    async def _listen(self, connection: bus.Bus) -> None:
        await connection.client.subscribe(SUBJECT, cb=self._told)

    async def _told(self, message: Msg) -> None:
        try:
            self._revocations.learn(pb.Revocation.FromString(message.data))
        except DecodeError:
            log.warning("revocation cannot be read")
