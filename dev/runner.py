"""Supervise named child processes: ordered start, readiness, logs, faults, clean stop.

`make run`, `make demo` and the end-to-end tests stand on this one runner. Children write straight into
their log files, so a slow console never blocks one, and processes are polled rather than watched by an
event loop, so a runner that was started in one loop can be used from another.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from dev.guard import Guard

POLL_S = 0.05
TAIL_LINES = 25
TAIL_BYTES = 64 * 1024
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """What to run, when it is ready, and how it wants to be stopped.

    `ready` is asked again and again until it answers True or `ready_within_s` is over; without it a program
    is ready as soon as it runs. `death_signal` is what the kernel sends when the runner itself dies. `user`
    is a user name; it needs root.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    ready: Callable[[], Awaitable[bool]] | None = None
    ready_within_s: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within_s: float = 15.0
    death_signal: signal.Signals = signal.SIGKILL
    user: str | None = None


class ProcessDiedError(Exception):
    """A child ended that nobody had asked to end. `tail` is the end of its log."""

    def __init__(self, name: str, exit_code: int, log: Path, tail: str) -> None:
        self.name, self.exit_code, self.log, self.tail = name, exit_code, log, tail
        how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
        super().__init__(f"{name} ended ({how}); its log is {log}")


class NotReadyError(Exception):
    """A child runs but did not become ready in time. `tail` is the end of its log."""

    def __init__(self, name: str, within_s: float, log: Path, tail: str) -> None:
        self.name, self.log, self.tail = name, log, tail
        super().__init__(f"{name} was not ready within {within_s:g} s; its log is {log}")


