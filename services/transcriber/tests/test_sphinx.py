"""The PocketSphinx pool: whatever happens to a worker, it is replaced and only its own request fails."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

from services.transcriber.speech import SpeechError
from services.transcriber.sphinx import PocketSphinxSpeech
from services.transcriber.tests.signals import meeting, silence
from services.transcriber.transcription import Transcription

SECOND = 32_000
MEETING = meeting()
SENTENCE = MEETING[int(0.2 * SECOND) : int(3.6 * SECOND)]
LONG = MEETING[: 40 * SECOND]


@pytest.fixture
async def pool() -> AsyncIterator[PocketSphinxSpeech]:
    engine = PocketSphinxSpeech(workers=2, waiting_max=1)
    await engine.start()
    yield engine
    await engine.close()


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        # One may end between two looks at it.
        with suppress(psutil.NoSuchProcess):
            if "services.transcriber.sphinx_worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


async def ask(engine: PocketSphinxSpeech, pcm: bytes = SENTENCE, *, deadline_s: float = 30.0) -> Transcription:
    return await engine.transcribe(pcm, language=None, prompt="", deadline_s=deadline_s)


async def until(holds: Callable[[], bool], *, within_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


def cpu_s(worker: psutil.Process) -> float:
    return worker.cpu_times().user


async def error_of(request: "asyncio.Task[Any]") -> SpeechError:
    with pytest.raises(SpeechError) as caught:
        await request
    return caught.value


@pytest.mark.req("R-STT-4")
async def test_a_killed_worker_fails_its_own_request_only_and_is_replaced(pool: PocketSphinxSpeech) -> None:
    used_s = {worker: cpu_s(worker) for worker in workers()}
    first = asyncio.create_task(ask(pool, LONG))
    await until(lambda: any(cpu_s(worker) > used_s[worker] + 0.1 for worker in used_s))
    victim = max(used_s, key=lambda worker: cpu_s(worker) - used_s[worker])
    second = asyncio.create_task(ask(pool))
    victim.kill()
    error = await error_of(first)
    assert (error.reason, error.retryable) == ("crashed", True)
    assert (await second).text.startswith("hello everyone")
    await until(lambda: len(workers()) == 2)
    assert victim.pid not in [worker.pid for worker in workers()]
    assert [(await ask(pool)).words[0].text for _ in range(3)] == ["hello"] * 3


@pytest.mark.req("R-STT-4")
async def test_a_hung_worker_is_killed_at_the_deadline_and_replaced(pool: PocketSphinxSpeech) -> None:
    hung = workers()
    for worker in hung:
        worker.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    error = await error_of(asyncio.create_task(ask(pool, deadline_s=0.5)))
    assert time.monotonic() - began < 3
    assert (error.reason, error.retryable) == ("timeout", True)
    await until(lambda: len({worker.pid for worker in hung} & {worker.pid for worker in workers()}) == 1)
    assert (await ask(pool)).text.startswith("hello everyone")


async def test_a_worker_that_dies_while_idle_costs_no_request(pool: PocketSphinxSpeech) -> None:
    dead = workers()
    for worker in dead:
        worker.kill()
    await until(lambda: not any(psutil.pid_exists(worker.pid) for worker in dead))
    # The event loop hears of it in its next turns.
    await asyncio.sleep(0.1)
    assert (await ask(pool)).text.startswith("hello everyone")


async def test_a_cancelled_request_frees_its_worker(pool: PocketSphinxSpeech) -> None:
    requests = [asyncio.create_task(ask(pool, LONG)) for _ in range(2)]
    await until(lambda: pool.idle_workers == 0)
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)
    assert all(request.cancelled() for request in requests)
    assert pool.idle_workers == 2
    assert (await ask(pool)).text.startswith("hello everyone")


async def test_requests_beyond_the_waiting_limit_are_refused(pool: PocketSphinxSpeech) -> None:
    taken = [asyncio.create_task(ask(pool, LONG)) for _ in range(2)]
    await until(lambda: pool.idle_workers == 0)
    waiting = asyncio.create_task(ask(pool))
    await asyncio.sleep(0)
    error = await error_of(asyncio.create_task(ask(pool)))
    assert (error.reason, error.retryable) == ("overloaded", True)
    for request in taken:
        request.cancel()
    assert (await waiting).text.startswith("hello everyone")


@pytest.mark.long
async def test_what_was_decoded_before_does_not_change_a_text() -> None:
    engine = PocketSphinxSpeech(workers=1)
    await engine.start()
    try:
        first = await ask(engine)
        for other in (LONG, silence(2), b"", bytes(7)):
            await ask(engine, other)
        assert await ask(engine) == first
    finally:
        await engine.close()


async def test_a_worker_has_low_priority_and_no_secrets(
    pool: PocketSphinxSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    await pool.close()
    await pool.start()
    assert all(worker.nice() == psutil.Process().nice() + 10 for worker in workers())
    assert all("SOME_API_KEY" not in worker.environ() for worker in workers())


async def test_a_model_that_does_not_fit_into_the_memory_limit_is_an_error_at_start() -> None:
    engine = PocketSphinxSpeech(workers=1, memory_limit_bytes=60 * 1024 * 1024)
    with pytest.raises(SpeechError) as caught:
        await engine.start()
    assert caught.value.reason == "crashed"
    assert workers() == []


async def test_closing_leaves_no_process_and_fails_who_waits(pool: PocketSphinxSpeech) -> None:
    requests = [asyncio.create_task(ask(pool, LONG)) for _ in range(3)]
    await until(lambda: pool.idle_workers == 0)
    await pool.close()
    assert {(await error_of(request)).reason for request in requests} <= {"crashed", "closed"}
    assert workers() == []
    assert pool.idle_workers == 0


def test_even_a_worker_that_hangs_dies_with_its_parent() -> None:
    program = (
        "import asyncio\n"
        "from services.transcriber.sphinx import PocketSphinxSpeech\n"
        "async def main():\n"
        "    await PocketSphinxSpeech(workers=1).start()\n"
        "    print('started', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"started\n"
        [worker] = psutil.Process(parent.pid).children()
        worker.send_signal(signal.SIGSTOP)
        parent.kill()
    gone, _ = psutil.wait_procs([worker], timeout=10)
    try:
        assert gone or worker.status() == psutil.STATUS_ZOMBIE
    finally:
        if worker.is_running():
            worker.kill()
