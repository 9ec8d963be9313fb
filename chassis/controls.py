"""Run-time switches: one bucket at the broker that every process watches, so that no switch needs a restart.

A control is a name with a value, somebody who set it, why, and until when. The bucket is NATS's key-value `controls`.
A process that cannot read it goes on with what it read last, one that has never read it with its safe defaults.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import nats.js.errors
import orjson
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig, RawStreamMsg
from prometheus_client import Gauge

from chassis import telemetry
from chassis.bus import FAULTS, Bus
from chassis.errors import AppError, Kind

log = telemetry.logger(__name__)

ACTIVE = Gauge("controls_active", "Controls that are set and have not expired.")

BUCKET = "controls"
_STREAM = f"KV_{BUCKET}"
_SUBJECTS = f"$KV.{BUCKET}."
_HISTORY = 20
_BYTES_MAX = 4 * 1024 * 1024
_LOOK_EVERY_S = 5.0
_CONTROLS_MAX = 500


@dataclass(frozen=True, slots=True)
class Control:
    """One switch. Times are seconds since the epoch; `until_s` None means until somebody changes it."""

    name: str
    value: str
    who: str
    why: str
    set_at_s: float
    until_s: float | None = None

    def holds(self, now_s: float) -> bool:
        """Tell whether it has not expired."""
        return self.until_s is None or now_s < self.until_s


class Controls:
    """The controls as this process knows them, and the way to change them for all."""

    def __init__(self, broker: Bus, *, replicas: int = 1, clock: Callable[[], float] = time.time) -> None:
        self._bus = broker
        self._replicas = replicas
        self._clock = clock
        self._known: dict[str, Control] = {}
        self._told: dict[str, str] = {}
        self._watchers: list[Callable[[str, str | None], None]] = []
        self._news = asyncio.Event()
        self._looking = asyncio.Lock()
        self._sequence = -1
        self._incarnation: Any = None
        self.read = asyncio.Event()
        """Set once the bucket has been read."""

    def value(self, name: str, default: str = "") -> str:
        """Return the value that holds now. Costs a look into memory."""
        control = self._known.get(name)
        return control.value if control is not None and control.holds(self._clock()) else default

    def active(self) -> list[Control]:
        """Return the controls that hold now, by name."""
        now_s = self._clock()
        return [control for _, control in sorted(self._known.items()) if control.holds(now_s)]

    def watch(self, seen: Callable[[str, str | None], None]) -> None:
        """Have `seen(name, value)` called on each change, with None when a control ends. It must not raise or wait."""
        self._watchers.append(seen)
        for name, value in self._told.items():
            seen(name, value)

    async def run(self) -> None:
        """Keep up with the bucket, for ever."""
        subscription = await self._bus.client.subscribe(f"{_SUBJECTS}>", cb=self._noticed)
        try:
            while True:
                # Cleared before the look: what comes during it is looked for again.
                self._news.clear()
                try:
                    await self._look()
                except AppError as fault:
                    log.warning("controls cannot be read", fault=str(fault))
                self._tell()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._news.wait()
        finally:
            with suppress(*FAULTS):
                await subscription.unsubscribe()

    async def put(self, name: str, value: str, *, who: str, why: str, for_s: float | None = None) -> Control:
        """Set a control for every process, and audit it. Raises AppError(UNAVAILABLE); it may hold nevertheless."""
        now_s = self._clock()
        control = Control(name, value, who, why, now_s, None if for_s is None else now_s + for_s)
        await self._write(name, orjson.dumps(asdict(control)), {})
        log.warning("control set", control=name, value=value, who=who, why=why, until_s=control.until_s)
        return control

    async def clear(self, name: str, *, who: str, why: str) -> None:
        """Give a control back to its default, and audit it. Raises AppError(UNAVAILABLE)."""
        note = orjson.dumps({"who": who, "why": why, "set_at_s": self._clock()})
        await self._write(name, note, {"KV-Operation": "DEL"})
        log.warning("control cleared", control=name, who=who, why=why)

    async def _write(self, name: str, payload: bytes, headers: dict[str, str]) -> None:
        try:
            await self._ensure()
            await self._bus.js.publish(f"{_SUBJECTS}{name}", payload, headers=headers, timeout=5.0)
            await self._look()
        except FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        self._tell()

    async def _noticed(self, _: Msg) -> None:
        self._news.set()

    async def _look(self) -> None:
        """Read the bucket if it has changed, one at a time. Raises AppError(UNAVAILABLE)."""
        async with self._looking:
            await self._read()

    async def _read(self) -> None:
        try:
            try:
                info = await self._bus.js.stream_info(_STREAM, subjects_filter=f"{_SUBJECTS}>")
            except nats.js.errors.NotFoundError:
                await self._ensure()
                info = await self._bus.js.stream_info(_STREAM, subjects_filter=f"{_SUBJECTS}>")
            # A bucket that was made anew counts from the beginning again.
            if (info.state.last_seq, info.created) != (self._sequence, self._incarnation):
                subjects = list(info.state.subjects or {})[:_CONTROLS_MAX]
                entries = [await self._bus.js.get_last_msg(_STREAM, subject) for subject in subjects]
                self._known = {control.name: control for entry in entries if (control := _control(entry))}
                self._sequence, self._incarnation = info.state.last_seq, info.created
        except FAULTS as fault:
            raise AppError(Kind.UNAVAILABLE, "The broker does not answer.", log=repr(fault)) from fault
        self.read.set()

    async def _ensure(self) -> None:
        try:
            await self._bus.js.key_value(BUCKET)
        except nats.js.errors.NotFoundError:
            config = KeyValueConfig(bucket=BUCKET, history=_HISTORY, max_bytes=_BYTES_MAX, replicas=self._replicas)
            await self._bus.js.create_key_value(config)

    def _tell(self) -> None:
        """Tell watchers what is different from what they were told last: set, changed, ended."""
        holding = {control.name: control.value for control in self.active()}
        ACTIVE.set(len(holding))
        before, self._told = self._told, holding
        for name in sorted(before.keys() | holding.keys()):
            if before.get(name) != holding.get(name):
                log.info("control changed", control=name, value=holding.get(name))
                for seen in self._watchers:
                    seen(name, holding.get(name))

    def _pause_s(self) -> float:
        """Return how long to wait for news: until the next control expires at most."""
        now_s = self._clock()
        ends = [control.until_s - now_s for control in self.active() if control.until_s is not None]
        return max(0.01, min([_LOOK_EVERY_S, *ends]))


def _control(entry: RawStreamMsg) -> Control | None:
    """Return the control that a message of the bucket holds; None if it was cleared or is not one."""
    if (entry.headers or {}).get("KV-Operation"):
        return None
    try:
        return Control(**orjson.loads(entry.data or b""))
    except (orjson.JSONDecodeError, TypeError):
        log.warning("not a control", subject=entry.subject)
        return None
