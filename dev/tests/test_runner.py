"""The runner against small real processes."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from dev.runner import NotReadyError, ProcessDiedError, Program, Runner

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text('deaf now')
time.sleep(60)
"""
PARENT = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""
NOTED_STOP = """
import pathlib, signal, sys, time
def stop(*_):
    with open(sys.argv[1], 'a') as file:
        file.write(sys.argv[2] + '\\n')
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print('up', flush=True)
time.sleep(60)
"""


def python(name: str, code: str, *args: object, says_up: Path | None = None, **more: object) -> Program:
    argv = [sys.executable, "-c", code, *map(str, args)]
    return Program(name, argv, os.environ, ROOT, ready=written(says_up), **more)  # type: ignore[arg-type]


def written(path: Path | None) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return path is None or bool(await asyncio.to_thread(content, path))

    return ready


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def until(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[Runner]:
    runner = Runner(tmp_path / "logs")
    yield runner
    await runner.stop()


async def test_children_stop_in_reverse_order_of_their_stages(runner: Runner, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for name in ("first", "second"):
        await runner.start(python(name, NOTED_STOP, order, name, says_up=tmp_path / "logs" / f"{name}.log"))
    pids = [runner.pid("first"), runner.pid("second")]
    await runner.stop()
    assert order.read_text().split() == ["second", "first"]
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)


async def test_stopping_twice_is_harmless(runner: Runner) -> None:
    await runner.start(python("one", SLEEPER))
    await runner.stop()
    await runner.stop()
    assert runner.running() == []


async def test_what_ignores_the_request_to_stop_is_killed_in_time(runner: Runner, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    await runner.start(python("stubborn", STUBBORN, flag, says_up=flag, stop_within_s=0.3))
    started = time.monotonic()
    await runner.stop()
    assert 0.3 <= time.monotonic() - started < 3


async def test_a_frozen_child_can_be_stopped(runner: Runner) -> None:
    await runner.start(python("frozen", SLEEPER, stop_within_s=5))
    pid = runner.pid("frozen")
    assert pid is not None
    runner.kill("frozen", signal.SIGSTOP)
    started = time.monotonic()
    await runner.stop()
    assert time.monotonic() - started < 4
    assert not psutil.pid_exists(pid)


async def test_a_stopped_child_takes_its_own_children_along(runner: Runner, tmp_path: Path) -> None:
    noted = tmp_path / "grandchild"
    await runner.start(python("parent", PARENT, noted, says_up=noted))
    grandchild = int(noted.read_text())
    await runner.stop()
    assert until(lambda: gone(grandchild))


async def test_a_killed_child_is_restarted_under_its_name(runner: Runner, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "one.log"
    await runner.start(python("one", SLEEPER, says_up=log))
    before = runner.pid("one")
    runner.kill("one")
    assert await runner.ended("one", 5) == -signal.SIGKILL
    await runner.restart("one")
    assert runner.pid("one") not in (None, before)
    assert log.read_text().count("up") >= 1


async def test_an_unexpected_death_is_noticed_with_its_log(runner: Runner) -> None:
    await runner.start(python("steady", SLEEPER), python("weak", "print('I fall'); raise SystemExit(7)"))
    death = await asyncio.wait_for(runner.died(), 5)
    assert (death.name, death.exit_code) == ("weak", 7)
    assert "I fall" in death.tail
    assert runner.running() == ["steady"]


async def test_a_death_that_was_ordered_is_not_unexpected(runner: Runner) -> None:
    await runner.start(python("one", SLEEPER))
    runner.kill("one")
    await runner.ended("one", 5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runner.died(), 0.3)


async def test_a_death_before_readiness_ends_the_start_and_shows_the_log(runner: Runner, tmp_path: Path) -> None:
    never = tmp_path / "never"
    with pytest.raises(ProcessDiedError) as caught:
        await runner.start(python("broken", "print('no such table'); raise SystemExit(3)", says_up=never))
    assert caught.value.exit_code == 3
    assert "no such table" in caught.value.tail


async def test_readiness_has_a_deadline(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"slow was not ready within 0\.2 s"):
        await runner.start(python("slow", SLEEPER, says_up=tmp_path / "never", ready_within_s=0.2))


async def test_children_hear_no_ctrl_c_of_the_terminal(runner: Runner) -> None:
    await runner.start(python("one", SLEEPER))
    pid = runner.pid("one")
    assert pid is not None
    assert os.getpgid(pid) == pid != os.getpgrp()


async def test_the_console_names_the_child_of_each_line(runner: Runner, tmp_path: Path) -> None:
    await runner.start(python("talker", SLEEPER, says_up=tmp_path / "logs" / "talker.log"))
    console = io.StringIO()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runner.follow(console), 0.5)
    assert console.getvalue() == "talker        | up\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a child as another user")
async def test_a_child_runs_as_another_user_without_groups_of_root(runner: Runner, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "other.log"
    argv = ["/bin/sh", "-c", "id -u; id -G; exec sleep 60"]
    await runner.start(Program("other", argv, os.environ, Path("/"), ready=written(log), user="nobody"))
    assert until(lambda: content(log).split() == ["65534", "65534"])


RUNNER_SCRIPT = """
import asyncio, sys
from pathlib import Path
from dev.tests.test_runner import PARENT, SLEEPER, STUBBORN, python
from dev.runner import Runner

async def main() -> None:
    folder = Path(sys.argv[1])
    runner = Runner(folder / "logs")
    await runner.start(python("plain", SLEEPER), python("stubborn", STUBBORN, folder / "flag"))
    await runner.start(python("parent", PARENT, folder / "grandchild", says_up=folder / "grandchild"))
    guard = runner._guard.pid
    pids = [runner.pid(name) for name in runner.running()] + [guard, int((folder / "grandchild").read_text())]
    (folder / "pids.tmp").write_text(" ".join(map(str, pids)))
    (folder / "pids.tmp").rename(folder / "pids")
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.req("R-RUN-1")
def test_a_runner_killed_with_sigkill_leaves_no_process(tmp_path: Path) -> None:
    victim = subprocess.Popen([sys.executable, "-c", RUNNER_SCRIPT, str(tmp_path)], cwd=ROOT)
    assert until((tmp_path / "pids").exists, 15)
    pids = [int(pid) for pid in content(tmp_path / "pids").split()]
    assert len(pids) == 5
    assert not any(gone(pid) for pid in pids)
    victim.kill()
    victim.wait(timeout=5)
    assert until(lambda: all(gone(pid) for pid in pids))
