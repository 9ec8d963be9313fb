"""The embedded speech engine: PocketSphinx in processes of its own.

Decoding is native code that takes as long as it likes, so it runs where it can be killed, and where its
memory has a limit. English only: its model is the one that comes with the package.
"""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any, Literal

import orjson

from services.transcriber.cutting import BYTES_PER_SECOND
from services.transcriber.speech import SpeechError
from services.transcriber.transcription import Transcription, Word

_ANSWER_BYTES_MAX = 1024 * 1024
# A killed process is gone at once, unless the kernel has it in a wait that nothing ends.
_REAP_TIMEOUT_S = 5.0


class PocketSphinxSpeech:
    """A pool of `workers` processes, each with one request at a time. Writes drafts.

    At most `waiting_max` requests wait for a worker; more are refused. A request that is cancelled, is over
    its deadline or loses its worker fails alone: the worker is killed and another one loads its model in
    its place (about half a second). Call it from the main thread, because a worker dies with the thread
    that started it.
    """

    quality: Literal["final", "draft"] = "draft"

    def __init__(
        self,
        *,
        workers: int,
        memory_limit_bytes: int = 768 * 1024 * 1024,
        waiting_max: int = 64,
        audio_s_max: float = 60.0,
        start_timeout_s: float = 60.0,
        niceness: int = 10,
        name: str = "pocketsphinx",
    ) -> None:
        if workers < 1:
            raise ValueError("workers must be at least 1")
        self.name = name
        self._audio_bytes_max = int(audio_s_max * BYTES_PER_SECOND)
        self._waiting_max = waiting_max
        self._waiting = 0
        self._workers = [
            _Worker(
                start_timeout_s,
                {
                    "memory-bytes-max": memory_limit_bytes,
                    "audio-bytes-max": self._audio_bytes_max,
                    "niceness": niceness,
                },
            )
            for _ in range(workers)
        ]
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue(maxsize=workers)
        self._open = False

    @property
    def idle_workers(self) -> int:
        """How many requests could begin right now."""
        return self._idle.qsize() if self._open else 0

    async def start(self) -> None:
        """Start the workers and wait until they have their models. Raises `SpeechError`."""
        self._idle = asyncio.LifoQueue(maxsize=len(self._workers))
        self._open = True
        for worker in self._workers:
            worker.begin()
        try:
            for worker in self._workers:
                await worker.ready()
                self._idle.put_nowait(worker)
        except SpeechError:
            await self.close()
            raise

    async def close(self) -> None:
        """Kill the workers; requests that are under way fail."""
        self._open = False
        for worker in self._workers:
            await worker.stop()

    async def transcribe(self, pcm: bytes, *, language: str | None, prompt: str, deadline_s: float) -> Transcription:
        """See `SpeechEngine`. `language` and `prompt` change nothing here."""
        del language, prompt
        if len(pcm) > self._audio_bytes_max:
            raise SpeechError("the audio is too long", retryable=False, reason="too_large")
        self._check_open()
        try:
            async with asyncio.timeout(deadline_s):
                worker = await self._take_worker()
                try:
                    self._check_open()
                    await worker.ready()
                    answer = await worker.ask(pcm)
                finally:
                    self._give_back(worker)
        except TimeoutError as error:
            raise SpeechError("no text within the deadline", retryable=True, reason="timeout") from error
        return _transcription(answer)

    def _check_open(self) -> None:
        if not self._open:
            raise SpeechError("the engine is closed", retryable=False, reason="closed")

    async def _take_worker(self) -> "_Worker":
        if self._waiting >= self._waiting_max and self._idle.empty():
            raise SpeechError("too many requests wait", retryable=True, reason="overloaded")
        self._waiting += 1
        try:
            return await self._idle.get()
        finally:
            self._waiting -= 1

    def _give_back(self, worker: "_Worker") -> None:
        if self._open:
            worker.replace_if_broken()
        self._idle.put_nowait(worker)


