"""What breaks things during a volume run: servers and processes, killed and frozen, by a seed."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from chassis.tests.servers import NatsServer, PostgresServer
from dev.settings import ROOT
from tests.volume.programs import ACK_WAIT_S


class Cast:
    """The processes of a run; whoever is killed is started again."""

    def __init__(self, roles: Sequence[str], database_url: str, nats_url: str) -> None:
        self._arguments = (database_url, nats_url)
        self.roles = list(roles)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start all of them."""
        self.processes = [self._new(role) for role in self.roles]

    def kill(self, index: int) -> None:
        """Kill one and start its successor."""
        self.processes[index].kill()
        self.processes[index].wait(10)
        self.processes[index] = self._new(self.roles[index])

    def signal(self, index: int, number: signal.Signals) -> None:
        """Send a signal to one."""
        self.processes[index].send_signal(number)

    def look(self) -> int:
        """Start those again that ended by themselves, as who supervises processes does. Returns how many."""
        ended = [index for index, process in enumerate(self.processes) if process.poll() is not None]
        for index in ended:
            self.processes[index] = self._new(self.roles[index])
        return len(ended)

    def stop(self) -> None:
        """End all of them."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)

    def _new(self, role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.volume.programs", role, *self._arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Nemesis:
    """Plays faults one after the other; `played` counts them by name."""

    def __init__(self, seed: int, cast: Cast, postgres: PostgresServer, nats: NatsServer) -> None:
        self._chance = random.Random(seed)
        self._cast = cast
        self._postgres = postgres
        self._nats = nats
        self.played: Counter[str] = Counter()
        self.ended = 0
        self.stop = asyncio.Event()

    @property
    def faults(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Every fault by name."""
        return {
            "process killed": self._kill,
            "consumer killed": self._kill_consumer,
            "process frozen": self._freeze,
            "worker frozen past its lease": self._freeze_worker,
            "Postgres killed": self._crash_postgres,
            "Postgres frozen": self._freeze_postgres,
            "NATS killed": self._kill_nats,
            "NATS frozen": self._freeze_nats,
        }

    async def run(self, names: Sequence[str] | None = None, pause_s: tuple[float, float] = (1.0, 4.0)) -> None:
        """Play faults, in a random order, until `stop` is set; of `names` only those. What is begun is healed."""
        while True:
            order = [name for name in self.faults if names is None or name in names]
            self._chance.shuffle(order)
            for name in order:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._chance.uniform(*pause_s)):
                        await self.stop.wait()
                        return
                await self.faults[name]()
                self.played[name] += 1
                self.ended += self._cast.look()

    async def _kill(self) -> None:
        await asyncio.to_thread(self._cast.kill, self._chance.randrange(len(self._cast.roles)))

    async def _kill_consumer(self) -> None:
        await asyncio.to_thread(self._cast.kill, self._chance.choice(self._playing({"consumer", "forgetful"})))

    async def _freeze(self) -> None:
        index = self._chance.randrange(len(self._cast.roles))
        await self._held(lambda number: self._cast.signal(index, number))

    async def _freeze_worker(self) -> None:
        """Keep a worker away for so long that another takes over what it has in hand, and then let it go on."""
        index = self._chance.choice(self._playing({"worker", "unfenced"}))
        await self._held(lambda number: self._cast.signal(index, number), at_least_s=2 * ACK_WAIT_S)

    def _playing(self, roles: set[str]) -> list[int]:
        return [index for index, role in enumerate(self._cast.roles) if role in roles]

    async def _crash_postgres(self) -> None:
        await asyncio.to_thread(self._postgres.crash)
        await self._pause()
        await asyncio.to_thread(self._postgres.start)

    async def _freeze_postgres(self) -> None:
        self._postgres.freeze()
        try:
            await self._pause()
        finally:
            self._postgres.thaw()

    async def _kill_nats(self) -> None:
        await asyncio.to_thread(self._nats.kill)
        await self._pause()
        await asyncio.to_thread(self._nats.start)

    async def _freeze_nats(self) -> None:
        self._nats.freeze()
        try:
            await self._pause()
        finally:
            self._nats.thaw()

    async def _held(self, send: Callable[[signal.Signals], None], at_least_s: float = 0.2) -> None:
        send(signal.SIGSTOP)
        try:
            await asyncio.sleep(self._chance.uniform(at_least_s, at_least_s + 5.0))
        finally:
            send(signal.SIGCONT)

    async def _pause(self, longest_s: float = 3.0) -> None:
        await asyncio.sleep(self._chance.uniform(0.2, longest_s))
