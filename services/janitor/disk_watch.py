"""The watch over the disk: measures, has room made, and tells the gateways when files must not come in.

They are told by the control `uploads`, which ends by itself soon after the last word of the janitor that set it: when
that one dies, uploads are let in again, and the broker's own limits are the last line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from chassis import telemetry
from chassis.broker import Broker
from chassis.bus import Bus
from chassis.controls import Controls
from services.janitor import metrics
from services.janitor.disk import Fill, Shares, Tier, measure

log = telemetry.logger(__name__)

CONTROL = "uploads"
REFUSE = "refuse"


class DiskWatch:
    """Looks at the file systems of some folders. `clean` are what makes room, in the order in which it is tried.

    `hold_s` is for how long a refusal lasts without being renewed: longer than the pause between two looks.
    """

    def __init__(
        self,
        broker: Broker,
        folders: Sequence[Path],
        shares: Shares,
        clean: Sequence[Callable[[], Awaitable[None]]],
        *,
        who: str,
        hold_s: float,
        dry: bool = False,
    ) -> None:
        self.tier = Tier.FINE
        self._broker = broker
        self._folders = folders
        self._shares = shares
        self._clean = clean
        self._who = who
        self._hold_s = hold_s
        self._dry = dry
        self._controls: tuple[Bus, Controls] | None = None

    async def look(self) -> None:
        """Measure, and do what follows. Raises OSError, AppError while the broker is away; safe to repeat."""
        worst = await self._measure()
        tier = self._shares.tier(worst.used, self.tier)
        if tier >= Tier.CLEAN:
            log.warning("disk fills up: cleaning", folder=worst.folder, used=round(worst.used, 3))
            for clean in self._clean:
                # One that fails must not keep the next from making room, nor the gateways from being told.
                try:
                    await clean()
                except Exception as fault:  # noqa: BLE001 - the edge of a task of its own, which a round counts too
                    log.warning("not cleaned", fault=f"{type(fault).__name__}: {fault}")
            worst = await self._measure()
            tier = self._shares.tier(worst.used, self.tier)
        before, self.tier = self.tier, tier
        metrics.DISK_TIER.set(tier)
        if tier is Tier.REFUSE:
            await self._refuse(worst)
        elif before is Tier.REFUSE:
            await self._allow(worst)

    async def _measure(self) -> Fill:
        fills = await asyncio.to_thread(measure, self._folders)
        worst = max(fills, key=lambda fill: fill.used)
        metrics.DISK_FREE.set(worst.free)
        metrics.DISK_SIZE.set(worst.size)
        return worst

    async def _refuse(self, worst: Fill) -> None:
        log.error("disk nearly full: uploads are refused", folder=worst.folder, used=round(worst.used, 3))
        if not self._dry:
            why = f"{worst.used:.0%} of a disk is used"
            await self._there().put(CONTROL, REFUSE, who=self._who, why=why, for_s=self._hold_s)

    async def _allow(self, worst: Fill) -> None:
        log.warning("disk has room again: uploads are let in", folder=worst.folder, used=round(worst.used, 3))
        if not self._dry:
            try:
                await self._there().clear(CONTROL, who=self._who, why="there is room again")
            except BaseException:
                self.tier = Tier.REFUSE  # to be told at the next look, if it has not ended by itself until then
                raise

    def _there(self) -> Controls:
        broker = self._broker.bus
        if self._controls is None or self._controls[0] is not broker:
            self._controls = (broker, Controls(broker))
        return self._controls[1]