@dataclass
class _Child:
    program: Program
    log: Path
    process: subprocess.Popen[bytes] | None = None
    expected_to_end: bool = False
    shown_bytes: int = field(default=0)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Runner:
    """Owns the children. Not safe for use from several tasks at once, except `kill` and `died`."""

    def __init__(self, log_folder: Path, *, progress: Callable[[str, float], None] | None = None) -> None:
        """`progress(name, seconds)` is told of every program that became ready."""
        self._log_folder = log_folder
        self._progress = progress or (lambda _name, _seconds: None)
        self._children: dict[str, _Child] = {}
        self._stages: list[list[str]] = []
        self._guard: Guard | None = None

    async def start(self, *programs: Program) -> None:
        """Start programs together and wait until all are ready; `stop` ends them together too.

        Raises ProcessDiedError or NotReadyError for the first that fails; what was started keeps running
        until `stop`.
        """
        self._launch(programs)
        await _all(self._until_ready(self._children[program.name]) for program in programs)

    async def finish(self, *programs: Program) -> None:
        """Run programs together to their end, each within its `ready_within_s`; they have no part in `stop`.

        Raises ProcessDiedError for one that ends with another exit code than 0, NotReadyError for one that
        is too slow.
        """
        self._launch(programs)
        await _all(self._until_finished(self._children[program.name]) for program in programs)
        await self._stop_stage()

    async def stop(self) -> None:
        """Stop everything, the last stage first. Bounded by each `stop_within_s`; safe to call twice."""
        while self._stages:
            await self._stop_stage()
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    async def _stop_stage(self) -> None:
        await _all(self._stop_one(self._children[name]) for name in self._stages[-1])
        self._stages.pop()

    async def restart(self, name: str) -> None:
        """Stop the child if it runs, start it anew, wait until it is ready. Its log file goes on."""
        child = self._children[name]
        await self._stop_one(child)
        self._spawn(child)
        await self._until_ready(child)

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Signal the child and all of its own children: a crash, a freeze (SIGSTOP) or a thaw (SIGCONT).

        A death that follows is not unexpected. Raises ProcessLookupError if it does not run.
        """
        child = self._children[name]
        if not child.running:
            raise ProcessLookupError(f"{name} does not run")
        child.expected_to_end = child.expected_to_end or sig not in (signal.SIGSTOP, signal.SIGCONT)
        _signal_group(child, sig)

    async def died(self) -> ProcessDiedError:
        """Wait until a child ends that nobody asked to end, and tell which."""
        while True:
            for child in self._children.values():
                if child.process is not None and not child.expected_to_end and not child.running:
                    return self._death(child)
            await asyncio.sleep(POLL_S)

    async def ended(self, name: str, within_s: float) -> int:
        """Wait for a child's end and return its exit code (negative: the signal). Raises TimeoutError."""
        child = self._children[name]
        if not await wait_until(lambda: not child.running, within_s):
            raise TimeoutError(f"{name} still runs after {within_s:g} s")
        return -signal.SIGKILL if child.process is None else child.process.returncode

    def pid(self, name: str) -> int | None:
        """Give the process id of a running child, which is its process group too."""
        child = self._children[name]
        return child.process.pid if child.process is not None and child.running else None

    def running(self) -> list[str]:
        """Name the children that run."""
        return [name for name, child in self._children.items() if child.running]

    def log(self, name: str) -> Path:
        """Give the log file of a child."""
        return self._children[name].log

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        """Give the last lines of a child's log."""
        log = self._children[name].log
        if not log.exists():
            return ""
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    async def follow(self, console: TextIO) -> None:
        """Copy what the children log to the console, each line behind its name. Ends when cancelled."""
        while True:
            for number, child in enumerate(list(self._children.values())):
                self._show_new_lines(child, COLOURS[number % len(COLOURS)], console)
            await asyncio.sleep(4 * POLL_S)

    def _show_new_lines(self, child: _Child, colour: int, console: TextIO) -> None:
        if not child.log.exists():
            return
        with child.log.open("rb") as file:
            file.seek(child.shown_bytes)
            whole_lines = file.read(TAIL_BYTES)
        whole_lines = whole_lines[: whole_lines.rfind(b"\n") + 1]
        child.shown_bytes += len(whole_lines)
        name = f"{child.program.name:<13} |"
        prefix = f"\x1b[{colour}m{name}\x1b[0m" if console.isatty() else name
        for line in whole_lines.decode(errors="replace").splitlines():
            print(prefix, line, file=console)

    def _launch(self, programs: Sequence[Program]) -> None:
        self._log_folder.mkdir(parents=True, exist_ok=True)
        if self._guard is None:
            self._guard = Guard()
        for program in programs:
            log = self._log_folder / f"{program.name}.log"
            if log.exists():
                log.replace(log.with_suffix(".previous.log"))
            self._children[program.name] = _Child(program, log)
        self._stages.append([program.name for program in programs])
        for program in programs:
            self._spawn(self._children[program.name])

    def _spawn(self, child: _Child) -> None:
        program = child.program
        child.expected_to_end = False
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                program.argv,
                env=dict(program.env),
                cwd=program.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own group, so that Ctrl-C reaches the runner only
                user=program.user,
                group=None if program.user is None else pwd.getpwnam(program.user).pw_gid,
                extra_groups=None if program.user is None else [],
                preexec_fn=_die_with_runner(program.death_signal),  # noqa: PLW1509 - one prctl call, no locks
            )
        assert self._guard is not None
        self._guard.watch(child.process.pid)

    async def _until_ready(self, child: _Child) -> None:
        program, started = child.program, time.monotonic()
        deadline = started + program.ready_within_s
        while True:
            if not child.running:
                child.expected_to_end = True  # told here, once
                raise self._death(child)
            if program.ready is None or await program.ready():
                break
            if time.monotonic() > deadline:
                raise NotReadyError(program.name, program.ready_within_s, child.log, self.tail(program.name))
            await asyncio.sleep(POLL_S)
        self._progress(program.name, time.monotonic() - started)

    async def _until_finished(self, child: _Child) -> None:
        program, started = child.program, time.monotonic()
        child.expected_to_end = True
        if not await wait_until(lambda: not child.running, program.ready_within_s):
            raise NotReadyError(program.name, program.ready_within_s, child.log, self.tail(program.name))
        assert child.process is not None
        if child.process.returncode != 0:
            raise self._death(child)
        self._progress(program.name, time.monotonic() - started)

    async def _stop_one(self, child: _Child) -> None:
        process = child.process
        if process is None:
            return
        child.expected_to_end = True
        if child.running:
            os.kill(process.pid, child.program.stop_signal)
            os.kill(process.pid, signal.SIGCONT)  # a frozen process cannot hear the request to stop
            await wait_until(lambda: not child.running, child.program.stop_within_s)
        # What the child left behind in its group, and the child itself if it would not stop.
        _signal_group(child, signal.SIGKILL)
        process.wait(timeout=5)
        if self._guard is not None:
            self._guard.forget(process.pid)
        child.process = None

    def _death(self, child: _Child) -> ProcessDiedError:
        assert child.process is not None
        name = child.program.name
        return ProcessDiedError(name, child.process.returncode, child.log, self.tail(name))


async def _all(waits: Iterable[Coroutine[None, None, None]]) -> None:
    """Wait for all; the first failure ends the wait for the others and is raised as it is."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Wait until the condition holds and say whether it came to hold in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _signal_group(child: _Child, sig: signal.Signals) -> None:
    assert child.process is not None
    with contextlib.suppress(ProcessLookupError):  # the last of the group has just gone
        os.killpg(child.process.pid, sig)


def _die_with_runner(death_signal: signal.Signals) -> Callable[[], None] | None:
    """Make what a child does before exec: ask the kernel for a signal when the runner's thread ends.

    It runs after the change of user, which would clear the request. Linux only; elsewhere the guard alone
    does it.
    """
    if sys.platform != "linux":
        return None
    libc, runner_pid = ctypes.CDLL(None, use_errno=True), os.getpid()

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != runner_pid:  # the runner died before the request was heard
            os._exit(1)

    return ask_kernel
