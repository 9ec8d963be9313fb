"""What a session's client is told: events, and of the states the worst one. Survives the client's absence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from verbatim.transcriber.v1 import transcriber_pb2 as relay

from chassis.errors import TABLE, Kind
from services.transcriber.transcript import Ledger


class Channel(Protocol):
    """Where a session's events go: the client, through a gateway. Sending never waits and never fails."""

    def send(self, event: relay.ServerEvent) -> None:
        """Queue an event."""

    def moved(self, session: Any) -> None:
        """The session lives in another object now (it was read from the logs again)."""


class ClientLine:
    """The session's end of the line to its client, if one is attached."""

    def __init__(
        self,
        ledger: Ledger,
        faults_max: int,
        tell_viewers: Callable[[relay.Status], None],
        *,
        drafts_only: bool = False,
    ) -> None:
        self.channel: Channel | None = None
        self._ledger = ledger
        self._tell_viewers = tell_viewers
        self._told: tuple[relay.State.ValueType, str] = (relay.STATE_OK, "")
        self._faults_max = faults_max
        self._faults = 0
        self._holds: set[str] = set()
        self._state: tuple[relay.State.ValueType, str] = (relay.STATE_OK, "")
        self._drafts_only = drafts_only
        if drafts_only:
            self._state = (relay.STATE_DEGRADED, "embedded_engine")

    @property
    def well(self) -> bool:
        """Whether there is nothing to tell of."""
        return not self._holds and self._state[0] == relay.STATE_OK

    def say(self, **kind: object) -> None:
        """Send one of the events of `ServerEvent`, by its name."""
        if self.channel is not None:
            self.channel.send(relay.ServerEvent(**kind))  # type: ignore[arg-type]  # the oneof's member, by its name

    def holds(self, reason: str) -> bool:
        """Whether the client is asked to wait for this reason."""
        return reason in self._holds

    def hold(self, reason: str) -> None:
        """Ask the client to stop sending and keep its audio."""
        if reason not in self._holds:
            self._holds.add(reason)
            self.tell_state()

    def release(self, reason: str) -> None:
        """Take one reason to hold away."""
        if reason in self._holds:
            self._holds.discard(reason)
            self.tell_state()

    def served(self, degraded: str) -> None:
        """Say why captions are drafts for now (empty: they are not), when that has changed."""
        if self._drafts_only:
            return
        state = (relay.STATE_DEGRADED, degraded) if degraded else (relay.STATE_OK, "")
        if state != self._state:
            self._state = state
            self.tell_state()

    def status(self, lag_s: float = 0.0) -> relay.Status:
        """Return the worst that is the case: hold before degraded before ok."""
        state, reason = self._state
        if self._holds:
            state, reason = relay.STATE_HOLD, min(self._holds)
        return relay.Status(state=state, reason=reason, lag_s=lag_s)

    def tell_state(self, lag_s: float = 0.0) -> None:
        """Say how well the session is served; to viewers only when it has changed."""
        status = self.status(lag_s)
        self.say(status=status)
        if self._told != (status.state, status.reason):
            self._told = (status.state, status.reason)
            self._tell_viewers(status)

    def complain(
        self, kind: Kind, message: str, *, code: str = "", expected: int | None = None, fatal: bool = False
    ) -> None:
        """Tell the client what was wrong with what it sent; too many faults end the connection."""
        self._faults += 1
        fatal = fatal or self._faults >= self._faults_max
        close_code = TABLE[kind].close if fatal else 0
        self.problem(kind, message, close_code=close_code, code=code, expected=expected)
        if fatal:
            self.channel = None

    def problem(
        self, kind: Kind, message: str, *, close_code: int, code: str = "", expected: int | None = None
    ) -> None:
        """Tell the client of an error; with a close code the gateway closes the socket after it."""
        self.say(
            problem=relay.Problem(
                code=code or kind.value,
                message=message,
                close_code=close_code,
                retryable=TABLE[kind].retryable,
                event=self._ledger.event,
                expected_offset=expected,
            )
        )