class _Worker:
    """One place in the pool, and the process that fills it at the moment."""

    def __init__(self, start_timeout_s: float, options: dict[str, int]) -> None:
        self._start_timeout_s = start_timeout_s
        self._command = [sys.executable, "-m", "services.transcriber.sphinx_worker"]
        for name, value in options.items():
            self._command += [f"--{name}", str(value)]
        self._starting: asyncio.Task[Process] | None = None
        self._answer_is_due = False
        self._killed: list[Process] = []

    def begin(self) -> None:
        """Start a process, unless one is starting or running."""
        if self._starting is None or self._has_died(self._starting):
            self._answer_is_due = False
            self._starting = asyncio.create_task(self._start())
            # Who needs the worker next starts it again and is told why it fails; nobody has to be told
            # before.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def ready(self) -> Process:
        """Return the process once it has its model; cancelling leaves its start going on.

        Raises `SpeechError`.
        """
        self.begin()
        assert self._starting
        return await asyncio.shield(self._starting)

    async def ask(self, pcm: bytes) -> dict[str, Any]:
        """Return the process's answer. Raises `SpeechError` if the process dies first."""
        process = await self.ready()
        assert process.stdin
        self._answer_is_due = True
        try:
            process.stdin.write(len(pcm).to_bytes(4) + pcm)
            await process.stdin.drain()
            answer = await _read_answer(process)
        except (OSError, EOFError, ValueError) as error:
            raise SpeechError("the worker died", retryable=True, reason="crashed") from error
        self._answer_is_due = False
        return answer

    def replace_if_broken(self) -> None:
        """Start another process if this one is dead or still has to answer somebody who has gone."""
        if self._answer_is_due:
            self._kill_running()
        self.begin()

    async def stop(self) -> None:
        """Kill the process and wait, for a bounded time, until it and those before it are gone."""
        if self._starting:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        self._kill_running()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REAP_TIMEOUT_S):
                await asyncio.gather(*(process.wait() for process in self._killed))

    def _kill_running(self) -> None:
        starting, self._starting = self._starting, None
        if starting and starting.done() and not starting.cancelled() and not starting.exception():
            self._kill(starting.result())

    def _kill(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        self._killed = [killed for killed in self._killed if killed.returncode is None]
        self._killed.append(process)

    async def _start(self) -> Process:
        # The worker gets the path to our code and nothing else of the environment: it needs no secrets.
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, "--parent", str(os.getpid()), stdin=PIPE, stdout=PIPE, env=environment
            )
        except OSError as error:  # there is no memory for it, or no process to be had
            raise SpeechError("the worker could not be started", retryable=True, reason="crashed") from error
        loaded = False
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await _read_answer(process)
            loaded = True
        except (TimeoutError, OSError, EOFError, ValueError) as error:
            raise SpeechError("the worker did not start", retryable=True, reason="crashed") from error
        finally:
            if not loaded:
                self._kill(process)
        return process

    @staticmethod
    def _has_died(starting: asyncio.Task[Process]) -> bool:
        if not starting.done():
            return False
        failed = starting.cancelled() or starting.exception() is not None
        return failed or starting.result().returncode is not None


async def _read_answer(process: Process) -> dict[str, Any]:
    assert process.stdout
    length = int.from_bytes(await process.stdout.readexactly(4))
    if length > _ANSWER_BYTES_MAX:
        raise ValueError("the worker's answer is too long")
    answer: dict[str, Any] = orjson.loads(await process.stdout.readexactly(length))
    return answer


def _transcription(answer: dict[str, Any]) -> Transcription:
    words = tuple(Word(*word) for word in answer["words"])
    # The mean of the words' posteriors: on the bundled recording it falls with the word error rate as noise
    # grows.
    confidence = sum(word.probability or 0.0 for word in words) / len(words) if words else None
    return Transcription(text=" ".join(word.text for word in words), words=words, confidence=confidence, language="en")
